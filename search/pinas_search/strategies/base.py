"""The boundary between a search strategy and everything else: ``ask`` for a path, ``tell`` its score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from ..randomness import derive_seed
from ..spaces import Limits, Path, Space
from .pool import PathPool, SpaceExhaustedError

__all__ = ['SpaceExhaustedError', 'Strategy']


class Strategy(ABC):
    """Proposes candidates. Deterministic given the seed and the history; never proposes a path twice.

    A subclass implements ``_propose`` as a function of ``seed``, ``history`` and ``seen`` alone, so resuming needs
    no other state than the (path, score) pairs. One that keeps further state overrides ``restore``.

    Attributes:
        space: The space.
        seed: Seed of everything random in the strategy.
        limits: Largest allowed cost.
        history: Paths and scores in the order they were told.
        seen: Every path asked for or told: evaluated or pending.
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
        self._pool = PathPool(space, self.limits)

    @abstractmethod
    def _propose(self) -> Path:
        """Return a path that satisfies the limits and is not in ``seen``."""

    @property
    def pending(self) -> list[Path]:
        """Paths asked for and not told yet, sorted."""
        return sorted(self.seen.difference(path for path, _ in self.history))

    def ask(self) -> Path:
        """Propose the next candidate. Several may be asked for before the first is told, one per worker.

        Raises:
            SpaceExhaustedError: If no path is left.
        """
        path = self._propose()
        self.seen.add(path)
        return path

    def tell(self, path: Sequence[int], score: float) -> None:
        """Report a candidate's score; bigger is better. Paths that were never asked for are welcome.

        Raises:
            ValueError: If the path is not in the space or the score is not a number.
        """
        checked, score = self.space.validate(path), float(score)
        if math.isnan(score):
            raise ValueError(
                f'the score of {self.space.encode(checked)} is NaN, which has no rank; '
                'report -inf for a candidate that failed'
            )
        self.seen.add(checked)
        self.history.append((checked, score))

    def restore(self, history: Iterable[tuple[Sequence[int], float]]) -> None:
        """Take over a history, so that the next ``ask`` is the one an uninterrupted search would have made.

        What was pending when the search stopped is forgotten and may be proposed again.

        Raises:
            ValueError: If a path is not in the space or a score is not a number.
        """
        for path, score in history:
            self.tell(path, score)

    def _generator(self) -> np.random.Generator:
        """Fresh random numbers for the next proposal: a function of the seed and of how many paths were seen."""
        return np.random.default_rng(derive_seed(self.seed, 'strategy', len(self.seen)))
