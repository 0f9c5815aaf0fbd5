"""Opening image files: of named formats only, not larger than a limit, turned upright, in eight bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

__all__ = ['FORMATS', 'MAX_PIXELS', 'check_size', 'opened', 'to_mode', 'upright']

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')  # EPS, for one, starts Ghostscript
MAX_PIXELS = 178_956_970  # where Pillow refuses, too, unless it is told otherwise


@contextmanager
def opened(file: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image, not decoded yet; what is in the file decides about its format, not its name.

    Args:
        file: Path or binary file.

    Raises:
        OSError: If it is missing or of none of ``FORMATS``.
        ValueError: If it has more than ``MAX_PIXELS``.
    """
    with Image.open(file, formats=FORMATS) as image:
        check_size(image)
        yield image


def check_size(image: Image.Image) -> None:
    """Refuse an image before it is decoded.

    Raises:
        ValueError: If it has more than ``MAX_PIXELS``.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f'it has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read')


def upright(image: Image.Image) -> Image.Image:
    """Turn a photograph as its EXIF orientation says: one rule for prediction, evaluation and search."""
    return ImageOps.exif_transpose(image)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Turn an image upright and convert it to eight bits, where Pillow would clip the values of more bits at 255.

    Of 16-bit values the upper eight bits are taken. 32-bit integers count as 16-bit values if none is larger (Pillow
    opens 16-bit files so, in some versions), else their upper eight bits are taken; floating-point values are taken
    for 0..1, or for 0..255 if some are larger than 1.

    Args:
        image: Any image.
        mode: Pillow's name of the result, ``RGB`` or ``L``.

    Raises:
        ValueError: If floating-point values are within neither.
    """
    image = upright(image)
    if image.mode.startswith('I') or image.mode == 'F':
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == 'P':
        image = image.convert('RGBA')  # Pillow's advice for palettes with transparency
    return image.convert(mode)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
            raise ValueError('its floating-point values are not within 0..1 or 0..255')
        return np.rint(values * (255 if values.max() <= 1 else 1)).astype(np.uint8)
    values = values.astype(np.int64)
    if values.min() < 0:  # Pillow has no unsigned 32-bit images: it keeps their bits
        values = values & 0xFFFFFFFF
    return (values >> (8 if values.max() < 2**16 else 24)).astype(np.uint8)
