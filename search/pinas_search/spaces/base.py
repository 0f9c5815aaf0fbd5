"""What can be chosen: positions, the choices at each, and what a path costs. Knows no network and no search."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pinas_models.choices import Choices as Path
from pinas_models.choices import parse_choices

__all__ = ['Cost', 'CostTable', 'Limits', 'Path', 'Space']


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
    """Costs that add up over the positions of a path.

    Attributes:
        fixed: Cost of what every path has: stem and classifier.
        params: Parameters per position and choice, [L, m] int64; choices that a position lacks cost 0.
        macs: Multiply-accumulates per position and choice, [L, m] int64.
    """

    fixed: Cost
    params: np.ndarray
    macs: np.ndarray


@dataclass(frozen=True)
class Limits:
    """Largest allowed cost of a candidate; None means no limit.

    Attributes:
        max_params: Parameters.
        max_macs: Multiply-accumulates for one image.
    """

    max_params: int | None = None
    max_macs: int | None = None

    def allow(self, space: Space, paths: np.ndarray) -> np.ndarray:
        """Say which of ``paths`` [N, L] satisfy the limits: bool [N]."""
        params, macs = space.costs(paths)
        allowed = np.ones(len(paths), dtype=bool)
        if self.max_params is not None:
            allowed &= params <= self.max_params
        if self.max_macs is not None:
            allowed &= macs <= self.max_macs
        return allowed

    def check(self, space: Space) -> None:
        """Make sure that some path can satisfy each limit.

        Raises:
            ValueError: If even the cheapest path exceeds a limit.
        """
        table = space.cost_table
        for name, limit, fixed, costs in (
            ('max_params', self.max_params, table.fixed.params, table.params),
            ('max_macs', self.max_macs, table.fixed.macs, table.macs),
        ):
            least = fixed + sum(int(row[:m].min()) for row, m in zip(costs, space.num_choices, strict=True))
            if limit is not None and limit < least:
                raise ValueError(f'{name} is {limit:,}, but the cheapest network of {space.name} has {least:,}')


class Space(ABC):
    """A set of networks: one choice at each position.

    Attributes:
        name: Short name.
        num_choices: Number of choices at each position.
    """

    name: str
    num_choices: tuple[int, ...]

    @property
    def num_positions(self) -> int:
        """Length L of a path."""
        return len(self.num_choices)

    @property
    def size(self) -> int:
        """Number of paths."""
        return math.prod(self.num_choices)

    def sample(self, generator: torch.Generator) -> Path:
        """Draw a path uniformly."""
        return tuple(int(torch.randint(m, (), generator=generator)) for m in self.num_choices)

    def validate(self, path: Sequence[int]) -> Path:
        """Return ``path`` as a tuple of ints.

        Raises:
            ValueError: For a wrong length or choice; the message names the position and what is allowed.
        """
        checked = parse_choices(path, self.num_positions, max(self.num_choices))
        for position, (choice, m) in enumerate(zip(checked, self.num_choices, strict=True)):
            if choice >= m:
                raise ValueError(
                    f'choices[{position}] is {choice}; position {position} of {self.name} allows 0..{m - 1}'
                )
        return checked

    def encode(self, path: Sequence[int]) -> str:
        """Write a path as a string of digits.

        Raises:
            ValueError: If the path is not in the space.
        """
        return ''.join(map(str, self.validate(path)))

    def decode(self, text: str) -> Path:
        """Read a path from a string of digits.

        Raises:
            ValueError: If the string is not a path of this space.
        """
        return self.validate(parse_choices(text, self.num_positions, max(self.num_choices)))

    @cached_property
    def cost_table(self) -> CostTable:
        """Cost per position and choice; computed once."""
        return self._measure_costs()

    @abstractmethod
    def _measure_costs(self) -> CostTable:
        """Measure the table on real networks."""

    def costs(self, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost of many paths at once.

        Args:
            paths: Paths [N, L], integers.

        Returns:
            Parameters [N] and multiply-accumulates [N], int64.
        """
        table, positions = self.cost_table, np.arange(self.num_positions)
        params = table.fixed.params + table.params[positions, paths].sum(axis=1)
        return params, table.fixed.macs + table.macs[positions, paths].sum(axis=1)

    def cost(self, path: Sequence[int]) -> Cost:
        """Cost of one path.

        Raises:
            ValueError: If the path is not in the space.
        """
        params, macs = self.costs(np.array([self.validate(path)]))
        return Cost(params=int(params[0]), macs=int(macs[0]))
