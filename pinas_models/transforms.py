"""The image transforms that the authors trained and evaluated with on ImageNet (their fork of PyTorch-Encoding).

``ECenterCrop`` and ``ERandomCrop`` follow EfficientNet's TensorFlow preprocessing. They work on PIL images and give the
same bytes as the authors' code: Pillow's bicubic filter antialiases, a tensor's ``interpolate`` does not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision import transforms

__all__ = ['ECenterCrop', 'ERandomCrop', 'Lighting', 'authors_eval_transform', 'authors_train_transform']

Box = tuple[int, int, int, int]


class ECenterCrop:
    """Cut out the central square of ``size / (size + 32)`` times the short side, then resize it bicubically.

    For 224 pixels that is the factor 0.875 of the usual protocol, but cropped first and resized once, so nothing is
    resized to 256 pixels. Images that are smaller than ``size`` are enlarged.
    """

    def __init__(self, size: int) -> None:
        """Set the side of the result.

        Args:
            size: Width and height of the result in pixels.

        Raises:
            ValueError: If the size is not positive.
        """
        self.size = _positive(size)

    def box(self, width: int, height: int) -> Box:
        """The square that is cut out of a ``width`` x ``height`` image: left, top, right, bottom in pixels."""
        side = self.size / (self.size + 32) * min(width, height)
        left, top = round((width - side) / 2), round((height - side) / 2)
        # The side is no whole number: as in Pillow, the far corner is rounded. At least a pixel is left of tiny images.
        return left, top, max(left + 1, round(left + side)), max(top + 1, round(top + side))

    def __call__(self, image: Image.Image) -> Image.Image:
        """Transform an image of any size to ``size`` x ``size``."""
        return _crop(image, self.box(*image.size), self.size)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


class ERandomCrop:
    """Cut out a random box of 10 to 100 % of the area with an aspect ratio of 3/4 to 4/3, then resize it bicubically.

    Unlike torchvision's ``RandomResizedCrop`` it draws the aspect ratio from a uniform distribution, then the height.
    After ten boxes that do not fit, and when the box is the whole image, the centre is taken (``ECenterCrop``).
    """

    min_area = 0.1
    aspects = (3 / 4, 4 / 3)
    attempts = 10

    def __init__(self, size: int, generator: random.Random | None = None) -> None:
        """Set the side of the result and the source of randomness.

        Args:
            size: Width and height of the result in pixels.
            generator: Where the boxes are drawn from; None for Python's ``random`` module, as in the authors' code. A
                ``DataLoader`` seeds the module differently in each worker, but gives each the same copy of a generator:
                pass one only where there are no workers.

        Raises:
            ValueError: If the size is not positive.
        """
        self.size = _positive(size)
        self.generator = generator
        self._center = ECenterCrop(size)

    def box(self, width: int, height: int) -> Box:
        """Draw a box in a ``width`` x ``height`` image: left, top, right, bottom in pixels."""
        uniform, randint = (
            (random.uniform, random.randint)
            if self.generator is None
            else (self.generator.uniform, self.generator.randint)
        )
        area = width * height
        for _ in range(self.attempts):
            aspect = uniform(*self.aspects)
            lowest = round(math.sqrt(self.min_area * area / aspect))
            highest = round(math.sqrt(area / aspect))
            if highest * aspect > width:
                highest = int((width + 0.5 - 1e-7) / aspect)
                if highest * aspect > width:
                    highest -= 1
            highest = min(highest, height)
            box_height = round(uniform(min(lowest, highest), highest))
            box_width = round(box_height * aspect)
            if not self.min_area * area <= box_width * box_height <= area or box_width > width or box_height > height:
                continue
            if (box_width, box_height) == (width, height):
                break
            left = randint(0, width - box_width)
            top = randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
        return self._center.box(width, height)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Transform an image of any size to ``size`` x ``size``."""
        return _crop(image, self.box(*image.size), self.size)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


class Lighting:
    """Add the same random colour to all pixels, along the principal components of ImageNet's colours.

    From AlexNet (Krizhevsky et al. 2012, section 4.1).
    """

    # Standard deviations and directions (columns) of RGB values in [0, 1].
    eigenvalues = (0.2175, 0.0188, 0.0045)
    eigenvectors = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

    def __init__(self, std: float = 0.1, generator: torch.Generator | None = None) -> None:
        """Set the strength.

        Args:
            std: Standard deviation of the three normally distributed factors.
            generator: Where they are drawn from; None for torch's default generator.
        """
        self.std = std
        self.generator = generator

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image [3, H, W] of values in [0, 1]; the result may leave this range."""
        factors = self.std * torch.randn(3, generator=self.generator, dtype=image.dtype)
        directions = torch.tensor(self.eigenvectors, dtype=image.dtype)
        colour = directions @ (factors * torch.tensor(self.eigenvalues, dtype=image.dtype))
        return image + colour.to(image.device).view(3, 1, 1)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(std={self.std})'


def authors_train_transform(
    size: int = 224,
    generator: random.Random | None = None,
    *,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> transforms.Compose:
    """The authors' training transform: PIL image to normalised tensor [3, size, size].

    Random crop, horizontal flip, colour jitter of 0.4, lighting noise of 0.1.

    Args:
        size: Width and height of the result in pixels.
        generator: Source of the crops, see ``ERandomCrop``; the rest is drawn from torch's default generator.
        mean: Mean of the channels, of values in [0, 1].
        std: Standard deviation of the channels.

    Raises:
        ValueError: If the size is not positive.
    """
    return transforms.Compose(
        [
            ERandomCrop(size, generator),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.4, 0.4, 0.4),
            transforms.ToTensor(),
            Lighting(0.1),
            transforms.Normalize(mean, std),
        ]
    )


def authors_eval_transform(
    size: int = 224, *, mean: Sequence[float] = IMAGENET_DEFAULT_MEAN, std: Sequence[float] = IMAGENET_DEFAULT_STD
) -> transforms.Compose:
    """The transform of the authors' reported accuracies: PIL image to normalised tensor [3, size, size].

    Args:
        size: Width and height of the result in pixels.
        mean: Mean of the channels, of values in [0, 1].
        std: Standard deviation of the channels.

    Raises:
        ValueError: If the size is not positive.
    """
    return transforms.Compose([ECenterCrop(size), transforms.ToTensor(), transforms.Normalize(mean, std)])


def _crop(image: Image.Image, box: Box, size: int) -> Image.Image:
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def _positive(size: int) -> int:
    if size < 1:
        raise ValueError(f'size is {size}; it must be at least 1 pixel')
    return size
