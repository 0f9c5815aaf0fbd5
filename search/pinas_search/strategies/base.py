"""The boundary between a search strategy and everything else: ``ask`` for a path, ``tell`` its score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from ..spaces import Limits, Path, Space

__all__ = ['SpaceExhaustedError', 'Strategy']


class SpaceExhaustedError(ValueError):
    """Every path that satisfies the limits was asked for already."""


class Strategy(ABC):
    """Proposes candidates. Deterministic given the seed and the history; never proposes a path twice.

    A subclass implements ``_propose``. ``restore`` rebuilds the state by replaying a history, so resuming needs no other
    state than the (path, score) pairs.
    """

    def __init__(self, space: Space, *, seed: int, limits: Limits | None = None) -> None:
        """Start with an empty history.

        Args:
            space: The space.
            seed: Seed of everything random in the strategy.
            limits: Largest allowed cost; no limit if None.

        Raises:
            ValueError: If no path can satisfy the limits.
        """
        self.space = space
        self.seed = seed
        self.limits = limits or Limits()
        self.limits.check(space)
        self.history: list[tuple[Path, float]] = []
        self.seen: set[Path] = set()
        """Every path asked for or told: evaluated or pending."""

    @abstractmethod
    def _propose(self) -> Path:
        """Return a path that satisfies the limits and is not in ``seen``."""

    def ask(self) -> Path:
        """Propose the next candidate.

        Raises:
            SpaceExhaustedError: If no path is left.
        """
        path = self._propose()
        self.seen.add(path)
        return path

    def tell(self, path: Sequence[int], score: float) -> None:
        """Report a candidate's score; bigger is better. Paths that were never asked for are welcome.

        Raises:
            ValueError: If the path is not in the space.
        """
        checked = self.space.validate(path)
        self.seen.add(checked)
        self.history.append((checked, float(score)))

    def restore(self, history: Iterable[tuple[Sequence[int], float]]) -> None:
        """Replay a history, so that the next ``ask`` is the one an uninterrupted search would have made."""
        for path, score in history:
            self.ask()
            self.tell(path, score)
