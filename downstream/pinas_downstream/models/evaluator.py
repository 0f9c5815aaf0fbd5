"""The authors' multi-scale evaluation of segmentation (PyTorch-Encoding's ``MultiEvalModule``), in the log domain.

The authors add up exp(logits of the image + logits of its mirror image), without softmax, over windows and scales. In
float32 that overflows as soon as two logits add up to 88, and then classes cannot be ranked. Here every score is held
as its logarithm, so sums become ``logaddexp`` and the enlargement a weighted one: the same numbers, any logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ['MultiEvalSettings', 'multi_eval']

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MultiEvalSettings:
    """Settings of the evaluation.

    Attributes:
        base_size: Longer side at scale 1, in pixels. The authors: 520 for ADE20K, 2048 for Cityscapes.
        crop_size: Side of the square window that the network sees, in pixels. The authors: 480, 768.
        scales: The authors: .5 .75 1 1.25 1.5 1.75 for ADE20K, .75 1 1.25 1.5 1.75 2 2.25 for Cityscapes.
        flip: Add the logits of the mirror image.
    """

    base_size: int
    crop_size: int
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If a size or scale is not positive, or there is no scale.
        """
        if not (self.base_size > 0 and self.crop_size > 1 and self.scales and min(self.scales) > 0):
            raise ValueError(f'sizes and scales must be positive, and there must be a scale: {self}')


def multi_eval(
    logits: Logits, images: torch.Tensor, settings: MultiEvalSettings, black: torch.Tensor | None = None
) -> torch.Tensor:
    """Score every pixel and class.

    Args:
        logits: The network in eval mode: [N, 3, crop_size, crop_size] to [N, classes, crop_size, crop_size].
        images: [N, C, H, W], normalised, in their original size.
        settings: Sizes and scales.
        black: [C], a black pixel after normalisation, which pads; None is 0.

    Returns:
        Logarithm of the authors' scores, [N, classes, H, W]; the prediction is its arg max over the classes.
    """
    size = images.shape[2:]
    fill = images.new_zeros(images.shape[1]) if black is None else black.to(images)
    total = None
    for scale in settings.scales:
        resized = F.interpolate(images, _scaled(size, settings.base_size * scale), mode='bilinear', align_corners=True)
        scores = _resize(_windows(logits, resized, settings, fill), size)
        total = scores if total is None else torch.logaddexp(total, scores)
    return total  # type: ignore[return-value]  # there is a scale


def _scaled(size: Sequence[int], long_side: float) -> tuple[int, int]:
    """Size whose longer side is ``long_side``, rounded as the authors do."""
    height, width = size
    long = math.ceil(long_side)
    if height > width:
        return long, int(1.0 * width * long / height + 0.5)
    return int(1.0 * height * long / width + 0.5), long


def _windows(logits: Logits, x: torch.Tensor, settings: MultiEvalSettings, fill: torch.Tensor) -> torch.Tensor:
    """Log scores [N, classes, H, W] at one scale, the mean over the windows that see a pixel."""
    height, width = x.shape[2:]
    crop = settings.crop_size
    if max(height, width) <= crop:
        return _infer(logits, _pad(x, crop, fill), settings.flip)[..., :height, :width]
    x = _pad(x, crop, fill)
    padded_height, padded_width = x.shape[2:]
    stride = int(crop * (2.0 / 3.0))
    total = None
    count = x.new_zeros(1, 1, padded_height, padded_width)
    for rows in _intervals(padded_height, crop, stride):
        for columns in _intervals(padded_width, crop, stride):
            window = x[..., rows, columns]
            scores = _infer(logits, _pad(window, crop, fill), settings.flip)
            if total is None:
                total = scores.new_full((*scores.shape[:2], padded_height, padded_width), -math.inf)
            part = total[..., rows, columns]
            part.copy_(torch.logaddexp(part, scores[..., : window.shape[2], : window.shape[3]]))
            count[..., rows, columns] += 1
    return (total - count.log())[..., :height, :width]  # type: ignore[operator]  # there is a window


def _intervals(size: int, crop: int, stride: int) -> Iterator[slice]:
    """Windows along an axis. The last one is not shifted back: it is smaller."""
    for index in range(math.ceil((size - crop) / stride) + 1):
        yield slice(index * stride, min(index * stride + crop, size))


def _pad(x: torch.Tensor, crop: int, fill: torch.Tensor) -> torch.Tensor:
    """Pad at the bottom and at the right, each side up to the window's."""
    height, width = x.shape[2:]
    padded = fill.view(1, -1, 1, 1).expand(len(x), -1, max(height, crop), max(width, crop)).clone()
    padded[..., :height, :width] = x
    return padded


def _infer(logits: Logits, x: torch.Tensor, flip: bool) -> torch.Tensor:
    result = logits(x)
    if flip:
        result = result + logits(x.flip(3)).flip(3)
    return result.float()


def _resize(scores: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Logarithm of the bilinear interpolation (``align_corners=True``) of the exponential."""
    for axis, length in zip((2, 3), size, strict=True):
        old = scores.shape[axis]
        if length == old:
            continue
        position = torch.linspace(0, old - 1, length, dtype=torch.float64)
        lower = position.long()
        weight = position - lower
        shape = [length if dim == axis else 1 for dim in range(4)]
        log_upper, log_lower = (w.log().to(scores).view(shape) for w in (weight, 1 - weight))
        lower = lower.to(scores.device)
        upper = (lower + 1).clamp(max=old - 1)
        scores = torch.logaddexp(
            scores.index_select(axis, lower) + log_lower, scores.index_select(axis, upper) + log_upper
        )
    return scores
