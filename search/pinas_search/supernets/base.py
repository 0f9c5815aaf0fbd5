"""What a weight-sharing network is: it runs any path of its space, and hands out its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from ..spaces import Space
from .graph import Graph

__all__ = ['ChainSupernet', 'GatedSupernet', 'Gates', 'Supernet', 'weighted_sum']

Gates = Sequence[Mapping[int, torch.Tensor]]
"""Per position: choice -> scalar that its output is multiplied by."""


class Supernet(nn.Module, ABC):
    """All networks of a space in one. Methods train it, scorers judge its paths, ``extract`` takes one out.

    A new supernet is one module with a subclass, a dataclass ``Options`` and a function
    ``create(space, options) -> Supernet``; ``learn.supernet`` names the module.

    Attributes:
        space: The space.
        num_features: Features F that a classifier gets.
    """

    space: Space
    num_features: int

    @abstractmethod
    def forward(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Run one network; only its modules are computed.

        Args:
            x: Images [N, 3, H, W].
            path: One choice per position.

        Returns:
            The last feature map [N, F, h, w].

        Raises:
            ValueError: If the path is not in the space.
        """

    def lay_out(self, graph: Graph, path: Sequence[int]) -> int:
        """Add to a graph what ``forward`` computes, split where paths can share results. By default they share nothing.

        Args:
            graph: What other paths compute.
            path: One choice per position.

        Returns:
            The node of the last feature map.

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        return graph.add(lambda x: self(x, path), graph.images, key=('path', path))

    def features(self, feature_map: torch.Tensor) -> torch.Tensor:
        """What a classifier gets: the average of a feature map [N, F, h, w] over its pixels, [N, F]."""
        return feature_map.mean((2, 3))

    @abstractmethod
    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """The modules that hold a path's weights, the shared ones included."""

    @abstractmethod
    def shared_modules(self) -> list[nn.Module]:
        """The modules that every path has."""

    @abstractmethod
    def extract(self, path: Sequence[int], classifier: nn.Linear | None = None) -> nn.Module:
        """Build the stand-alone network of a path with the weights that it has here.

        Args:
            path: The path.
            classifier: Head to inherit; no head if None.

        Raises:
            ValueError: If the path is not in the space.
        """


class ChainSupernet(Supernet):
    """A supernet whose positions follow one another, so that paths with the same beginning share its results."""

    @abstractmethod
    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """What comes before the first position: images [N, 3, H, W] -> the first feature map."""

    @abstractmethod
    def run(self, x: torch.Tensor, path: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run consecutive positions of a path, which is taken as valid.

        Args:
            x: Feature map that enters the first of ``positions``.
            path: One choice per position of the space.
            positions: The positions, in order.

        Returns:
            The feature map behind the last of ``positions``.
        """

    def forward(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Stem, then all positions in order; see ``Supernet``."""
        path = self.space.validate(path)
        return self.run(self.stem(x), path, range(self.space.num_positions))

    def lay_out(self, graph: Graph, path: Sequence[int]) -> int:
        """A node behind the stem and behind each position; see ``Supernet``."""
        path = self.space.validate(path)
        node = graph.add(self.stem, graph.images, key='stem')
        for position in range(self.space.num_positions):
            node = graph.add(partial(self.run, path=path, positions=(position,)), node, key=(position, path[position]))
        return node


class GatedSupernet(Supernet):
    """A supernet that can run several choices of a position at once and weigh their outputs by gates.

    For methods with architecture parameters, which learn what the gates tell them: the gradient of a gate is the scalar
    product of its choice's output with the gradient of the sum.
    """

    @abstractmethod
    def forward_gated(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        """Run the choices that have a gate; each position gives their sum, weighted by the gates.

        With one gate of 1 at each position that is ``forward``.

        Args:
            x: Images [N, 3, H, W].
            gates: Per position, choice -> scalar. Other choices are not computed.

        Returns:
            The last feature map [N, F, h, w].

        Raises:
            ValueError: If a position lacks gates, or a choice is not in the space.
        """

    def check_gates(self, gates: Gates) -> None:
        """Make sure that every position has gates, of choices that the space allows.

        Raises:
            ValueError: If not; the message names the position.
        """
        allowed = self.space.allowed
        if len(gates) != len(allowed):
            raise ValueError(f'{self.space.name} has {len(allowed)} positions, got gates of {len(gates)}')
        for position, (weights, choices) in enumerate(zip(gates, allowed, strict=True)):
            if not weights or not set(weights) <= set(choices):
                few = ', '.join(map(str, choices))
                raise ValueError(f'gates[{position}] is of the choices {sorted(weights)}, allowed are some of {few}')


def weighted_sum(terms: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Sum of output times gate over at least one (output, gate)."""
    products = [output * gate for output, gate in terms]
    return sum(products[1:], products[0])
