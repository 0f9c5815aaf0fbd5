"""The same results by cheaper calls, where the call is a single layer of PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..supernets import Call

__all__ = ['fold', 'lower_pool']


def fold(conv: Call, norm: Call, mean: torch.Tensor, var: torch.Tensor) -> Call | None:
    """A convolution that does what ``conv`` and then ``norm``, in eval mode with these statistics, do; None if unable.

    Args:
        conv: The first call.
        norm: The second one.
        mean: Running mean [C] of ``norm``.
        var: Running variance [C].
    """
    if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or conv.padding_mode != 'zeros':
        return None
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
    weight, bias = weight.detach(), bias.detach()
    stride, padding, dilation, groups = conv.stride, conv.padding, conv.dilation, conv.groups
    return lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def lower_pool(call: Call) -> Call | None:
    """An average pooling as a convolution of each channel; None if it is another call.

    PyTorch pools few channels on a CPU without vector instructions (2.14: 8 channels of 32x32 pixels take three times as
    long as a 3x3 convolution of them).
    """
    if type(call) is not nn.AvgPool2d or call.ceil_mode or call.divisor_override:
        return None
    kernel, stride, padding = _pair(call.kernel_size), call.stride, call.padding
    cache: dict[tuple[int, int, int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def pool(x: torch.Tensor) -> torch.Tensor:
        if x.device.type != 'cpu' or x.dtype != torch.float32 or torch.is_autocast_enabled('cpu'):
            return call(x)
        channels, height, width = x.shape[1:]
        key = (channels, height, width, x.dtype)
        if key not in cache:
            shares = call(x.new_ones(1, 1, height, width))
            inside = F.avg_pool2d(x.new_ones(1, 1, height, width), kernel, stride, padding, divisor_override=1)
            ones = x.new_ones(channels, 1, *kernel).contiguous(memory_format=torch.channels_last)
            cache[key] = ones, shares / inside
        ones, factors = cache[key]
        return F.conv2d(x, ones, None, stride, padding, groups=channels).mul_(factors)

    return pool


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
