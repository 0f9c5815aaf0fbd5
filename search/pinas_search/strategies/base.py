"""The boundary between a search strategy and everything else: from what is known to the next path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from ..randomness import derive_seed
from ..spaces import ChoicePath, Limits, Space
from .pool import PathPool, SpaceExhaustedError

__all__ = ['Observation', 'Proposal', 'Proposer', 'Seen', 'SpaceExhaustedError', 'Strategy']


class Observation(NamedTuple):
    """A path that was scored.

    Attributes:
        path: The path.
        value: Its score; bigger is better, -inf for one that failed.
        notes: What the strategy noted when it proposed the path; empty for a path from elsewhere.
    """

    path: ChoicePath
    value: float
    notes: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Proposal:
    """A path to score next.

    Attributes:
        path: The path.
        notes: What the strategy wants to find again in the history, in the types of JSON.
    """

    path: ChoicePath
    notes: Mapping[str, Any] = field(default_factory=dict)


class Strategy(ABC):
    """Proposes candidates. It keeps no state: a proposal is a function of what it is given, so any search can resume.

    A new strategy is one module with a subclass, a dataclass ``Options`` and a function
    ``create(space, options, limits) -> Strategy``; ``search.strategy`` names the module. Something costly that is
    computed from the history may be kept, as long as it would come out the same.

    Attributes:
        space: The space.
        limits: Largest allowed costs.
        options: Its options.
        pool: The paths that satisfy the limits.
    """

    default_options: ClassVar[Any] = None

    def __init__(self, space: Space, limits: Limits | None = None, options: Any = None) -> None:
        """Define the paths that may be proposed.

        Args:
            space: The space.
            limits: Largest allowed costs; no limit if None.
            options: Options of the strategy; the default ones if None.

        Raises:
            ValueError: If no path can satisfy the limits.
        """
        self.space = space
        self.limits = limits or Limits()
        self.limits.check(space)
        self.options = self.default_options if options is None else options
        self.pool = PathPool(space, self.limits)

    @abstractmethod
    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Propose a path that satisfies the limits and is not in ``seen``.

        Args:
            history: What was scored, in the order in which it was told.
            pending: What was asked for and not told yet.
            seen: Tells which paths are known: those of both.
            generator: Random numbers of this proposal.

        Raises:
            SpaceExhaustedError: If no path is left.
        """


class Seen:
    """The paths that were proposed or scored already, or the functions of those."""

    def __init__(self, space: Space, equivalents: bool = False) -> None:
        """Begin with none.

        Args:
            space: The space.
            equivalents: Count a path as seen when one with the same function was.
        """
        self._key = space.canonical if equivalents else tuple
        self._keys: set[tuple[int, ...]] = set()

    def add(self, path: Sequence[int]) -> None:
        """Count a path as seen."""
        self._keys.add(self._key(path))

    def __contains__(self, path: object) -> bool:
        return self._key(cast(ChoicePath, path)) in self._keys

    def __len__(self) -> int:
        return len(self._keys)


class Proposer:
    """The side of the search loop: it keeps history and pending proposals, and asks a strategy.

    Attributes:
        history: What was told.
        pending: What was asked for and not told, by path.
        seen: The paths of both.
    """

    def __init__(self, strategy: Strategy, *, seed: int, skip_equivalents: bool = False) -> None:
        """Start with an empty history.

        Args:
            strategy: The strategy.
            seed: Seed of everything random in the proposals.
            skip_equivalents: Propose no path with the function of one before, where the space can tell.
        """
        self.strategy, self.seed = strategy, seed
        self.history: list[Observation] = []
        self.pending: dict[ChoicePath, Proposal] = {}
        self.seen = Seen(strategy.space, skip_equivalents)
        self._count = 0

    def ask(self) -> ChoicePath:
        """Propose the next candidate. Several may be asked for before the first is told, one per worker.

        Raises:
            SpaceExhaustedError: If no path is left.
        """
        # Random numbers are a function of the seed and of how many paths are known.
        generator = np.random.default_rng(derive_seed(self.seed, 'strategy', self._count))
        proposal = self.strategy.propose(self.history, list(self.pending.values()), self.seen, generator)
        self.pending[proposal.path] = proposal
        self._see(proposal.path)
        return proposal.path

    def notes(self, path: ChoicePath) -> Mapping[str, Any]:
        """What the strategy noted about a pending path; empty for others."""
        return self.pending[path].notes if path in self.pending else {}

    def tell(self, path: Sequence[int], value: float) -> None:
        """Report a candidate's score; bigger is better. Paths that were never asked for are welcome.

        Raises:
            ValueError: If the path is not in the space or the score is not a number.
        """
        checked, value = self.strategy.space.validate(path), float(value)
        if math.isnan(value):
            raise ValueError(
                f'the score of {self.strategy.space.encode(checked)} is NaN, which has no rank; '
                'report -inf for a candidate that failed'
            )
        proposal = self.pending.pop(checked, None)
        if proposal is None:
            self._see(checked)
        self.history.append(Observation(checked, value, proposal.notes if proposal else {}))

    def restore(self, history: Iterable[Observation]) -> None:
        """Take over a history, so that the next ``ask`` is the one an uninterrupted search would have made.

        What was pending when the search stopped is forgotten and may be proposed again.
        """
        for observation in history:
            self._see(observation.path)
            self.history.append(observation)

    def _see(self, path: ChoicePath) -> None:
        self.seen.add(path)
        self._count += 1
