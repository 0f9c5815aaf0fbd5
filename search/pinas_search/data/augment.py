"""Random views as batched tensor operations, on the device of the images.

Random numbers are drawn on the CPU from the generator that is passed, so every device sees the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import ViewConfig
from .batches import WHOLE, Part

__all__ = [
    'boxes_from_draws',
    'color_jitter',
    'crop_boxes',
    'crop_draws',
    'crop_resize',
    'gaussian_blur',
    'jitter_draws',
    'normalize',
    'photometric',
]

_ATTEMPTS = 10  # of torchvision's RandomResizedCrop, before it falls back to a central crop
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def crop_draws(num: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) behind the boxes of ``num`` crops: [num, 22], float64."""
    return torch.rand(num, 2 * _ATTEMPTS + 2, generator=generator, dtype=torch.float64)


def boxes_from_draws(draws: Tensor, height: int, width: int, scale: Sequence[float], ratio: Sequence[float]) -> Tensor:
    """Turn uniform numbers into boxes by the rule of RandomResizedCrop.

    Area and log aspect ratio are uniform; the first of ten attempts that fits into the image is taken, else the largest
    central box with an allowed aspect ratio.

    Args:
        draws: What ``crop_draws`` returned, [num, 22].
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        scale: Smallest and largest area, as a fraction of the image.
        ratio: Smallest and largest width / height.

    Returns:
        Top, left, height and width of the boxes, [num, 4], int64.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, :_ATTEMPTS])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, _ATTEMPTS : 2 * _ATTEMPTS])
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h = widths.gather(1, first)[:, 0], heights.gather(1, first)[:, 0]
    top = ((height - h + 1) * draws[:, -2]).floor()
    left = ((width - w + 1) * draws[:, -1]).floor()
    central_w = min(width, round(height * max(ratio))) if width / height > max(ratio) else width
    central_h = min(height, round(width / min(ratio))) if width / height < min(ratio) else height
    central = torch.tensor([(height - central_h) // 2, (width - central_w) // 2, central_h, central_w])
    boxes = torch.stack([top, left, h, w], 1).long()
    return torch.where(fits.any(1, keepdim=True), boxes, central)


def crop_boxes(
    num: int, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Draw boxes as RandomResizedCrop does, see ``boxes_from_draws``; [num, 4] on the CPU."""
    return boxes_from_draws(crop_draws(num, generator), height, width, scale, ratio)


def crop_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box out of every image and resize it, bilinear with antialias (as PIL and torchvision do).

    Args:
        images: [N, 3, H, W], uint8 in 0..255 or float in [0, 1].
        boxes: Top, left, height and width of one box per image, [N, 4].
        size: Side of the result, in pixels.

    Returns:
        [N, 3, size, size], float32 in [0, 1].
    """
    boxes = boxes.to(images.device)
    rows = _resize_weights(boxes[:, 0], boxes[:, 2], images.shape[2], size)
    columns = _resize_weights(boxes[:, 1], boxes[:, 3], images.shape[3], size)
    if images.dtype == torch.uint8:
        columns /= 255
    return _resample(images.float(), rows, columns).clamp_(max=1)  # rounding can exceed 1 by an ulp


def photometric(
    images: Tensor, views: ViewConfig, generator: torch.Generator, *, part: Part = WHOLE, num_views: int = 1
) -> Tensor:
    """Colour jitter, grayscale, Gaussian blur and horizontal flip, each with its probability, image by image.

    These are the steps of the authors' pipeline, in its order.

    Args:
        images: [N, 3, S, S] in [0, 1].
        views: Strengths and probabilities.
        generator: Source of all random numbers, on the CPU. They are drawn for the whole batch.
        part: What of the batch the images are.
        num_views: The images are so many views of the batch, one view after the other.

    Returns:
        New images, [N, 3, S, S] in [0, 1].
    """
    images = images.clone(memory_format=torch.contiguous_format)
    num = len(images) * part.count
    rows = torch.arange(num).view(num_views, -1)
    rows = rows[:, part.of(rows.shape[1])].flatten()
    if views.jitter_prob > 0:
        chosen = torch.rand(num, generator=generator) < views.jitter_prob
        factors, order = jitter_draws(num, views.jitter, generator)
        index = chosen[rows].nonzero()[:, 0]
        _jitter_(images, index, factors[rows][index], order[rows][index])
    if views.grayscale_prob > 0:
        chosen = torch.rand(num, generator=generator) < views.grayscale_prob
        index = chosen[rows].nonzero()[:, 0].to(images.device)
        images.index_copy_(0, index, _gray(images[index]).expand(-1, 3, -1, -1))
    if views.blur_prob > 0:
        chosen = torch.rand(num, generator=generator) < views.blur_prob
        low, high = views.blur_sigma
        sigma = low + (high - low) * torch.rand(num, generator=generator)
        index = chosen[rows].nonzero()[:, 0]
        largest = float(sigma[chosen].max()) if chosen.any() else 0.0
        blurred = gaussian_blur(images[index.to(images.device)], sigma[rows][index], largest)
        images.index_copy_(0, index.to(images.device), blurred)
    if views.flip_prob > 0:
        chosen = torch.rand(num, generator=generator) < views.flip_prob
        index = chosen[rows].nonzero()[:, 0].to(images.device)
        images.index_copy_(0, index, images[index].flip(3))
    return images


def jitter_draws(num: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the colour jitter of ``num`` images as torchvision's ColorJitter does, with one strength for all operations.

    Args:
        num: Number of images.
        strength: Largest change of the factors of brightness, contrast and saturation from 1, and of the hue in turns;
            the hue's is limited to 0.5, which is every hue.
        generator: Source of the random numbers.

    Returns:
        Factors of brightness, contrast and saturation and the shift of the hue, [num, 4]; the order in which these four
        are applied, [num, 4].
    """
    change = 2 * torch.rand(num, 4, generator=generator) - 1
    factors = torch.cat([(1 + strength * change[:, :3]).clamp_(min=0), min(strength, 0.5) * change[:, 3:]], 1)
    return factors, torch.rand(num, 4, generator=generator).argsort(1)


