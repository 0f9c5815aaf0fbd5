"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

__all__ = ['Progress']


class Progress:
    """Shows on the standard error how far a work is."""

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int = 0,
        unit: str = 'image',
        seconds: float = 30.0,
        *,
        shown: bool = True,
    ) -> None:
        """Start showing.

        Args:
            title: What is being done.
            total: Number of units to do, ``done`` included; None if it is not known.
            done: Units that were done before.
            unit: Name of a unit.
            seconds: Time between lines in a log.
            shown: Off: count only, because another process shows the same.
        """
        self.title, self.total, self.unit, self.seconds, self.shown = title, total, unit, seconds, shown
        self.count = self.done = done
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if not shown:
            return
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=title, unit=unit, dynamic_ncols=True)
        elif done:
            print(f'{title}: going on after {done} {unit}s', file=sys.stderr, flush=True)

    def update(self, units: int = 1, note: str = '') -> None:
        """Count more units.

        Args:
            units: How many.
            note: Newest figures.
        """
        self.count += units
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(units)
            return
        now = time.monotonic()
        if not self.shown:
            return
        if now - self.last_line < self.seconds and self.count != self.total:
            return
        self.last_line = now
        rate = (self.count - self.done) / max(now - self.start, 1e-9)
        how_far = f'{self.count} {self.unit}s, {rate:.2f} {self.unit}s/s'
        if self.total is not None:
            left = tqdm.format_interval((self.total - self.count) / max(rate, 1e-9))
            how_far = f'{self.count}/{self.total} {self.unit}s, {rate:.2f} {self.unit}s/s, {left} left'
        print(f'{self.title}: {how_far}  {note}'.rstrip(), file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
