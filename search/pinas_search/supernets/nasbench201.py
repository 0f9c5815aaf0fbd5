"""The weight-sharing network over NAS-Bench-201: every edge of every cell holds its five operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..spaces import NASBench201Space, Space
from ..spaces.nasbench201 import working_choices, working_edges
from ..spaces.nasbench201_network import (
    EDGES,
    NUM_NODES,
    CellNetwork,
    ConvOperation,
    ReductionBlock,
    last_activation,
    make_operation,
    make_stem,
    run_cell,
)
from .base import GatedSupernet, Gates, weighted_sum
from .graph import Graph

__all__ = ['NASBench201Supernet', 'Options', 'create']


@dataclass(frozen=True)
class Options:
    """Options of the supernet.

    Attributes:
        affine: The batch norms of the cells have weights; without, the convolutions of the cells have a bias.
        track_running_stats: The batch norms of the cells keep running statistics, which can be calibrated for a path;
            without, they use the statistics of each batch, in evaluation too.
    """

    affine: bool = False
    track_running_stats: bool = False


class SearchCell(nn.Module):
    """A cell that holds all operations of every edge."""

    def __init__(self, space: NASBench201Space, channels: int, *, affine: bool, track_running_stats: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                edge: nn.ModuleList(
                    make_operation(choice, channels, affine=affine, track_running_stats=track_running_stats)
                    for choice in range(num_choices)
                )
                for edge, num_choices in zip(space.describe().positions, space.num_choices, strict=True)
            }
        )

    def operations(self, path: Sequence[int]) -> list[nn.Module]:
        """The operation of each edge."""
        return [choices[choice] for choices, choice in zip(self.edges.values(), path, strict=True)]  # type: ignore[index]

    def forward(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Run the operations of a valid path that its output needs: [N, C, H, W] -> [N, C, H, W]."""
        return run_cell(x, self.operations(path), working_edges(path))

    def forward_gated(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        """Run the operations that have a gate and that the output needs: [N, C, H, W] -> [N, C, H, W]."""
        nodes = [x]
        working = working_choices(gates)
        for node in range(1, NUM_NODES):
            terms = [
                (operations[choice](nodes[source]), gates[edge][choice])  # type: ignore[index]
                for edge, ((source, target), operations) in enumerate(zip(EDGES, self.edges.values(), strict=True))
                for choice in (working[edge] if target == node else ())
            ]
            nodes.append(weighted_sum(terms) if terms else x.mul(0.0))
        return nodes[-1]


class NASBench201Supernet(GatedSupernet):
    """All networks of NAS-Bench-201 in one, as the benchmark's authors share weights (``TinyNetworkRANDOM``).

    Names are theirs: ``cells.{i}.edges.{target}<-{source}.{choice}.op.{1,2}``, without the classifier. Stem, the two
    reduction blocks and the last batch norm are shared by all paths and always have weights and running statistics.
    """

    space: NASBench201Space

    def __init__(self, space: NASBench201Space, affine: bool = False, track_running_stats: bool = False) -> None:
        """Draw fresh weights: PyTorch's defaults, as the benchmark's authors.

        Args:
            space: The space; one that leaves out operations has the same supernet as the whole.
            affine: The batch norms of the cells have weights; without, the convolutions of the cells have a bias.
            track_running_stats: The batch norms of the cells keep running statistics.
        """
        super().__init__()
        self.space = space
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.num_features = 4 * space.channels
        self.stem = make_stem(space.channels)
        self.cells = nn.ModuleList()
        for stage in range(3):
            width = space.channels << stage
            if stage:
                self.cells.append(ReductionBlock(width // 2, width))
            self.cells.extend(
                SearchCell(space, width, affine=affine, track_running_stats=track_running_stats)
                for _ in range(space.num_cells)
            )
        self.lastact = last_activation(self.num_features)

    def forward(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Run one network; only the operations that its output needs are computed.

        Args:
            x: Images [N, 3, H, W].
            path: One operation per edge.

        Returns:
            The map behind the last batch norm and ReLU, [N, F, H / 4, W / 4].

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, path) if isinstance(cell, SearchCell) else cell(x)
        return self.lastact(x)

    def forward_gated(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        """Weigh the outputs of operations, in all cells alike; see ``GatedSupernet``.

        What cannot change the output is not computed, such as ``none``: its gate has no gradient, which would be 0.
        """
        self.check_gates(gates)
        x = self.stem(x)
        for cell in self.cells:
            x = cell.forward_gated(x, gates) if isinstance(cell, SearchCell) else cell(x)
        return self.lastact(x)

    def lay_out(self, graph: Graph, path: Sequence[int]) -> int:
        """A node for every layer; paths share the stem, and in the first cell what has the same input and operation.

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        node = graph.add_in_turn(self.stem, graph.images)
        for cell in self.cells:
            if isinstance(cell, SearchCell):
                node = _lay_out_cell(graph, node, cell.operations(path), working_edges(path))
            elif isinstance(cell, ReductionBlock):
                inner = _lay_out_convolution(graph, _lay_out_convolution(graph, node, cell.conv_a), cell.conv_b)
                node = graph.add(torch.add, graph.add_in_turn(cell.downsample, node), inner)
        return graph.add(F.relu, graph.add_in_turn(self.lastact[:1], node))

    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """The modules that a path computes with weights: the shared ones and its convolutions that reach the output."""
        path = self.space.validate(path)
        working = working_edges(path)
        operations = [
            operation
            for cell in self.cells
            if isinstance(cell, SearchCell)
            for edge, operation in enumerate(cell.operations(path))
            if edge in working and any(True for _ in operation.parameters())
        ]
        return [*self.shared_modules(), *operations]

    def shared_modules(self) -> list[nn.Module]:
        """The modules that every path has: stem, reduction blocks, last batch norm."""
        return [self.stem, *(cell for cell in self.cells if isinstance(cell, ReductionBlock)), self.lastact]

    def extract(self, path: Sequence[int], classifier: nn.Linear | None = None) -> CellNetwork:
        """Build the stand-alone network of a path with the weights that it has here.

        Args:
            path: The path.
            classifier: Head to inherit; no head if None.

        Returns:
            A network whose features equal the supernet's. Its batch norms are those of the supernet: with the default
            settings they have no weights and use the statistics of the batch, unlike the benchmark's networks.

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        weight = next(self.parameters())
        network = self.space.build(
            path,
            num_classes=0 if classifier is None else classifier.out_features,
            affine=self.affine,
            track_running_stats=self.track_running_stats,
            device=weight.device,
        )
        state = {name: tensor for name, tensor in self.state_dict().items() if '.edges.' not in name}
        for index, cell in enumerate(self.cells):
            if isinstance(cell, SearchCell):
                for edge, operation in enumerate(cell.operations(path)):
                    state |= {f'cells.{index}.layers.{edge}.{n}': t for n, t in operation.state_dict().items()}
        if classifier is not None:
            state |= {f'classifier.{name}': tensor for name, tensor in classifier.state_dict().items()}
        network.to(weight.dtype).load_state_dict(state)
        return network.train(self.training)


def create(space: Space, options: Options) -> NASBench201Supernet:
    """Build the supernet of NAS-Bench-201.

    Raises:
        ValueError: If the space is another one.
    """
    if not isinstance(space, NASBench201Space):
        raise ValueError(f'the supernet nasbench201 holds networks of NAS-Bench-201, not of {space.name}')
    return NASBench201Supernet(space, options.affine, options.track_running_stats)


def _lay_out_convolution(graph: Graph, node: int, operation: ConvOperation) -> int:
    _, convolution, norm = operation.op
    return graph.add_in_turn((F.relu, convolution, norm), node)


def _lay_out_cell(graph: Graph, node: int, operations: Sequence[nn.Module], edges: Sequence[int]) -> int:
    """What ``run_cell`` computes."""
    nodes = [node]
    for target in range(1, NUM_NODES):
        total = None
        for edge in (edge for edge in edges if EDGES[edge][1] == target):
            operation, result = operations[edge], nodes[EDGES[edge][0]]
            if isinstance(operation, ConvOperation):
                result = _lay_out_convolution(graph, result, operation)
            elif not isinstance(operation, nn.Identity):
                result = graph.add(operation, result, key=type(operation))  # no weights: the edges' are equal
            total = result if total is None else graph.add(torch.add, total, result)
        nodes.append(graph.add(_zeros, node) if total is None else total)
    return nodes[-1]


def _zeros(x: torch.Tensor) -> torch.Tensor:
    return x.mul(0.0)
