"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

__all__ = ['Progress']


class Progress:
    """Shows how far a stage is."""

    def __init__(
        self, title: str, total: int, initial: int = 0, unit: str = 'step', line_seconds: float = 30.0
    ) -> None:
        """Start showing.

        Args:
            title: What is being done.
            total: Number of units to do, those before ``initial`` included.
            initial: Units that were done before.
            unit: Name of a unit.
            line_seconds: Time between lines in a log.
        """
        self.title, self.total, self.unit, self.line_seconds = title, total, unit, line_seconds
        self.count = self.initial = initial
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=initial, desc=title, unit=unit, dynamic_ncols=True)
        elif initial:
            print(f'{title}: resuming at {unit} {initial} of {total}', file=sys.stderr, flush=True)

    def update(self, note: str = '') -> None:
        """Count one more unit.

        Args:
            note: Newest figures.
        """
        self.count += 1
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
            return
        now = time.monotonic()
        if now - self.last_line >= self.line_seconds or self.count == self.total:
            self.last_line = now
            rate = (self.count - self.initial) / max(now - self.start, 1e-9)
            left = tqdm.format_interval((self.total - self.count) / max(rate, 1e-9))
            print(
                f'{self.title}: {self.count}/{self.total} {self.unit}s, {rate:.2f} {self.unit}s/s, {left} left  {note}',
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
