"""Labelled images through ``timm.data.create_dataset``: what evaluation and search both build on."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import IterableDataset

from .common.text import one_line

__all__ = ['EXTENSIONS', 'TimmImages', 'check_class_folders', 'check_tar', 'open_dataset']

EXTENSIONS = ', '.join(get_img_extensions())  # of the files that timm takes for images


class TimmImages:
    """The images of a data set that timm opened.

    timm's own data set replaces an image that cannot be read by the next one, with a warning. Here that is an error.

    Attributes:
        dataset: What ``timm.data.create_dataset`` returned.
        reader: timm's reader of it, None for data sets of other libraries.
        source: Where the images are, for messages.
        class_to_index: Names of the classes -> class, empty if the data set has no names.
    """

    def __init__(self, dataset: Any, source: str) -> None:
        """Wrap a data set."""
        self.dataset, self.source = dataset, source
        self.reader: Any = getattr(dataset, 'reader', None)
        self.class_to_index: dict[Any, int] = {}
        for holder in (self.reader, dataset):
            for attribute in ('class_to_idx', 'class_name_to_idx'):  # folders and torchvision; tars
                numbers = getattr(holder, attribute, None)
                if not self.class_to_index and isinstance(numbers, Mapping):
                    self.class_to_index = dict(numbers)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def is_iterable(self) -> bool:
        """Whether the images can only be read from beginning to end."""
        return isinstance(self.dataset, IterableDataset)

    @property
    def samples(self) -> list[Any] | None:
        """What the data set lists: files and classes for a folder, other records for tars; None if it has no list."""
        samples = None if self.is_iterable else getattr(self.reader or self.dataset, 'samples', None)
        return list(samples) if samples is not None else None

    def filename(self, index: int) -> str:
        """File name of an image, or its number where there are no files."""
        if self.is_iterable or not hasattr(self.reader or self.dataset, 'samples'):
            return f'number {index}'
        return str(self.dataset.filename(index) if self.reader is not None else self.dataset.samples[index][0])

    @contextmanager
    def opened(self, index: int) -> Iterator[tuple[Image.Image, Any]]:
        """An image, not decoded yet where it is a file, and its class as the data set says it.

        Processes and threads may do so at the same time.

        Raises:
            Exception: Decoders raise nearly anything on damaged files.
        """
        if self.reader is None:
            yield self.dataset[index]
        elif isinstance(self.reader, ReaderImageInTar):
            # Not through the reader, which keeps its tars open: threads and forked workers would share the position in
            # them.
            member, tar, inner = self.reader.samples[index]
            with open(os.path.join(self.reader.root, tar) if tar else self.reader.root, 'rb') as file:
                file.seek(member.offset_data + (inner.offset_data if inner is not None else 0))
                content = io.BytesIO(file.read(member.size))
            with Image.open(content) as image:
                yield image, self.reader.targets[index]
        else:
            content, target, *_ = self.reader[index]
            with content, Image.open(content) as image:
                yield image, target

    def targets(self) -> list[Any]:
        """Classes of all images as the data set says them, without decoding images where it allows that."""
        for holder in (self.reader, self.dataset):
            if hasattr(holder, 'iter_targets'):
                return list(holder.iter_targets())
            if hasattr(holder, 'targets'):
                return list(holder.targets)
        if self.samples is not None:
            return [sample[1] for sample in self.samples]
        return [self.dataset[index][1] for index in range(len(self))]

    def class_folders(self) -> set[tuple[str, int]]:
        """Folders with images, each with its class: of a folder, or of a tar, perhaps one of tars with a class each."""
        if isinstance(self.reader, ReaderImageInTar):
            return {
                (os.path.dirname(member.path) or (child.name if child else ''), int(target))
                for (member, _, child), target in zip(self.reader.samples, self.reader.targets, strict=True)
            }
        return {(os.path.dirname(file), target) for file, target in self.reader.samples}


def open_dataset(name: str, what: str, hint: str = '', **options: Any) -> Any:
    """Open a data set through timm; nothing is downloaded, except by the libraries behind ``hfds/`` and the like.

    Args:
        name: timm's name with its prefix; empty for a folder or tar.
        what: What is opened, for the message of an error.
        hint: What to add to it.
        options: Of ``timm.data.create_dataset``.

    Raises:
        ValueError: If it cannot be opened, or needs a package that is not installed.
    """
    try:
        return create_dataset(name, download=False, **options)
    except ImportError as error:
        raise ValueError(f'{what} needs the package {error.name}: pip install {error.name}') from error
    except Exception as error:  # timm asserts, and the libraries behind it raise errors of their own
        raise ValueError(f'cannot open {what} ({one_line(error)}){hint and f"; {hint}"}') from error


def check_tar(path: Path) -> None:
    """Make sure that a file is a whole tar: timm and tarfile take what is there of one that was cut off.

    Raises:
        ValueError: If not.
    """
    try:
        with tarfile.open(path):
            pass
    except tarfile.TarError as error:
        raise ValueError(f'cannot open {path}: it is no tar ({one_line(error)})') from error
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read() != bytes(1024):
            raise ValueError(f'{path} is not a whole tar, its end is missing: copy it again')


def check_class_folders(images: TimmImages, remedy: str) -> None:
    """Make sure that every image is in a class folder, and that every class is one folder.

    timm names a class by the last folder alone: given a folder with ``train`` and ``test``, it would mix them.

    Args:
        images: From a folder or a tar.
        remedy: What to do about several folders of a class.

    Raises:
        ValueError: If not.
    """
    if '' in images.class_to_index:
        stray = next(i for i, target in enumerate(images.targets()) if target == images.class_to_index[''])
        raise ValueError(
            f'{images.source} has the image {images.filename(stray)} outside of class folders: put it into the folder '
            'of its class'
        )
    folders: dict[int, str] = {}
    for folder, target in sorted(images.class_folders()):
        if folders.setdefault(target, folder) != folder:
            raise ValueError(
                f'{images.source} has two folders of the class {os.path.basename(folder)}, {folders[target]} and '
                f'{folder}: {remedy}'
            )
