"""Wider groups of convolutions, filled with zeros, for processors that compute in blocks of channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad

from .pinas import PinasBottleneck

__all__ = ['pad_groups']


def pad_groups(model: nn.Module, multiple: int) -> None:
    """Widen the groups of every 3x3 convolution of a fused network to a multiple of channels; outputs stay the same.

    Choices 2 and 3 have groups of 42 or of 20 and 40 channels and their doubles. Matrix units work on blocks of 16 or
    32 channels; for other widths libraries fall back to slow general code. The new channels have weights and biases of
    zero and nobody reads them.

    Args:
        model: A network of this package whose batch norms are folded and whose split attention is fused; changed.
        multiple: Channels per group and side become a multiple of it; 1 changes nothing.

    Raises:
        ValueError: If ``multiple`` is not positive.
    """
    if multiple < 1:
        raise ValueError(f'group_multiple is {multiple}; it must be at least 1')
    for block in model.modules():
        if isinstance(block, PinasBottleneck):
            _pad_block(block, multiple)


def _pad_block(block: PinasBottleneck, multiple: int) -> None:
    conv = block.conv2.conv
    groups, radix = conv.groups, block.conv2.radix
    inside, outside = conv.in_channels // groups, conv.out_channels // groups
    more_inside, more_outside = -inside % multiple, -outside % multiple
    if not (more_inside or more_outside):
        return
    norms = (block.bn1, block.conv2.bn0)
    if not all(isinstance(norm, nn.Identity) for norm in norms):
        return  # a norm that could not be folded has a width of its own
    cardinality = groups // radix
    block.conv1 = _padded(block.conv1, outputs=(groups, more_inside))
    block.conv2.conv = _padded(conv, outputs=(groups, more_outside), inputs=(1, more_inside))
    # The attention sees the sum of the splits, and returns a value per channel of every split.
    block.conv2.fc1 = _padded(block.conv2.fc1, inputs=(1, more_outside))
    block.conv2.fc2 = _padded(block.conv2.fc2, outputs=(groups, more_outside))
    block.conv3 = _padded(block.conv3, inputs=(cardinality, more_outside))


def _padded(conv: nn.Conv2d, outputs: tuple[int, int] = (1, 0), inputs: tuple[int, int] = (1, 0)) -> nn.Conv2d:
    """A copy of a convolution with channels of zeros behind those of each part.

    Args:
        conv: The convolution.
        outputs: Into how many parts the output channels fall, and channels to add to each.
        inputs: The same of the input channels of one group.
    """
    weight = _pad_parts(_pad_parts(conv.weight, 0, *outputs), 1, *inputs)
    wider = nn.Conv2d(
        weight.shape[1] * conv.groups,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]  # nn.Conv2d has made pairs of them
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        bias=conv.bias is not None,
        device='meta',
    )
    wider.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    if conv.bias is not None:
        wider.bias = nn.Parameter(_pad_parts(conv.bias, 0, *outputs), requires_grad=conv.bias.requires_grad)
    return wider.eval()


def _pad_parts(tensor: torch.Tensor, dim: int, parts: int, more: int) -> torch.Tensor:
    """Add zeros behind each of equal parts of a dimension."""
    split = tensor.detach().unflatten(dim, (parts, -1))
    behind = [0, 0] * (split.ndim - dim - 2) + [0, more]
    return pad(split, behind).flatten(dim, dim + 1).contiguous()
