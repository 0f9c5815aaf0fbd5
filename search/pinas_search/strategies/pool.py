"""The paths that a strategy may still propose, in batches: vectorised, so that tight limits stay cheap."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cached_property

import numpy as np

from ..spaces import AdditiveSpace, ChoicePath, Limits, Space

__all__ = ['PathPool', 'SpaceExhaustedError', 'first_unseen']

_BATCH = 4096
# A pool of at most this many paths is listed. Of 4^16 paths, a limit that leaves more leaves at least one in 65,536,
# which random batches find: while half of those are unseen, 2000 batches miss them all with probability exp(-62). Only
# two limits that exclude each other nearly everywhere, or a much larger space, can leave paths that are never found.
_LISTED = 65_536
_BATCHES = 2000


class SpaceExhaustedError(ValueError):
    """Every path that satisfies the limits was asked for already."""


class PathPool:
    """The paths of a space that satisfy the limits."""

    def __init__(self, space: Space, limits: Limits) -> None:
        """Define the pool; nothing is computed yet.

        Args:
            space: The space.
            limits: Largest allowed cost.
        """
        self.space = space
        self.limits = limits

    def batches(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Give paths in uniformly random order, a batch at a time.

        Args:
            generator: Source of the random numbers.

        Yields:
            Paths [N, L] with N of 0 to 4096. A pool of up to 65,536 paths is gone through once, without repeats; a
            larger one gives 2000 batches.
        """
        if self._listed is not None:
            order = generator.permutation(len(self._listed))
            for start in range(0, len(order), _BATCH):
                yield self._listed[order[start : start + _BATCH]]
        else:
            for _ in range(_BATCHES):
                yield self._allowed(self._uniform(generator))

    def draw(self, generator: np.random.Generator, seen: Container[ChoicePath]) -> ChoicePath:
        """Draw one path uniformly from those that are not in ``seen``.

        Raises:
            SpaceExhaustedError: If there is none.
        """
        for batch in self.batches(generator):
            path = first_unseen(batch, seen)
            if path is not None:
                return path
        if self._listed is not None:
            raise SpaceExhaustedError(
                f'{len(self._listed):,} paths of {self.space.name} satisfy {self.limits}, and all were proposed already'
            )
        raise SpaceExhaustedError(
            f'{_BATCHES * _BATCH:,} random paths of {self.space.name} hold no new one that satisfies {self.limits}'
        )

    def mutants(self, path: Sequence[int], generator: np.random.Generator) -> np.ndarray:
        """Draw paths [N, L] near a given one, those with the fewest changes first; N may be 0."""
        fresh = self._uniform(generator)
        mutants = np.where(generator.random(fresh.shape) < 2 / self.space.num_positions, fresh, path)
        mutants = self._allowed(mutants)
        return mutants[np.argsort((mutants != path).sum(axis=1), kind='stable')]

    def _uniform(self, generator: np.random.Generator) -> np.ndarray:
        columns = [np.array(choices) for choices in self.space.allowed]
        drawn = generator.integers(0, list(map(len, columns)), size=(_BATCH, len(columns)))
        return np.stack([choices[drawn[:, i]] for i, choices in enumerate(columns)], axis=1)

    def _allowed(self, paths: np.ndarray) -> np.ndarray:
        return paths[self.limits.allow(self.space, paths)]

    @cached_property
    def _listed(self) -> np.ndarray | None:
        """All paths of the pool, [N, L], or None if they are too many."""
        if not self.limits and self.space.size > _LISTED:
            return None
        if not isinstance(self.space, AdditiveSpace) and self.space.size > _LISTED:
            return None  # nothing is known of a path before it is complete
        paths: np.ndarray = np.zeros((1, self.space.num_positions), dtype=np.int64)
        for position, choices in enumerate(self.space.allowed):
            # Each path once per choice, one below the other.
            paths = np.repeat(paths, len(choices), axis=0)
            paths[:, position] = np.tile(choices, len(paths) // len(choices))
            if isinstance(self.space, AdditiveSpace):
                paths = paths[self._can_be_completed(self.space, paths, position)]
            if len(paths) > _LISTED:
                return None
        return self._allowed(paths)

    def _can_be_completed(self, space: AdditiveSpace, paths: np.ndarray, position: int) -> np.ndarray:
        """Say of which paths [N, L] the beginning up to ``position`` can satisfy each limit, bool [N]."""
        possible = np.ones(len(paths), dtype=bool)
        for name, value in self.limits.largest.items():
            completed = np.where(np.arange(space.num_positions) <= position, paths, space.cheapest(name))
            possible &= Limits({name: value}).allow(space, completed)
        return possible


def first_unseen(paths: np.ndarray, seen: Container[ChoicePath]) -> ChoicePath | None:
    """Return the first of ``paths`` [N, L] that is not in ``seen``, None if there is none."""
    rows = (tuple(row.tolist()) for row in paths)
    return next((path for path in rows if path not in seen), None)
