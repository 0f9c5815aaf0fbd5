"""Random search, the baseline of every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces import Limits, Space
from .base import Observation, Proposal, Seen, Strategy

__all__ = ['Options', 'RandomStrategy', 'create']


@dataclass(frozen=True)
class Options:
    """Random search has no options."""


class RandomStrategy(Strategy):
    """Uniform over the paths that satisfy the limits, without repeats."""

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Draw a path."""
        return Proposal(self.pool.draw(generator, seen))


def create(space: Space, options: Options, limits: Limits) -> RandomStrategy:
    """Build the strategy."""
    return RandomStrategy(space, limits)
