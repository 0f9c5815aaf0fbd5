"""What can be chosen: positions, the choices at each, and what a path costs. Knows no search."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from .graph import Graph

__all__ = [
    'AdditiveSpace',
    'Choice',
    'ChoicePath',
    'Cost',
    'CostTable',
    'Description',
    'Group',
    'Limits',
    'Space',
]

ChoicePath = tuple[int, ...]
"""A network of a space: one choice per position."""


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: Trainable parameters, the classifier included.
        macs: Multiply-accumulates of convolutions and linear layers for one image.
    """

    params: int
    macs: int


@dataclass(frozen=True)
class CostTable:
    """Costs that add up over the positions of a path, by name (``params``, ``macs``, ...).

    Attributes:
        fixed: Cost of what every path has: stem and classifier.
        per_choice: Cost per position and choice, [L, m]; choices that a position lacks cost 0.
    """

    fixed: Mapping[str, float]
    per_choice: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Limits:
    """Largest allowed costs of a candidate.

    Attributes:
        largest: Name of a cost -> largest allowed value.
    """

    largest: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.largest)

    def __str__(self) -> str:
        return ', '.join(f'{name} <= {value:,}' for name, value in self.largest.items()) or 'no limit'

    def allow(self, space: Space, paths: np.ndarray) -> np.ndarray:
        """Say which of ``paths`` [N, L] satisfy the limits: bool [N]."""
        allowed = np.ones(len(paths), dtype=bool)
        if self.largest:
            costs = space.costs(paths)
            for name, value in self.largest.items():
                allowed &= costs[name] <= value
        return allowed

    def check(self, space: Space) -> None:
        """Make sure that the costs are known and, where costs add up, that some path can satisfy each limit.

        Raises:
            ValueError: If a cost is unknown, or even the cheapest path exceeds a limit.
        """
        for name, limit in self.largest.items():
            if name not in space.cost_names:
                raise ValueError(
                    f'search.limits.{name}: {space.name} has no such cost; its costs are {", ".join(space.cost_names)}'
                )
            least = space.least_cost(name)
            if limit < least:
                raise ValueError(
                    f'search.limits.{name} is {limit:,}, but the cheapest network of {space.name} has {least:,.0f}'
                )


@dataclass(frozen=True)
class Choice:
    """One of the operations that a position can hold.

    Attributes:
        name: The paper's name.
        meaning: What it computes, in a sentence; empty if there is nothing to say.
        skip: Whether it hands its input on unchanged: searches collapse to networks that are mostly skips.
    """

    name: str
    meaning: str = ''
    skip: bool = False


@dataclass(frozen=True)
class Group:
    """Positions that belong together, such as a stage of the network.

    Attributes:
        title: Its name.
        positions: Its positions, in order.
    """

    title: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """A space in words, for reports and cards.

    Attributes:
        positions: Name of each position, such as the module that it stands for.
        groups: Groups of positions, drawn as columns.
        choices: The choices, by digit.
        note: How to read the names of the choices; empty if they say it.
        edges: Where the positions are the edges of a graph: (from, to) node of each. Empty for positions in a row.
    """

    positions: tuple[str, ...]
    groups: tuple[Group, ...]
    choices: tuple[Choice, ...]
    note: str = ''
    edges: tuple[tuple[int, int], ...] = ()


