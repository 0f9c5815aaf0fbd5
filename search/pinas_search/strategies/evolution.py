"""Evolution with mutation and crossover, as SPOS searches (Guo et al., ECCV 2020, ``src/Search/search.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..config.types import Fraction, NonNegativeInt, PositiveInt
from ..spaces import ChoicePath, Limits, Space
from .base import Observation, Proposal, Seen, Strategy

__all__ = ['Evolution', 'Options', 'create']

_TRIES = 200


@dataclass(frozen=True)
class Options:
    """Options of the evolution; the defaults are the authors' of SPOS.

    Attributes:
        population: Candidates of a generation; the first one is random.
        parents: The best candidates so far, of which the next generation descends.
        mutations: Candidates of a generation that are mutants; the others are crossovers.
        probability: Probability that a mutation changes a position.
    """

    population: PositiveInt = 50
    parents: PositiveInt = 10
    mutations: NonNegativeInt = 25
    probability: Fraction = 0.1


class Evolution(Strategy):
    """Generations of mutants and crossovers of the best that earlier generations have found."""

    default_options = Options()

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Propose the next child; a random path in the first generation or when no new child is found."""
        number, population = len(history) + len(pending), self.options.population
        # Only whole generations have children, so that it does not matter in which order workers finish one.
        elders = history[: number // population * population]
        if number < population or not elders:
            return Proposal(self.pool.draw(generator, seen))
        # Stable: equal values keep the order of evaluation.
        best = sorted(elders, key=lambda observation: -observation.value)[: self.options.parents]
        parents = np.array([observation.path for observation in best])
        for child in self._children(parents, number % population < self.options.mutations, generator):
            if child not in seen and self.limits.allow(self.space, np.array([child]))[0]:
                return Proposal(child)
        return Proposal(self.pool.draw(generator, seen))

    def _children(self, parents: np.ndarray, mutate: bool, generator: np.random.Generator) -> Iterator[ChoicePath]:
        for _ in range(_TRIES):
            if mutate:
                child = parents[generator.integers(len(parents))].copy()
                for position in np.flatnonzero(generator.random(len(child)) < self.options.probability):
                    child[position] = generator.choice(self.space.allowed[position])
            else:
                mother, father = parents[generator.integers(len(parents), size=2)]
                child = np.where(generator.random(len(mother)) < 0.5, mother, father)
            yield tuple(child.tolist())


def create(space: Space, options: Options, limits: Limits) -> Evolution:
    """Build the strategy."""
    return Evolution(space, limits, options)
