"""Recalibrating and running many paths at once: what they have in common is computed once.

In recalibration every batch is normalised by its own statistics, so what a batch norm sees depends on nothing but the
calls before it. Paths that begin alike have the same statistics there: sharing them is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from ..spaces import ChoicePath
from ..supernets import Call, Graph, Supernet
from .lowering import fold, fold_inside, lower
from .recalibrate import PooledStatistics, tracking_layers

__all__ = ['ManyPaths']

_NAMES = ('running_mean', 'running_var', 'num_batches_tracked')
_Place = tuple[int, nn.Module]  # a node, and a batch norm that its call uses
_Buffers = tuple[torch.Tensor, ...]


class ManyPaths:
    """Paths of a supernet that are recalibrated and run together.

    Attributes:
        paths: The paths, sorted, each once: so few results have to be kept at a time.
    """

    def __init__(self, supernet: Supernet, paths: Iterable[Sequence[int]]) -> None:
        """Lay out what the paths compute.

        Raises:
            ValueError: If a path is not in the space.
        """
        self.paths = sorted({supernet.space.validate(path) for path in paths})
        self._supernet = supernet
        self._graph = Graph()
        self._outputs = {path: supernet.lay_out(self._graph, path) for path in self.paths}
        lowered: dict[object, Call | None] = {}
        self._lowered: dict[int, Call] = {}
        for index, node in enumerate(self._graph.nodes):
            if node.call not in lowered:
                lowered[node.call] = lower(node.call)
            if (call := lowered[node.call]) is not None:
                self._lowered[index] = call
        self._calls: Mapping[int, Call] = self._lowered
        self._statistics: dict[_Place, _Buffers] = {}

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[torch.Tensor], *, variance: Literal['mean', 'pooled'] = 'mean') -> None:
        """Estimate the BN statistics of every path, as ``recalibrate_bn`` does for one.

        The supernet keeps those that recalibrating the sorted paths one after another would leave; it is in eval mode
        afterwards.

        Args:
            batches: Normalised images [N, 3, H, W]; all of them are used.
            variance: See ``recalibrate_bn``.

        Raises:
            ValueError: If ``batches`` is empty, or a path uses a batch norm in two nodes.
        """
        lending, count = _Lending(self._supernet, {}), 0
        pooled: dict[_Place, PooledStatistics] = {}
        calls = lending.follow(self._graph, self._lowered)
        self._supernet.train()
        try:
            # None asks PyTorch for the cumulative average, which is the plain mean over the batches.
            with lending.momenta(None if variance == 'mean' else 1.0), lending.active():
                for batch in batches:
                    for _ in self._graph.run(batch, (), calls):
                        pass
                    count += 1
                    for place in lending.statistics if variance == 'pooled' else ():
                        mean, var, _ = lending.statistics[place]
                        pooled.setdefault(place, PooledStatistics(mean)).add(lending.sizes[place], mean, var)
        finally:
            self._supernet.eval()
        if not count:
            raise ValueError('BN recalibration got no batch: give it at least one batch of training images')
        for place, pool in pooled.items():
            pool.write(*lending.statistics[place][:2])
        self._write(lending.statistics, count)
        self._statistics = lending.statistics
        self._calls = {**self._lowered, **self._folded()}

    @torch.no_grad()
    def run(self, images: torch.Tensor) -> Iterator[tuple[ChoicePath, torch.Tensor]]:
        """Run all paths in eval mode, with their own statistics once they are recalibrated.

        Args:
            images: Normalised images [N, 3, H, W].

        Yields:
            A path and its last feature map [N, F, h, w].
        """
        paths: dict[int, list[ChoicePath]] = {}
        for path, node in self._outputs.items():
            paths.setdefault(node, []).append(path)
        self._supernet.eval()
        lending = _Lending(self._supernet, self._statistics)
        calls = lending.follow(self._graph, self._calls)
        with lending.active():
            for node, feature_map in self._graph.run(images, paths, calls):
                for path in paths[node]:
                    yield path, feature_map

    def _folded(self) -> dict[int, Call]:
        """Calls in which a batch norm is part of the convolution before it, where nothing else takes its result."""
        if torch.is_autocast_enabled(next(self._supernet.parameters()).device.type):
            return {}  # low precision rounds a folded weight otherwise
        nodes, uses, outputs = self._graph.nodes, self._graph.uses(), set(self._outputs.values())
        calls: dict[int, Call] = {}
        for index, norms in _by_node(self._statistics).items():
            call = nodes[index].call
            if call in norms:
                (before,) = nodes[index].inputs
                together = fold(nodes[before].call, call, norms[call])
                if together is not None and uses[before] == 1 and before not in outputs:
                    calls |= {before: _same, index: together}
            elif (inside := fold_inside(call, norms)) is not None:
                calls[index] = inside
        return calls

    def _write(self, statistics: Mapping[_Place, _Buffers], count: int) -> None:
        """Leave in the supernet what recalibrating one path after another would leave."""
        norms = _by_node(statistics)
        last: dict[nn.Module, _Place] = {}
        for path, output in self._outputs.items():
            own: dict[nn.Module, _Place] = {}
            for place in ((i, norm) for i in self._graph.ancestors(output) for norm in norms.get(i, ())):
                if place[1] in own:
                    raise ValueError(
                        f'the supernet uses a batch norm of the path {self._supernet.space.encode(path)} in two nodes, '
                        'so its statistics are not those of one: set search.evaluate.share_prefixes to false'
                    )
                own[place[1]] = place
            last |= own
            for layer in own:
                layer.get_buffer('num_batches_tracked').add_(count)
        for layer, place in last.items():
            layer.get_buffer('running_mean').copy_(statistics[place][0])
            layer.get_buffer('running_var').copy_(statistics[place][1])


class _Lending:
    """Gives a batch norm the statistics of the node that is being computed in place of its own.

    Attributes:
        statistics: What is given; zeros are added where there is nothing yet.
        sizes: Values per channel that a batch norm got last, by place.
    """

    def __init__(self, supernet: Supernet, statistics: dict[_Place, _Buffers]) -> None:
        self.statistics = statistics
        self.sizes: dict[_Place, int] = {}
        self._supernet = supernet
        self._layers = tracking_layers([supernet])
        self._node = Graph.images

    def follow(self, graph: Graph, calls: Mapping[int, Call]) -> dict[int, Call]:
        """The calls of a graph, or ``calls`` in their place, such that it is known which one is being computed."""

        def noted(index: int, call: Call) -> Call:
            def run(*inputs: torch.Tensor) -> torch.Tensor:
                self._node = index
                return call(*inputs)

            return run

        return {index: noted(index, calls.get(index, node.call)) for index, node in enumerate(graph.nodes)}

    @contextmanager
    def momenta(self, momentum: float | None) -> Iterator[None]:
        """Set the momentum of all batch norms for a while."""
        before = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = momentum
        try:
            yield
        finally:
            for layer, value in zip(self._layers, before, strict=True):
                layer.momentum = value

    @contextmanager
    def active(self) -> Iterator[None]:
        """Lend for a while; afterwards all batch norms have their own buffers again."""
        own: dict[nn.Module, _Buffers] = {m: tuple(m.get_buffer(name) for name in _NAMES) for m in self._layers}

        def lend(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            place: _Place = (self._node, layer)
            if place not in self.statistics and self._supernet.training:
                self.statistics[place] = tuple(map(torch.zeros_like, own[layer]))
            for name, buffer in zip(_NAMES, self.statistics.get(place, ()), strict=False):
                setattr(layer, name, buffer)
            self.sizes[place] = args[0].numel() // args[0].shape[1]

        hooks = [layer.register_forward_pre_hook(lend) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for layer, buffers in own.items():
                for name, buffer in zip(_NAMES, buffers, strict=True):
                    setattr(layer, name, buffer)


def _by_node(statistics: Mapping[_Place, _Buffers]) -> dict[int, dict[nn.Module, _Buffers]]:
    nodes: dict[int, dict[nn.Module, _Buffers]] = {}
    for (index, norm), buffers in statistics.items():
        nodes.setdefault(index, {})[norm] = buffers
    return nodes


def _same(x: torch.Tensor) -> torch.Tensor:
    return x