class Space(ABC):
    """A set of networks: one choice at each position.

    Attributes:
        name: Short name.
        num_choices: Number of choices at each position.
        cost_names: Names of the costs that ``costs`` returns; ``params`` and ``macs`` are among them.
        supernet: Name of the supernet that holds all networks, as ``learn.supernet`` takes it.
    """

    name: str
    num_choices: tuple[int, ...]
    cost_names: tuple[str, ...] = ('params', 'macs')
    supernet: str

    @property
    def num_positions(self) -> int:
        """Length L of a path."""
        return len(self.num_choices)

    @property
    def allowed(self) -> tuple[tuple[int, ...], ...]:
        """The choices that a path of this space may have at each position; all of them unless a subclass says less."""
        return tuple(tuple(range(m)) for m in self.num_choices)

    @property
    def subsets(self) -> Mapping[str, Callable[[ChoicePath], bool]]:
        """Sets of networks that rankings are reported on: name -> whether a valid path belongs; none by default."""
        return {}

    def subset(self, name: str | None) -> Callable[[ChoicePath], bool]:
        """Whether a valid path belongs to a named set; every path does for None.

        Raises:
            ValueError: If there is no such set.
        """
        if name is None:
            return lambda path: True
        if name not in self.subsets:
            raise ValueError(
                f'the set {name} is unknown: the named sets of {self.name} are {", ".join(self.subsets) or "none"}'
            )
        return self.subsets[name]

    @property
    def size(self) -> int:
        """Number of paths."""
        return math.prod(map(len, self.allowed))

    def sample(self, generator: torch.Generator) -> ChoicePath:
        """Draw a path uniformly."""
        return tuple(choices[int(torch.randint(len(choices), (), generator=generator))] for choices in self.allowed)

    def validate(self, path: Sequence[int]) -> ChoicePath:
        """Return ``path`` as a tuple of ints.

        Raises:
            ValueError: For a wrong length or choice; the message names the position and what is allowed.
        """
        if isinstance(path, str):
            return self.decode(path)
        if isinstance(path, (np.ndarray, torch.Tensor)):
            path = path.tolist()
        if not isinstance(path, Sequence):
            raise ValueError(
                f'a path of {self.name} is a string of {self.num_positions} digits or as many integers, got {path!r}'
            )
        checked = tuple(path)
        if len(checked) != self.num_positions:
            raise ValueError(f'a path of {self.name} has {self.num_positions} choices, got {len(checked)}')
        for position, (choice, choices) in enumerate(zip(checked, self.allowed, strict=True)):
            if isinstance(choice, bool) or not isinstance(choice, (int, np.integer)) or choice not in choices:
                few = ', '.join(map(str, choices)) if len(choices) < max(choices) + 1 else f'0..{max(choices)}'
                raise ValueError(f'choices[{position}] is {choice!r}; position {position} of {self.name} allows {few}')
        return tuple(int(choice) for choice in checked)

    def encode(self, path: Sequence[int]) -> str:
        """Write a path as a string of digits.

        Raises:
            ValueError: If the path is not in the space.
        """
        return ''.join(map(str, self.validate(path)))

    def decode(self, text: str) -> ChoicePath:
        """Read a path from a string of digits.

        Raises:
            ValueError: If the string is not a path of this space.
        """
        if not (isinstance(text, str) and text.isascii() and text.isdigit()):
            raise ValueError(f'a path of {self.name} is written as {self.num_positions} digits, got {text!r}')
        return self.validate([int(digit) for digit in text])

    def canonical(self, path: Sequence[int]) -> ChoicePath:
        """The path that stands for all paths with the same function; the path itself unless a space knows better.

        Raises:
            ValueError: If the path is not in the space.
        """
        return self.validate(path)

    @abstractmethod
    def costs(self, paths: np.ndarray) -> dict[str, np.ndarray]:
        """Cost of many paths at once.

        Args:
            paths: Paths [N, L], integers.

        Returns:
            Each of ``cost_names`` -> values [N].
        """

    def cost(self, path: Sequence[int]) -> Cost:
        """Parameters and multiply-accumulates of one path.

        Raises:
            ValueError: If the path is not in the space.
        """
        costs = self.costs(np.array([self.validate(path)]))
        return Cost(params=int(costs['params'][0]), macs=int(costs['macs'][0]))

    def least_cost(self, name: str) -> float:
        """A bound that no path can be below; 0 unless a subclass knows a better one."""
        return 0.0

    @abstractmethod
    def describe(self) -> Description:
        """The space in words."""

    @abstractmethod
    def build(
        self,
        path: Sequence[int],
        *,
        num_classes: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
    ) -> nn.Module:
        """Build the stand-alone network of a path with fresh weights: images [N, 3, H, W] -> logits [N, C].

        Args:
            path: The path.
            num_classes: Classes of the head; the space's own if None.
            drop_rate: Dropout before the classifier.
            drop_path_rate: Stochastic depth of the last block.
            device: Where the parameters are created.

        Raises:
            ValueError: If the path is not in the space, or the networks have no such dropout.
        """

    def graph(self, path: Sequence[int]) -> Graph:
        """A path as a graph of operations, for predictors that read graphs; a space may have none.

        Raises:
            ValueError: If the path is not in the space, or the space has no graphs.
        """
        raise ValueError(
            f'{self.name} does not say what its networks are as graphs, which arch2vec reads: give the space a method '
            'graph(path), or choose another predictor'
        )

    def model_args(self, path: Sequence[int]) -> Mapping[str, Any] | None:
        """Arguments with which timm builds the network again; None if the networks are no timm models."""
        return None


class AdditiveSpace(Space):
    """A space whose costs add up over the positions."""

    @cached_property
    def cost_table(self) -> CostTable:
        """Cost per position and choice; computed once."""
        return self._measure_costs()

    @abstractmethod
    def _measure_costs(self) -> CostTable:
        """Measure the table on real networks."""

    def costs(self, paths: np.ndarray) -> dict[str, np.ndarray]:
        """Cost of paths [N, L]: each of ``cost_names`` -> values [N]."""
        positions = np.arange(self.num_positions)
        return {
            name: self.cost_table.fixed[name] + table[positions, paths].sum(axis=1)
            for name, table in self.cost_table.per_choice.items()
        }

    def least_cost(self, name: str) -> float:
        """Cost of the cheapest path."""
        return float(self.costs(self.cheapest(name)[None])[name][0])

    def cheapest(self, name: str) -> np.ndarray:
        """The path [L] that costs least."""
        rows = zip(self.cost_table.per_choice[name], self.allowed, strict=True)
        return np.array([choices[int(row[list(choices)].argmin())] for row, choices in rows])
