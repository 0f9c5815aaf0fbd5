"""The paths that a strategy may still propose, in batches: vectorised, so that tight limits stay cheap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import cached_property

import numpy as np

from ..spaces import Limits, Path, Space

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

    def draw(self, generator: np.random.Generator, seen: Set[Path]) -> Path:
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
        return generator.integers(0, self.space.num_choices, size=(_BATCH, self.space.num_positions))

    def _allowed(self, paths: np.ndarray) -> np.ndarray:
        return paths[self.limits.allow(self.space, paths)]

    @cached_property
    def _listed(self) -> np.ndarray | None:
        """All paths of the pool, [N, L], or None if they are too many."""
        if self.limits == Limits() and self.space.size > _LISTED:
            return None
        table = self.space.cost_table
        # A beginning is dropped if its cheapest completion exceeds a limit.
        checks = [(Limits(max_params=self.limits.max_params), table.params)]
        checks += [(Limits(max_macs=self.limits.max_macs), table.macs)]
        cheapest = [
            (limits, np.array([row[:m].argmin() for row, m in zip(costs, self.space.num_choices, strict=True)]))
            for limits, costs in checks
        ]
        paths = np.zeros((1, self.space.num_positions), dtype=np.int64)
        for position, m in enumerate(self.space.num_choices):
            paths = np.tile(paths, m).reshape(-1, self.space.num_positions)  # each path m times, one below the other
            paths[:, position] = np.arange(len(paths)) % m
            for limits, completion in cheapest:
                completed = np.where(np.arange(self.space.num_positions) <= position, paths, completion)
                paths = paths[limits.allow(self.space, completed)]
            if len(paths) > _LISTED:
                return None
        return paths


def first_unseen(paths: np.ndarray, seen: Set[Path]) -> Path | None:
    """Return the first of ``paths`` [N, L] that is not in ``seen``, None if there is none."""
    rows = (tuple(row.tolist()) for row in paths)
    return next((path for path in rows if path not in seen), None)
