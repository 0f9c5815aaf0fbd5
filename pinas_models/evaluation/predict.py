"""Classifying image files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..common.text import one_line
from .classifier import Classifier
from .protocols import Protocol

__all__ = ['IMAGE_SUFFIXES', 'Prediction', 'find_all_images', 'find_images', 'predict']

IMAGE_SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes:
        path: The image.
        classes: The most probable classes, the best first.
        probabilities: Theirs, in [0, 1].
        error: Why the image could not be read, or nothing.
    """

    path: Path
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ''


def find_images(argument: str) -> list[Path]:
    """The images that an argument means.

    Args:
        argument: An image file of any kind that Pillow reads; a folder, for the images in it and below, by their
            suffix; or a pattern with ``*``, ``?``, ``[...]`` or ``**``.

    Returns:
        Paths, sorted.

    Raises:
        FileNotFoundError: If there is no such file or folder, nothing fits the pattern, or the folder has no images.
    """
    path = Path(argument)
    if path.is_dir():
        found = sorted(child for child in path.rglob('*') if child.suffix.lower() in IMAGE_SUFFIXES and child.is_file())
        if not found:
            raise FileNotFoundError(f'{argument} has no images ({", ".join(IMAGE_SUFFIXES)})')
        return found
    if path.exists():  # before the pattern: [ and ] may be in a name
        return [path]
    if '://' in argument:
        raise FileNotFoundError(f'{argument} is an address: download it first')
    if glob.has_magic(argument):
        found = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())
        if not found:
            raise FileNotFoundError(f'no file fits the pattern {argument}')
        return found
    raise FileNotFoundError(f'{argument} does not exist')


def find_all_images(arguments: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The images that several arguments mean.

    Args:
        arguments: See ``find_images``.

    Returns:
        Different paths in the order of the arguments, and what is wrong with the arguments that mean none.
    """
    paths: dict[Path, None] = {}  # a set that keeps the order
    faults = []
    for argument in arguments:
        try:
            paths.update(dict.fromkeys(find_images(argument)))
        except FileNotFoundError as error:
            faults.append(str(error))
    return list(paths), faults


def predict(
    classifier: Classifier, protocol: Protocol, paths: Sequence[Path], *, topk: int = 5, batch_size: int = 64
) -> Iterator[Prediction]:
    """Classify images, in their order.

    Photographs are turned upright as their EXIF orientation says.

    Args:
        classifier: The model.
        protocol: How an image becomes its input.
        paths: Image files. One that cannot be read gives a prediction with ``error``.
        topk: Number of classes per image, at most the model's.
        batch_size: Images that are classified at once, and held in memory.

    Raises:
        ValueError: If the model cannot run.
    """
    topk = min(topk, classifier.num_classes)
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        inputs: dict[Path, Tensor] = {}
        errors: dict[Path, str] = {}
        for path in batch:
            try:
                with Image.open(path) as image:
                    inputs[path] = protocol.transform(ImageOps.exif_transpose(image).convert(classifier.mode))
            except Exception as error:  # decoders raise nearly anything on damaged files
                errors[path] = one_line(error)
        rows: dict[Path, Tensor] = {}
        if inputs:
            rows = dict(zip(inputs, classifier(torch.stack(list(inputs.values()))).softmax(1).cpu(), strict=True))
        for path in batch:
            if path in errors:
                yield Prediction(path, error=errors[path])
            else:
                best = rows[path].topk(topk)
                yield Prediction(path, tuple(best.indices.tolist()), tuple(best.values.tolist()))
