"""Labelled images in order, under several transforms, with the classes of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data.readers.class_map import load_class_map
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..common.images import to_mode
from ..common.text import first_names, one_line
from ..data import EXTENSIONS, TimmImages, check_class_folders, check_tar, open_dataset

__all__ = ['Batch', 'LabelledImages', 'open_images']

PREFIXES = ('torch', 'hfds', 'hfids', 'tfds', 'wds')


class Sample(NamedTuple):
    """An image after each transform; ``error`` says why there is none."""

    position: int
    target: int
    views: tuple[Tensor, ...]
    error: str


class Batch(NamedTuple):
    """Images and their classes.

    Attributes:
        seen: Number of images that this batch covers, those that cannot be read included.
        indices: Positions in the data set of the images below.
        targets: Their classes, int64 [N].
        views: The images after each transform, uint8 [N, channels, H, W] each; empty if none could be read.
        errors: Position and reason for each image that cannot be read.
    """

    seen: int
    indices: list[int]
    targets: Tensor
    views: tuple[Tensor, ...]
    errors: list[tuple[int, str]]


class LabelledImages(TimmImages):
    """Images of a data set in its order, with the classes of a model."""

    def __init__(self, dataset: Any, source: str, has_class_map: bool = False) -> None:
        """Wrap what ``timm.data.create_dataset`` returned, by a class map of the user's or without one."""
        super().__init__(dataset, source)
        self.has_class_map = has_class_map
        self._target_map: Mapping[int, int] | None = None

    def filenames(self) -> list[str]:
        """File names of all images.

        Raises:
            ValueError: If the data set has none.
        """
        if self.reader is None or self.is_iterable:
            raise ValueError(f'{self.source} has no file names')
        return [str(name) for name in self.dataset.filenames(basename=True)]

    def digest(self) -> str:
        """Hash of the file names and classes where there are files, to tell whether the images are the same."""
        text = repr((len(self), sorted(self.class_to_index.items(), key=str), self._target_map))
        samples = getattr(self.reader or self.dataset, 'samples', None)
        if samples is not None:
            text += '\n'.join(self.filename(index) for index in range(len(samples)))
        return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()

    def match_classes(self, labels: Sequence[str] | None, num_classes: int) -> str:
        """Make the classes of the images those of a model.

        Where all names of the data set's classes are names of the model's, they are matched by name, so that a subset
        of the classes gives the right accuracies. Otherwise, and with a class map, class i is the model's class i.

        Args:
            labels: Names of the model's classes, None if they are not known.
            num_classes: Number of the model's classes.

        Returns:
            What the user should be warned of, or nothing.

        Raises:
            ValueError: If there are more classes than the model has, or the class map names one that it does not have.
        """
        if labels and self.class_to_index and not self.has_class_map and set(self.class_to_index) <= set(labels):
            self._target_map = {index: labels.index(name) for name, index in self.class_to_index.items()}
            return ''
        warning = ''
        if labels and self.class_to_index and not self.has_class_map:
            strange = [name for name in self.class_to_index if name not in labels]
            if len(strange) == len(self.class_to_index):
                found = f'no class of {self.source} ({first_names(strange)}) has the name of a class of the model'
            else:
                found = f'of the classes of {self.source}, {first_names(strange)} is no name of a class of the model'
            warning = (
                f'{found} ({first_names(labels)}): class i is taken for class i of the model; a class map would tell'
            )
        count = max(self.class_to_index.values()) + 1 if self.class_to_index else None
        if count is not None and count > num_classes:
            if self.has_class_map:
                raise ValueError(f'the class map has the class {count - 1}, the model only {num_classes} classes')
            raise ValueError(
                f'{self.source} has {count} classes, the model {num_classes}: choose a model for these classes, or '
                'give a class map'
            )
        if count is not None and count < num_classes and not self.has_class_map:
            fewer = (
                f'{self.source} has {count} classes, the model {num_classes}, and the names do not say which: they are '
                f'taken for the first {count}; a class map would tell'
            )
            return '; '.join(filter(None, (warning, fewer)))
        return warning

    def batches(
        self,
        transforms: Sequence[Callable[[Image.Image], Tensor]],
        *,
        batch_size: int,
        mode: str = 'RGB',
        start: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """Decode the images in order, each once, and apply all transforms to it.

        Args:
            transforms: PIL image -> uint8 tensor [channels, H, W].
            batch_size: Images per batch.
            mode: Pillow's mode that the images are converted to.
            start: Number of images to leave out at the beginning.
            workers: Processes that decode; 0 for this one.
            pin_memory: Put the batches into memory that is copied to a GPU without waiting.

        Raises:
            ValueError: If the data set cannot be read.
        """
        kind = _Stream if self.is_iterable else _RandomAccess
        decoded = kind(self, tuple(transforms), mode, self._target_map)
        if hasattr(self.dataset, 'set_loader_cfg'):
            self.dataset.set_loader_cfg(num_workers=workers)
        loader = DataLoader(
            decoded,
            batch_size=batch_size,
            sampler=None if self.is_iterable else range(start, len(self)),
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
        )
        position = 0 if self.is_iterable else start
        try:
            for batch in loader:
                # A stream cannot be entered in the middle: what was done before is decoded again and left out.
                if position >= start:
                    yield batch if not self.is_iterable else _numbered(batch, position)
                position += batch.seen
        except RuntimeError as error:
            if 'DataLoader worker' not in str(error):
                raise
            raise ValueError(
                f'a process that decodes images has died ({one_line(error)}): for want of memory, or of '
                'shared memory in a container; use fewer workers, or 0'
            ) from error


class _RandomAccess(Dataset):
    """Decodes and transforms; runs in the workers."""

    def __init__(
        self,
        images: TimmImages,
        transforms: tuple[Callable[[Image.Image], Tensor], ...],
        mode: str,
        target_map: Mapping[int, int] | None,
    ) -> None:
        self.images, self.transforms, self.mode = images, transforms, mode
        self.target_map = target_map

    def __getitem__(self, index: int) -> Sample:
        try:
            with self.images.opened(index) as (image, target):
                return self._sample(index, image, target)
        except Exception as error:  # decoders raise nearly anything on damaged files
            return Sample(index, -1, (), one_line(error))

    def _sample(self, index: int, image: Image.Image, target: Any) -> Sample:
        image = to_mode(image, self.mode)
        return Sample(index, self._target(target), tuple(transform(image) for transform in self.transforms), '')

    def _target(self, target: Any) -> int:
        try:
            index = int(target)
        except (TypeError, ValueError):  # several classes, or a hidden one
            return -1
        return index if self.target_map is None else self.target_map.get(index, -1)


class _Stream(_RandomAccess, IterableDataset):
    """The same for data sets that can only be read from beginning to end; a damaged image is their end."""

    def __iter__(self) -> Iterator[Sample]:
        try:
            for image, target in self.images.dataset:
                yield self._sample(-1, image, target)
        except Exception as error:  # as above, but raised by the reader, which cannot go on
            yield Sample(-1, -1, (), one_line(error))


def _numbered(batch: Batch, start: int) -> Batch:
    return batch._replace(indices=list(range(start, start + batch.seen)))


def _collate(samples: Sequence[Sample]) -> Batch:
    good = [sample for sample in samples if not sample.error]
    views = tuple(torch.stack(view) for view in zip(*(sample.views for sample in good), strict=True))
    return Batch(
        len(samples),
        [sample.position for sample in good],
        torch.tensor([sample.target for sample in good], dtype=torch.int64),
        views,
        [(sample.position, sample.error) for sample in samples if sample.error],
    )


def open_images(
    data: str,
    *,
    root: str | None = None,
    split: str | None = None,
    class_map: str | None = None,
    input_key: str | None = None,
    target_key: str | None = None,
    batch_size: int = 1,
) -> tuple[LabelledImages, str]:
    """Open images with one class each.

    Args:
        data: A folder of class folders, a ``.tar`` of them, or a name that timm knows: ``torch/cifar10``,
            ``hfds/ORG/name``, ``hfids/...``, ``tfds/...``, ``wds/...``.
        root: Folder of a data set that is given by name.
        split: Split; for a folder, the name of a sub-folder, timm's synonyms included. None for ``validation``, which a
            folder need not have.
        class_map: File that names a folder per line, in the order of the model's classes (``.txt``). timm's
            other form, a pickle, is refused: reading it could run code.
        input_key: Name of the image column, for data sets of Hugging Face.
        target_key: Name of the class column, for data sets of Hugging Face.
        batch_size: Hint for streamed data sets.

    Returns:
        The images, and what the user should be warned of, or nothing.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the images cannot be opened, or do not have one class each.
    """
    path = Path(data)
    by_name = not path.exists() and data.split('/')[0].lower() in PREFIXES and '/' in data
    if not by_name and not path.exists():
        raise FileNotFoundError(
            f'{data} does not exist: give a folder of class folders, a .tar of them, or a data set by name, such as '
            'torch/cifar10'
        )
    if path.is_file():
        if path.suffix != '.tar':
            raise ValueError(f'{path} is neither a folder nor a .tar: unpack it')
        check_tar(path)
    if root is not None and not by_name:
        raise ValueError(f'{data} is there itself: --data-dir is for data sets that are given by name')
    if class_map is not None and not Path(class_map).is_file():
        raise FileNotFoundError(f'the class map {class_map} does not exist')
    if class_map is not None and by_name and data.lower().startswith('torch/'):
        raise ValueError(f'{data} takes no class map: its classes are fixed')
    if root is None and by_name and data.lower().startswith('torch/'):
        raise ValueError(f'{data} needs the folder where it lies (--data-dir)')
    mapping = _read_class_map(class_map) if class_map is not None else None

    def create(with_map: Mapping[Any, int] | None) -> LabelledImages:
        hint = 'the folders that the class map names must be' if with_map else 'class folders must be'
        keys = {key: value for key, value in (('input_key', input_key), ('target_key', target_key)) if value}
        dataset = open_dataset(
            data if by_name else '',
            f'{data}, split {split or "validation"}' if by_name else data,
            '' if by_name else f'{hint} there, with images ({EXTENSIONS})',
            root=root if by_name else data,
            split=split or 'validation',
            class_map=with_map,
            batch_size=batch_size,
            **keys,
        )
        return LabelledImages(dataset, data, has_class_map=with_map is not None)

    images = create(mapping)
    if not images.is_iterable and not len(images):
        raise ValueError(f'{data} has no images')
    if by_name:
        return images, ''
    if split is not None and Path(images.reader.root) == path:
        raise ValueError(f'{data} has no split {split}: it must be a sub-folder')
    check_class_folders(images, 'choose one set of images, with the split or as the folder itself')
    if mapping is None:
        return images, ''
    left_out = len(create(None)) - len(images)
    return images, f'{left_out} images are in folders that {class_map} does not name, and left out' if left_out else ''


def _read_class_map(path: str) -> dict[Any, int]:
    if Path(path).suffix.lower() != '.txt':
        raise ValueError(
            f'{path} is no class map: write a .txt with a folder name per line, in the order of the '
            "model's classes (a pickle is not read: it could run code)"
        )
    try:
        mapping = load_class_map(path)
        if not mapping:
            raise ValueError('it is empty')
        return {name: int(index) for name, index in mapping.items()}
    except (AssertionError, OSError, ValueError) as error:  # timm asserts
        raise ValueError(
            f'{path} is no class map ({one_line(error)}): write a .txt with a folder name per line, in '
            "the order of the model's classes"
        ) from error
