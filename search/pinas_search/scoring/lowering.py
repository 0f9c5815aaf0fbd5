"""The same results by cheaper calls, where a call is one layer of PyTorch or timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SplitAttn
from torch import nn

from pinas_models.deploy.fuse import FusedSplitAttn

from ..supernets import Call

__all__ = ['FoldedConv', 'fold', 'fold_inside', 'lower']

_Statistics = tuple[torch.Tensor, ...]  # running mean and variance [C], and perhaps more


class FoldedConv(nn.Module):
    """A convolution and the batch norm behind it, in eval mode with given statistics.

    The product of the weights is made at each call: kept, it would be as large as the weights of all paths together.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, statistics: _Statistics) -> None:
        """Prepare scale and shift.

        Args:
            conv: The convolution.
            norm: The batch norm.
            statistics: Its running mean and variance [C].
        """
        super().__init__()
        mean, var = statistics[:2]
        scale = (var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach()
        shift = -mean if conv.bias is None else conv.bias.detach() - mean
        shift = shift * scale
        self._bias = shift if norm.bias is None else shift + norm.bias.detach()
        self._scale = scale.view(-1, 1, 1, 1)
        self._conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, H, W] -> [N, C', H', W']."""
        weight, conv = self._conv.weight * self._scale, self._conv
        return F.conv2d(x, weight, self._bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def fold(conv: object, norm: object, statistics: _Statistics) -> FoldedConv | None:
    """Two calls as one; None unless they are a convolution and a batch norm that can be folded."""
    # By exact type: a subclass computes something else.
    if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.padding_mode == 'zeros':
        return FoldedConv(conv, norm, statistics)
    return None


def fold_inside(call: Call, statistics: Mapping[nn.Module, _Statistics]) -> Call | None:
    """A split attention with its batch norms folded; None if it is another call.

    Args:
        call: The call.
        statistics: Those of its batch norms.
    """
    if not _is_attention(call):
        return None
    attention = FusedSplitAttn(call)
    for conv, norm in (('conv', 'bn0'), ('fc1', 'bn1')):
        layer = getattr(call, norm)
        folded = fold(getattr(call, conv), layer, statistics[layer]) if layer in statistics else None
        if folded is not None:
            setattr(attention, conv, folded)
            setattr(attention, norm, nn.Identity())
    return attention


def lower(call: Call) -> Call | None:
    """The same in training and in eval mode, by other calls: average pooling and split attention; None for others.

    PyTorch pools few channels on a CPU without vector instructions (2.14: 8 channels of 32x32 pixels take three times
    as long as a 3x3 convolution of them).
    """
    if _is_attention(call):
        return FusedSplitAttn(call)
    if type(call) is nn.AvgPool2d and not call.ceil_mode and not call.divisor_override:
        return _PoolByConv(call)
    return None


def _is_attention(call: Any) -> bool:
    return type(call) is SplitAttn and call.radix <= 2


class _PoolByConv(nn.Module):
    """Average pooling as a convolution of each channel with ones."""

    def __init__(self, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self._pool = pool
        size = pool.kernel_size
        self._kernel = (size, size) if isinstance(size, int) else size
        self._constants: dict[torch.Size, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != 'cpu' or x.dtype != torch.float32 or torch.is_autocast_enabled('cpu'):
            return self._pool(x)
        pool = self._pool
        if x.shape[1:] not in self._constants:
            ones = x.new_ones(1, 1, *x.shape[2:])
            inside = F.avg_pool2d(ones, self._kernel, pool.stride, pool.padding, divisor_override=1)
            kernel = x.new_ones(x.shape[1], 1, *self._kernel)
            self._constants[x.shape[1:]] = kernel, pool(ones) / inside
        kernel, factors = self._constants[x.shape[1:]]
        return F.conv2d(x, kernel, None, pool.stride, pool.padding, groups=x.shape[1]).mul_(factors)
