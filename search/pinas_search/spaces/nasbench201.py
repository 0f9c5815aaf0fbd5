"""NAS-Bench-201: cells of six edges with one of five operations each, 15,625 networks that others have trained.

The benchmark (Dong and Yang, ICLR 2020; the topology search space of NATS-Bench) fixes the order of edges and of
operations and the way a cell is written; all of it is kept, so that its tables and weights fit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from .base import AdditiveSpace, Choice, ChoicePath, CostTable, Description, Group
from .graph import Graph, line_graph
from .nasbench201_network import EDGES, NUM_NODES, OPERATIONS, CellNetwork

__all__ = ['NASBench201Space', 'Options', 'create', 'nasbench201', 'working_choices', 'working_edges']

_NONE, _SKIP, _POOL = (OPERATIONS.index(name) for name in ('none', 'skip_connect', 'avg_pool_3x3'))
_LAST = NUM_NODES - 1
# The order of arch2vec's vocabulary, so that its weights fit.
_VOCABULARY = ('nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3', 'skip_connect', 'none')
_EDGE_NAMES = tuple(f'{target}<-{source}' for source, target in EDGES)
_MEANINGS = (
    'Nothing: the edge is not there.',
    'The input as it is.',
    'ReLU, 1×1 convolution, batch norm.',
    'ReLU, 3×3 convolution, batch norm.',
    'Average of 3×3 pixels at stride 1.',
)
_NOTE = (
    'A cell has four nodes; each adds up its incoming edges, and every edge holds one operation. 3<-1 is the edge from '
    'node 1 to node 3; node 0 is the input and node 3 the output. All cells of a network are equal.'
)
_EXAMPLE = '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|'


@dataclass(frozen=True)
class Options:
    """Options of the space.

    Attributes:
        channels: Channels of the first stage; 16 in the benchmark.
        num_cells: Cells per stage; 5 in the benchmark.
        without: Operations that no edge may hold, for example none and skip_connect: the 729 cells of the paper.
    """

    channels: int = 16
    num_cells: int = 5
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class NASBench201Space(AdditiveSpace):
    """The cells of NAS-Bench-201, or those without some operations.

    Attributes:
        channels: Channels of the first stage.
        num_cells: Cells per stage.
        num_classes: Classes of the head that costs are counted with.
        image_size: Side of the square images that costs are counted for, in pixels.
        excluded: Operations that no edge may hold.
    """

    channels: int
    num_cells: int
    num_classes: int
    image_size: int
    excluded: tuple[str, ...] = ()
    num_choices = (len(OPERATIONS),) * len(EDGES)
    supernet = 'nasbench201'

    @property
    def name(self) -> str:  # type: ignore[override]
        """``nasbench201``, and what it leaves out."""
        return f'nasbench201 without {" and ".join(self.excluded)}' if self.excluded else 'nasbench201'

    @cached_property
    def allowed(self) -> tuple[tuple[int, ...], ...]:
        """The choices that a path may have at each position."""
        choices = tuple(c for c, name in enumerate(OPERATIONS) if name not in self.excluded)
        return (choices,) * self.num_positions

    def without(self, *operations: str) -> NASBench201Space:
        """The space of the cells that have none of these operations; digits, supernet and networks are the same.

        Raises:
            ValueError: If an operation is unknown or none is left.
        """
        for operation in operations:
            if operation not in OPERATIONS:
                raise ValueError(f'without {operation!r}: the operations of nasbench201 are {", ".join(OPERATIONS)}')
        excluded = tuple(name for name in OPERATIONS if name in (*self.excluded, *operations))
        if len(excluded) == len(OPERATIONS):
            raise ValueError(f'without {", ".join(excluded)}: no operation is left')
        return NASBench201Space(self.channels, self.num_cells, self.num_classes, self.image_size, excluded)

    @property
    def subsets(self) -> Mapping[str, Callable[[ChoicePath], bool]]:
        """The sets of cells that rankings are reported on in the literature, by their number."""
        return {
            '729': lambda path: not {_NONE, _SKIP} & set(path),  # the paper's
            '4096': lambda path: _NONE not in path,
            '6466': lambda path: self.canonical(path) == path,  # one of each class
        }

    def to_string(self, path: Sequence[int]) -> str:
        """Write a path as the benchmark does: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

        Raises:
            ValueError: If the path is not in the space.
        """
        return _write([OPERATIONS[choice] for choice in self.validate(path)])

    def decode(self, text: str) -> ChoicePath:
        """Read a path from its digits, or as the benchmark writes it.

        Raises:
            ValueError: If the text is no path of this space.
        """
        return self.from_string(text) if '|' in text else super().decode(text)

    def from_string(self, text: str) -> ChoicePath:
        """Read a cell as the benchmark writes it.

        Raises:
            ValueError: If the text is no cell of this space; the message names the node or the position.
        """
        nodes = text.split('+')
        if len(nodes) != _LAST:
            raise ValueError(f'{text!r} has {len(nodes)} parts between +, a cell has {_LAST}: {_EXAMPLE}')
        path: list[int] = []
        for target, part in enumerate(nodes, start=1):
            if not re.fullmatch(r'\|([^|]+\|)+', part) or part.count('|') != target + 1:
                raise ValueError(f'node {target} of {text!r} is {part!r}: {target} operations between | are expected')
            for source, edge in enumerate(part.strip('|').split('|')):
                position = len(path)
                operation, _, index = edge.partition('~')
                if index != str(source):
                    raise ValueError(
                        f'position {position} ({_EDGE_NAMES[position]}) of {text!r} is {edge!r}: end it in ~{source}'
                    )
                if operation not in OPERATIONS:
                    raise ValueError(
                        f'position {position} ({_EDGE_NAMES[position]}) of {text!r} is {operation!r}: '
                        f'the operations are {", ".join(OPERATIONS)}'
                    )
                path.append(OPERATIONS.index(operation))
        return self.validate(path)

    def canonical(self, path: Sequence[int]) -> ChoicePath:
        """The first path, by digits, of the cells of this space that the benchmark counts as the same function.

        That is its ``to_unique_str(consider_zero=True)``: nodes are compared as sums of what reaches them, a skip hands
        its input on, and an edge that is none, or starts at a node 1 that gets nothing, is zero. The 15,625 cells fall
        into 6,466 classes.

        Raises:
            ValueError: If the path is not in the space.
        """
        return self._representatives[_expression(self.validate(path))]

    @cached_property
    def _representatives(self) -> dict[str, ChoicePath]:
        first: dict[str, ChoicePath] = {}
        for path in itertools.product(*self.allowed):
            first.setdefault(_expression(path), path)
        return first

    def is_connected(self, path: Sequence[int]) -> bool:
        """Whether the input reaches the output of the cell, along edges that are not none.

        Raises:
            ValueError: If the path is not in the space.
        """
        reached = {0}
        for (source, target), choice in zip(EDGES, self.validate(path), strict=True):
            if choice != _NONE and source in reached:
                reached.add(target)
        return _LAST in reached

    def build(
        self,
        path: Sequence[int],
        *,
        num_classes: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
    ) -> CellNetwork:
        """Build the benchmark's network of a path; see ``Space``. No head if ``num_classes`` is 0.

        Args of its own: without ``affine`` the cells' batch norms have no weights, and without ``track_running_stats``
        no running statistics.

        Raises:
            ValueError: If the path is not in the space, or stochastic depth is asked for, which the networks lack.
        """
        if drop_path_rate:
            raise ValueError(f'drop_path_rate is {drop_path_rate}: the networks of {self.name} have none, set it to 0')
        with torch.device(device or 'cpu'):
            return CellNetwork(
                self.validate(path),
                channels=self.channels,
                num_cells=self.num_cells,
                num_classes=self.num_classes if num_classes is None else num_classes,
                drop_rate=drop_rate,
                affine=affine,
                track_running_stats=track_running_stats,
            )

    def describe(self) -> Description:
        """The edges by their nodes, and the operations."""
        groups = [
            Group(f'node {node}', tuple(e for e, (_, target) in enumerate(EDGES) if target == node))
            for node in range(1, NUM_NODES)
        ]
        return Description(
            positions=_EDGE_NAMES,
            groups=tuple(groups),
            choices=tuple(
                Choice(n, m, skip=c == _SKIP) for c, (n, m) in enumerate(zip(OPERATIONS, _MEANINGS, strict=True))
            ),
            note=_NOTE,
            edges=EDGES,
        )

    def graph(self, path: Sequence[int]) -> Graph:
        """A cell as arch2vec sees it: its six operations are the nodes, between an input and an output.

        Raises:
            ValueError: If the path is not in the space.
        """
        return line_graph(self.describe(), self.validate(path), [OPERATIONS.index(name) for name in _VOCABULARY])

    def _measure_costs(self) -> CostTable:
        # One network per operation holds every (edge, operation) once. All edges of a network cost the same, but
        # counting each keeps the table right should that ever change.
        full = NASBench201Space(self.channels, self.num_cells, self.num_classes, self.image_size)
        params = np.zeros((self.num_positions, len(OPERATIONS)), dtype=np.int64)
        macs = np.zeros_like(params)
        for choice in range(len(OPERATIONS)):
            network = full.build((choice,) * self.num_positions, device='meta').eval()
            counter = FlopCounterMode(display=False)
            with counter:
                network(torch.empty(1, 3, self.image_size, self.image_size, device='meta'))
            counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
            for name, module in network.named_modules():
                if match := re.fullmatch(r'cells\.\d+\.layers\.(\d+)', name):
                    edge = int(match[1])
                    params[edge, choice] += sum(p.numel() for p in module.parameters())
                    macs[edge, choice] += counts.get(f'{type(network).__name__}.{name}', 0)
        fixed = {
            'params': sum(p.numel() for p in network.parameters()) - int(params[:, choice].sum()),
            'macs': counts['Global'] - int(macs[:, choice].sum()),
        }
        return CostTable(fixed, {'params': params, 'macs': macs})


def nasbench201(
    channels: int = 16, num_cells: int = 5, num_classes: int = 10, image_size: int = 32
) -> NASBench201Space:
    """The whole space: 5^6 = 15,625 cells.

    Args:
        channels: Channels of the first stage; 16 in the benchmark.
        num_cells: Cells per stage; 5 in the benchmark.
        num_classes: Classes of the head that costs are counted with.
        image_size: Side of the images that costs are counted for, in pixels.

    Raises:
        ValueError: If a number is too small, or the images cannot be halved twice.
    """
    for label, value in (('channels', channels), ('num_cells', num_cells), ('num_classes', num_classes)):
        if value < 1:
            raise ValueError(f'{label} is {value}: it must be at least 1')
    if image_size < 4 or image_size % 4:
        raise ValueError(f'image_size is {image_size}: the networks halve it twice, take a multiple of 4')
    return NASBench201Space(channels, num_cells, num_classes, image_size)


def create(options: Options, *, image_size: int, num_classes: int) -> NASBench201Space:
    """Build the space for images of ``image_size`` pixels and ``num_classes`` classes.

    Raises:
        ValueError: If an option is wrong.
    """
    space = nasbench201(options.channels, options.num_cells, num_classes, image_size)
    return space.without(*options.without)


def working_edges(path: Sequence[int]) -> tuple[int, ...]:
    """The edges of a cell that its output needs: computing no other gives the same output.

    Args:
        path: Operation of each edge, [6], taken as valid.
    """
    working = working_choices([(choice,) for choice in path])
    return tuple(edge for edge, choices in enumerate(working) if choices)


def working_choices(choices: Sequence[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    """The operations of a cell that its output needs, where an edge may hold several: the others change nothing.

    Left out are operations that are none, that hand on the zeros of a node which gets nothing (a skip or a pooling; a
    convolution's batch norm can make something of zeros), and edges to nodes from which nothing reaches the output.

    Args:
        choices: Operations of each edge, [6], taken as valid.

    Returns:
        Those of each edge that are needed.
    """
    filled = {0}
    kept: list[tuple[int, ...]] = []
    for (source, target), operations in zip(EDGES, choices, strict=True):
        kept.append(tuple(c for c in operations if c != _NONE and (source in filled or c not in (_SKIP, _POOL))))
        if kept[-1]:
            filled.add(target)
    needed = {_LAST}
    for edge in reversed(range(len(EDGES))):  # edges to later nodes come later
        source, target = EDGES[edge]
        if target not in needed:
            kept[edge] = ()
        elif kept[edge]:
            needed.add(source)
    return tuple(kept)


def _write(operations: Sequence[str]) -> str:
    parts = ['' for _ in range(NUM_NODES)]
    for (source, target), operation in zip(EDGES, operations, strict=True):
        parts[target] += f'{operation}~{source}|'
    return '+'.join(f'|{part}' for part in parts[1:])


def _expression(path: Sequence[int]) -> str:
    """The function of a cell as a formula of its input, in the benchmark's rules."""
    nodes = ['0']
    edges = iter(zip(EDGES, path, strict=True))
    for target in range(1, NUM_NODES):
        terms = []
        for (source, _), choice in itertools.islice(edges, target):
            if choice == _NONE or nodes[source] == '#':
                terms.append('#')
            elif choice == _SKIP:
                terms.append(nodes[source])
            else:
                terms.append(f'({nodes[source]})@{OPERATIONS[choice]}')
        nodes.append('+'.join(sorted(terms)))
    return nodes[-1]
