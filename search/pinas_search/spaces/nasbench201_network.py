"""The networks of NAS-Bench-201 (Dong and Yang, ICLR 2020), under the parameter names of the benchmark's own code.

A network is a stem, three stages of equal cells with a residual block of stride 2 between them, and a linear layer. The
supernet is made of the same operations and blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = [
    'EDGES',
    'NUM_NODES',
    'OPERATIONS',
    'CellNetwork',
    'ConvOperation',
    'ReductionBlock',
    'last_activation',
    'make_operation',
    'make_stem',
    'run_cell',
]

OPERATIONS = ('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3')
"""The operations by digit, in the benchmark's order."""

NUM_NODES = 4

EDGES = tuple((source, target) for target in range(1, NUM_NODES) for source in range(target))
"""(source, target) node of each edge, in the benchmark's order: 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2."""

_NONE = OPERATIONS.index('none')
_KERNELS = {'nor_conv_1x1': 1, 'nor_conv_3x3': 3}


class ConvOperation(nn.Module):
    """ReLU, convolution, batch norm; without affine parameters in the batch norm the convolution has a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=not affine),
            nn.BatchNorm2d(out_channels, affine=affine, track_running_stats=track_running_stats),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        return self.op(x)


class Zero(nn.Module):
    """The operation ``none``. A product and not new zeros: as in the benchmark, its input gets a gradient (of 0)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros of the shape of ``x``."""
        return x.mul(0.0)


class ReductionBlock(nn.Module):
    """The residual block between two stages: twice the channels, half the resolution. Same in every network."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = ConvOperation(in_channels, out_channels, 3, 2)
        self.conv_b = ConvOperation(out_channels, out_channels, 3)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, stride=2), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, H, W] -> [N, 2 C, H / 2, W / 2]."""
        return self.downsample(x) + self.conv_b(self.conv_a(x))


def make_operation(choice: int, channels: int, *, affine: bool, track_running_stats: bool) -> nn.Module:
    """Build one operation of a cell: [N, C, H, W] -> [N, C, H, W]."""
    name = OPERATIONS[choice]
    if name == 'none':
        return Zero()
    if name == 'skip_connect':
        return nn.Identity()
    if name == 'avg_pool_3x3':
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return ConvOperation(channels, channels, _KERNELS[name], affine=affine, track_running_stats=track_running_stats)


def make_stem(channels: int) -> nn.Sequential:
    """Build the stem: images [N, 3, H, W] -> [N, C, H, W]."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def last_activation(channels: int) -> nn.Sequential:
    """Build what comes behind the last cell: batch norm and ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def run_cell(x: torch.Tensor, operations: Sequence[nn.Module], edges: Sequence[int]) -> torch.Tensor:
    """Compute a cell: every node is the sum of its incoming edges, node 0 is the input, the last node the output.

    Args:
        x: Input [N, C, H, W].
        operations: Operation of each edge, [6].
        edges: The edges to compute; the others add nothing.

    Returns:
        The output [N, C, H, W].
    """
    nodes = [x]
    for node in range(1, NUM_NODES):
        total = None
        for edge in edges:
            source, target = EDGES[edge]
            if target == node:
                result = operations[edge](nodes[source])
                total = result if total is None else total + result
        nodes.append(x.mul(0.0) if total is None else total)
    return nodes[-1]


class _Cell(nn.Module):
    """One cell of a stand-alone network."""

    def __init__(self, path: Sequence[int], channels: int, *, affine: bool, track_running_stats: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            make_operation(choice, channels, affine=affine, track_running_stats=track_running_stats) for choice in path
        )
        # Edges that do not reach the output run as in the benchmark: their batch norms keep statistics.
        self.edges = tuple(edge for edge, choice in enumerate(path) if choice != _NONE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return run_cell(x, self.layers, self.edges)  # type: ignore[arg-type]


class CellNetwork(nn.Module):
    """A stand-alone network; its state dict is the benchmark's.

    Attributes:
        num_features: Features F behind the global average.
    """

    def __init__(
        self,
        path: Sequence[int],
        *,
        channels: int = 16,
        num_cells: int = 5,
        num_classes: int = 10,
        drop_rate: float = 0.0,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        """Draw fresh weights: PyTorch's defaults, as in the benchmark.

        Args:
            path: Operation of each edge, [6], taken as valid.
            channels: Channels C of the first stage; the second has twice and the third four times as many.
            num_cells: Cells per stage.
            num_classes: Classes of the head; no head if 0.
            drop_rate: Dropout before the classifier.
            affine: The cells' batch norms have weights; without, the cells' convolutions have a bias.
            track_running_stats: The cells' batch norms keep running statistics; without, they use the batch always.
        """
        super().__init__()
        self.num_features = 4 * channels
        self.stem = make_stem(channels)
        blocks: list[nn.Module] = []
        for stage in range(3):
            width = channels << stage
            if stage:
                blocks.append(ReductionBlock(width // 2, width))
            blocks += [
                _Cell(path, width, affine=affine, track_running_stats=track_running_stats) for _ in range(num_cells)
            ]
        self.cells = nn.Sequential(*blocks)
        self.lastact = last_activation(self.num_features)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, H, W] -> the map behind the last batch norm and ReLU, [N, F, H / 4, W / 4]."""
        return self.lastact(self.cells(self.stem(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, H, W] -> logits [N, num_classes], or features [N, F] without a head."""
        return self.classifier(self.dropout(self.forward_features(x).mean((2, 3))))
