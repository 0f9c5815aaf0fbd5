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

__all__ = ['PathNetwork', 'recalibrate_bn']


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
    layers = [m for module in model.path_modules(path) for m in module.modules() if isinstance(m, _BatchNorm)]
    layers = [m for m in dict.fromkeys(layers) if m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    tracked = [_buffer(layer, 'num_batches_tracked').clone() for layer in layers]
    pool = _PooledStatistics(layers) if variance == 'pooled' else None
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


def _buffer(layer: _BatchNorm, name: str) -> torch.Tensor:
    """A statistic of a layer that tracks them (PyTorch types it as optional)."""
    return layer.get_buffer(name)


class _PooledStatistics:
    """Mean and unbiased variance over all values of all batches, from the statistics of each batch."""

    def __init__(self, layers: list[_BatchNorm]) -> None:
        self.layers = layers
        self.sizes: dict[nn.Module, int] = {}
        self.counts = [0] * len(layers)
        self.sums = [torch.zeros_like(_buffer(layer, 'running_mean'), dtype=torch.float64) for layer in layers]
        self.squares = [torch.zeros_like(total) for total in self.sums]
        self.handles = [layer.register_forward_pre_hook(self._remember_size) for layer in layers]

    def _remember_size(self, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.sizes[layer] = args[0].numel() // args[0].shape[1]

    def add(self) -> None:
        for i, layer in enumerate(self.layers):
            n = self.sizes[layer]
            mean = _buffer(layer, 'running_mean').double()
            self.counts[i] += n
            self.sums[i] += n * mean
            self.squares[i] += (n - 1) * _buffer(layer, 'running_var').double() + n * mean**2

    def write(self) -> None:
        if not self.layers:
            return
        parts = zip(self.sums, self.squares, self.counts, strict=True)
        packed = torch.cat([part for total, square, n in parts for part in (total, square, total.new_tensor([n]))])
        distributed.sum_(packed)
        lengths = [2 * len(total) + 1 for total in self.sums]
        for layer, values in zip(self.layers, packed.split(lengths), strict=True):
            size = values[-1]
            mean, mean_square = (values[:-1] / size).chunk(2)
            _buffer(layer, 'running_mean').copy_(mean)
            _buffer(layer, 'running_var').copy_((mean_square - mean**2) * size / (size - 1))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
