"""BN recalibration: the batch norm statistics of one path (paper section 3.3; the authors' ``update_bn_stats``).

The running statistics of a supernet mix all paths that were sampled, so a path can only be judged with its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import distributed

__all__ = ['PathNetwork', 'PooledStatistics', 'keeps_statistics', 'recalibrate_bn', 'tracking_layers']


class PathNetwork(Protocol):
    """What recalibration needs of a supernet."""

    def __call__(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Run a path."""

    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """The modules of a path."""

    def train(self, mode: bool = True) -> object:
        """Set the mode."""


@torch.no_grad()
def recalibrate_bn(
    model: PathNetwork,
    path: Sequence[int],
    batches: Iterable[torch.Tensor],
    *,
    variance: Literal['mean', 'pooled'] = 'mean',
) -> None:
    """Replace the BN statistics of ``path`` by those of ``batches``; the model is in eval mode afterwards.

    Blocks off the path keep their statistics. ``num_batches_tracked`` of the path's layers grows by the number of
    batches.

    Args:
        model: The supernet.
        path: One choice per position.
        batches: Normalised images [N, 3, H, W]; all of them are used.
        variance: ``mean``: plain average over batches of the mean and of the unbiased variance (the authors' code).
            ``pooled``: statistics of all images together, also over the ranks of an initialised process group.

    Raises:
        ValueError: If ``batches`` is empty or the path is not in the space.
    """
    layers = tracking_layers(model.path_modules(path))
    momenta = [layer.momentum for layer in layers]
    tracked = [_buffer(layer, 'num_batches_tracked').clone() for layer in layers]
    pool = _Pools(layers) if variance == 'pooled' else None
    count = 0
    model.train()
    try:
        for layer in layers:
            # None asks PyTorch for the cumulative average, which is the plain mean over the batches.
            layer.momentum = None if pool is None else 1.0
            _buffer(layer, 'num_batches_tracked').zero_()
        for batch in batches:
            model(batch, path)
            count += 1
            if pool is not None:
                pool.add()
        if pool is not None and count:
            pool.write()
    finally:
        for layer, momentum, before in zip(layers, momenta, tracked, strict=True):
            layer.momentum = momentum
            _buffer(layer, 'num_batches_tracked').copy_(before + count)
        if pool is not None:
            pool.close()
        model.train(False)
    if not count:
        raise ValueError('BN recalibration got no batch: give it at least one batch of training images')


def keeps_statistics(model: nn.Module) -> bool:
    """Whether all batch norms of a model keep running statistics, so that its results do not depend on the batch."""
    return all(m.track_running_stats for m in model.modules() if isinstance(m, _BatchNorm))


def tracking_layers(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    """The batch norms of modules that keep running statistics, each once."""
    layers = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)]
    return [m for m in dict.fromkeys(layers) if m.track_running_stats]


def _buffer(layer: _BatchNorm, name: str) -> torch.Tensor:
    """A statistic of a layer that tracks them (PyTorch types it as optional)."""
    return layer.get_buffer(name)


class PooledStatistics:
    """Mean and unbiased variance over all values of all batches, from the statistics of each batch."""

    def __init__(self, like: torch.Tensor) -> None:
        """Begin with nothing.

        Args:
            like: A tensor [C] with one value per channel.
        """
        self._count = 0
        self._sum = torch.zeros_like(like, dtype=torch.float64)
        self._squares = torch.zeros_like(self._sum)

    def add(self, size: int, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Add a batch of ``size`` values per channel with this mean and unbiased variance [C]."""
        mean = mean.double()
        self._count += size
        self._sum += size * mean
        self._squares += (size - 1) * var.double() + size * mean**2

    def write(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Put the pooled mean and variance [C] there, over the ranks of a process group as well."""
        packed = torch.cat([self._sum, self._squares, self._sum.new_tensor([self._count])])
        distributed.sum_(packed)
        size = packed[-1]
        pooled, mean_square = (packed[:-1] / size).chunk(2)
        mean.copy_(pooled)
        var.copy_((mean_square - pooled**2) * size / (size - 1))


class _Pools:
    """Pooled statistics of the layers of a path."""

    def __init__(self, layers: list[_BatchNorm]) -> None:
        self.pools = {layer: PooledStatistics(_buffer(layer, 'running_mean')) for layer in layers}
        self.sizes: dict[nn.Module, int] = {}
        self.handles = [layer.register_forward_pre_hook(self._remember_size) for layer in layers]

    def _remember_size(self, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.sizes[layer] = args[0].numel() // args[0].shape[1]

    def add(self) -> None:
        for layer, pool in self.pools.items():
            pool.add(self.sizes[layer], _buffer(layer, 'running_mean'), _buffer(layer, 'running_var'))

    def write(self) -> None:
        for layer, pool in self.pools.items():
            pool.write(_buffer(layer, 'running_mean'), _buffer(layer, 'running_var'))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
