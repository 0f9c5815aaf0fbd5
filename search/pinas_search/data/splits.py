"""Training, held-out and test images of a run."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..config import DataConfig
from ..randomness import generator
from .images import ImageFiles, fit, open_files
from .sources import ImageSource, InMemoryImages, StreamedImages

__all__ = ['CAVEATS', 'Splits', 'load_splits']

# What a reader must know of built-in data before believing any number that was measured on them.
CAVEATS = {
    'digits': 'This run shows the machinery of a search, on a task too easy to tell networks apart: on small digits '
    'most candidates tie, and the differences that remain are noise.',
}

_MEMORY_BYTES = 2 << 30
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        train: Training images without the held-out ones.
        held_out: Images of the training set on which the search scores candidates, the same number of each class (the
            paper takes 50).
        full_train: Training and held-out images, for retraining.
        test: Test images, if there are any.
        class_names: Names of the classes, in the order of the labels.
    """

    train: ImageSource
    held_out: ImageSource
    full_train: ImageSource
    test: ImageSource | None
    class_names: tuple[str, ...]


def load_splits(config: DataConfig, *, seed: int, device: torch.device) -> Splits:
    """Open the images of a run, and decode them if they stay in memory.

    Args:
        config: Which images.
        seed: Seed of the run, which decides what is held out.
        device: Where the networks run.

    Raises:
        FileNotFoundError: If the root does not exist.
        ValueError: If the images cannot be used; says what to do.
    """
    if config.image_size < _SMALLEST_SIDE:
        raise ValueError(
            f'data.image_size={config.image_size} is too small: at least {_SMALLEST_SIDE} pixels are needed'
        )
    full_train: ImageSource
    test: ImageSource | None = None
    if config.source == 'digits':
        full_train, test, class_names = _digits(config.image_size, device)
        test = test if config.test_split else None
        _check_counts(full_train.labels, class_names, config.held_out_per_class)
    else:
        files = open_files(config.source, config.root, config.train_split, test=False)
        class_names = files.class_names
        _check_counts(files.labels, class_names, config.held_out_per_class)
        if config.test_split:
            test_files = open_files(config.source, config.root, config.test_split, test=True)
            _check_test(files, test_files)
        full_train = _source(files, config, device, 'training images')
        if config.test_split:
            test = _source(test_files, config, device, 'test images')
    held_out = _draw_held_out(full_train.labels, config.held_out_per_class, seed)
    rest = torch.ones(len(full_train), dtype=torch.bool)
    rest[held_out] = False
    return Splits(full_train.subset(rest.nonzero()[:, 0]), full_train.subset(held_out), full_train, test, class_names)


def _draw_held_out(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Draw ``per_class`` images of each class; their indices in ascending order."""
    order = torch.randperm(len(labels), generator=generator(seed, 'data/held_out'))
    by_class = order[labels[order].argsort(stable=True)].split(torch.bincount(labels).tolist())
    return torch.cat([rows[:per_class] for rows in by_class]).sort().values


def _check_counts(labels: Tensor, class_names: tuple[str, ...], held_out: int) -> None:
    counts = torch.bincount(labels, minlength=len(class_names))
    name, count = class_names[int(counts.argmin())], int(counts.min())
    if count == 0:
        raise ValueError(f'the class {name} has no training images: add some')
    if count <= held_out:
        raise ValueError(
            f'the class {name} has {count} training images, too few to hold out data.held_out_per_class={held_out} and '
            f'to train on others: lower data.held_out_per_class to {count - 1} or less'
        )


def _check_test(train: ImageFiles, test: ImageFiles) -> None:
    if train.samples is not None and train.samples == test.samples:
        raise ValueError(
            f'data.train_split and data.test_split lead to the same images, {train.source}: correct data.test_split, '
            'or leave it empty (data.test_split=) if there are no test images'
        )
    if train.class_names != test.class_names:
        only_train = sorted(set(train.class_names) - set(test.class_names))
        only_test = sorted(set(test.class_names) - set(train.class_names))
        raise ValueError(
            f'{train.source} and {test.source} have different classes: {len(only_train)} for training only '
            f'({", ".join(only_train[:3])}), {len(only_test)} for testing only ({", ".join(only_test[:3])}); '
            'make the class folders equal'
        )


def _digits(image_size: int, device: torch.device) -> tuple[InMemoryImages, InMemoryImages, tuple[str, ...]]:
    """Training images, test images (every fifth of a class) and class names of scikit-learn's digits."""
    from sklearn.datasets import load_digits  # takes a second to import, and other data do not need it

    digits = load_digits()
    gray = torch.from_numpy(digits.images).float()[:, None] / 16
    gray = F.interpolate(gray, (image_size, image_size), mode='bilinear', antialias=True)
    images = gray.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    number_in_class = F.one_hot(labels).cumsum(0).gather(1, labels[:, None])[:, 0]
    is_test = number_in_class % 5 == 0
    everything = InMemoryImages(images, labels, device=device)
    train, test = (everything.subset(chosen.nonzero()[:, 0]) for chosen in (~is_test, is_test))
    return train, test, tuple(map(str, digits.target_names))


def _source(files: ImageFiles, config: DataConfig, device: torch.device, title: str) -> ImageSource:
    """Images in memory if they are to be there and fit.

    They are kept larger than they are seen, so that centre crops are those of ``StreamedImages``.
    """
    size = config.image_size
    if config.in_memory != 'no':
        side = files.side(size)
        if config.in_memory == 'yes' or len(files) * 3 * side * side <= _MEMORY_BYTES:
            return InMemoryImages(_decode(files, side, title), files.labels, size, device)
    return StreamedImages(files, files.labels, size, workers=config.workers, device=device)


def _decode(files: ImageFiles, side: int, title: str) -> Tensor:
    """Decode all images, their short side resized to ``side`` and the middle kept: uint8 [n, 3, side, side].

    Raises:
        ValueError: If an image cannot be read; names the file.
    """
    images = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    array, chunk = images.numpy(), 256

    def decode(start: int) -> int:
        stop = min(start + chunk, len(files))
        for i in range(start, stop):
            array[i] = np.asarray(fit(files.load(i), side, side)).transpose(2, 0, 1)
        return stop - start

    # Threads suffice: Pillow releases the interpreter lock while it decodes and resizes.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    with pool, tqdm(total=len(files), desc=title, unit='image', disable=not sys.stderr.isatty()) as progress:
        try:
            for done in pool.map(decode, range(0, len(files), chunk)):
                progress.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images
