"""A predictor without a supernet: the larger a network, the better. The ranking to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces import ChoicePath, Space
from .base import Score, Tools

__all__ = ['NEEDS', 'CostScorer', 'Options', 'create']

NEEDS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Options:
    """Options of the scorer.

    Attributes:
        name: Which cost: ``params``, ``macs``, or another one that the space knows.
    """

    name: str = 'params'


class CostScorer:
    """Scores a path by one of its costs."""

    def __init__(self, space: Space, name: str) -> None:
        """Choose the cost.

        Raises:
            ValueError: If the space has no such cost.
        """
        if name not in space.cost_names:
            raise ValueError(f'search.scorer: {space.name} has no cost {name!r}, it has {", ".join(space.cost_names)}')
        self.space, self.name = space, name
        self.facts: dict[str, object] = {}

    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Score paths by their cost."""
        return [Score(float(value)) for value in self.space.costs(np.array(paths))[self.name]]


def create(tools: Tools, options: Options) -> CostScorer:
    """Build the scorer."""
    return CostScorer(tools.space, options.name)