def color_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, as torchvision defines them.

    Args:
        images: [N, 3, H, W] in [0, 1].
        factors: See ``jitter_draws``.
        order: See ``jitter_draws``.

    Returns:
        New images, [N, 3, H, W] in [0, 1].
    """
    images = images.clone()
    _jitter_(images, torch.arange(len(images)), factors, order)
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, largest: float | None = None) -> Tensor:
    """Blur images; beyond the edges, the pixels at the edges repeat.

    The kernel is a true Gaussian; Pillow's ``GaussianBlur``, which the authors use, makes do with three box filters.

    Args:
        images: [N, 3, S, S] in [0, 1].
        sigma: Standard deviation for each image, in pixels, [N], on the CPU.
        largest: The kernels reach as far as this one needs; the largest of ``sigma`` if None.

    Returns:
        New images, [N, 3, S, S] in [0, 1].
    """
    size = images.shape[-1]
    if largest is None:
        largest = float(sigma.max()) if len(sigma) else 0.0
    reach = max(1, math.ceil(5 * largest))  # leaves out less than 1e-6 of the weight
    taps = torch.exp(-0.5 * (torch.arange(reach + 1) / sigma.clamp(min=1e-3)[:, None]) ** 2)
    taps /= taps[:, :1] + 2 * taps[:, 1:].sum(1, keepdim=True)
    taps = torch.cat([taps, torch.zeros(len(taps), 1)], 1).to(images.device)
    columns = torch.arange(-reach, size + reach, device=images.device)
    distance = (columns - torch.arange(size, device=images.device)[:, None]).abs_().clamp_(max=reach + 1)
    weights = taps[:, distance]  # [N, S, S + 2 reach], of the image with its edges continued
    matrix = weights[:, :, reach : reach + size].clone()
    matrix[:, :, 0] += weights[:, :, :reach].sum(2)
    matrix[:, :, -1] += weights[:, :, reach + size :].sum(2)
    return _resample(images, matrix, matrix).clamp_(max=1)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel; images [..., 3, H, W]."""
    shape = (-1, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def _resize_weights(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Weights [N, size_out, size_in] of the pixels ``start`` to ``start + length`` of a line: a triangle filter."""
    position = torch.arange(size_in, device=start.device) - start[:, None, None]  # relative to the box
    step = (length / size_out)[:, None, None]
    center = step * (torch.arange(size_out, device=start.device)[None, :, None] + 0.5)
    weights = (position + 0.5 - center).abs_().div_(step.clamp(min=1)).neg_().add_(1).clamp_(min=0)
    weights *= (position >= 0) & (position < length[:, None, None])
    return weights.div_(weights.sum(2, keepdim=True))


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply matrices [N, S, H] to the rows and [N, S, W] to the columns of images [N, 3, H, W]."""
    num, channels, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):  # images keep float32 where networks run in bfloat16
        narrow = torch.bmm(images.reshape(num, channels * height, width), columns.transpose(1, 2))
        return torch.matmul(rows[:, None], narrow.view(num, channels, height, columns.shape[1]))


def _jitter_(images: Tensor, index: Tensor, factors: Tensor, order: Tensor) -> None:
    """Jitter ``images[index]`` in place; all images that need the same operation next are changed together."""
    for place in range(4):
        for number, operation in enumerate((_brightness, _contrast, _saturation, _hue)):
            now = order[:, place] == number
            rows = index[now].to(images.device)
            factor = factors[now, number].to(images.device)[:, None, None, None]
            images.index_copy_(0, rows, operation(images[rows], factor))


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, 1)
    return (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _gray(images.mean((2, 3), keepdim=True))
    return images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    gray = _gray(images).mul_(1 - factor)
    return images.mul_(factor).add_(gray).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by ``shift`` turns at constant HSV saturation and value."""
    red, green, blue = images.split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Hue in sixths of a turn. Where the chroma is 0 it is arbitrary: it is multiplied by the chroma below.
    scale = chroma.clamp(min=1e-12).reciprocal_()
    green_or_blue = torch.where(value == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4))
    hue = torch.where(value == red, (green - blue).mul_(scale), green_or_blue).add_(6 * shift)
    hue.sub_((hue / 6).floor_(), alpha=6)  # into [0, 6); several times faster than remainder
    # HSV to RGB without cases: a channel is value - chroma * clip(2 - ||hue - c| - 3|, 0, 1), c = 0, 2, 4.
    distance = torch.cat([hue, hue - 2, hue - 4], 1).abs_().sub_(3).abs_()
    return distance.neg_().add_(2).clamp_(0, 1).mul_(chroma).neg_().add_(value)
