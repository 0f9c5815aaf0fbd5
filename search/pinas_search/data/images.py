"""Opening timm data sets and decoding their images, with errors that say what is wrong, where, and what to do."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import timm.data
import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import IterableDataset

from pinas_models.common.text import one_line

__all__ = ['ImageFiles', 'fit', 'open_files']

# timm's names for the same split; it has none for "test".
_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))
_NO_TEST = 'correct data.test_split, or leave it empty (data.test_split=) if there are no test images'


class ImageFiles:
    """The encoded images of a timm data set with random access, and their classes.

    timm's own ``ImageDataset.__getitem__`` replaces an image that cannot be read by the next one, with a warning. Here
    that is an error.

    Attributes:
        dataset: What ``timm.data.create_dataset`` returned.
        root: Where the images are, for messages.
        labels: Classes of the images, int64 [n].
        class_names: Names of the classes.
    """

    def __init__(self, dataset: Any, root: str) -> None:
        """Read the labels.

        Raises:
            ValueError: If an image has no class, or several.
        """
        self.dataset, self.root = dataset, root
        self._reader: Any = getattr(dataset, 'reader', None)
        self.labels = torch.from_numpy(np.asarray(_targets(dataset, self._reader), dtype=np.int64))
        if self.labels.ndim != 1 or not len(self.labels) or self.labels.min() < 0:
            raise ValueError(f'the images of {root} do not have one class each: choose a split that is labelled')
        self.class_names = _class_names(dataset, self._reader) or tuple(map(str, range(int(self.labels.max()) + 1)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def listing(self) -> list[Any] | None:
        """Files and classes, where the data set is a folder."""
        samples = getattr(self._reader or self.dataset, 'samples', None)
        return samples if isinstance(samples, list) else None

    def name(self, index: int) -> str:
        """File name of an image, or its number where there are no files."""
        if self._reader is not None:
            return str(self._reader.filename(index))
        return str(self.listing[index][0]) if self.listing else f'number {index}'

    def side(self, image_size: int) -> int:
        """Short side that images get before the central ``image_size`` square is taken for evaluation.

        8/7 of it, 256 for 224, as in the authors' code; but small images that come in the wanted size, as the first one
        tells, are taken as they are.
        """
        return image_size if self.load(0).size == (image_size, image_size) else round(image_size / 0.875)

    def load(self, index: int) -> Image.Image:
        """Decode an image to RGB.

        Raises:
            ValueError: If it cannot be read; names the file.
        """
        try:
            if self._reader is None:
                return _to_rgb(self.dataset[index][0])
            with self._open(index) as file, Image.open(file) as image:
                return _to_rgb(image)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise ValueError(
                f'cannot read the image {self.name(index)} of {self.root} ({one_line(error)}): replace the file'
            ) from error

    def _open(self, index: int) -> BinaryIO:
        if not isinstance(self._reader, ReaderImageInTar):
            return self._reader[index][0]
        # Not through the reader, which keeps its tars open: threads and forked workers would share the position in
        # them.
        member, tar, inner = self._reader.samples[index]
        with open(os.path.join(self._reader.root, tar) if tar else self._reader.root, 'rb') as file:
            file.seek(member.offset_data + (inner.offset_data if inner is not None else 0))
            return io.BytesIO(file.read(member.size))


def fit(image: Image.Image, short: int, size: int) -> Image.Image:
    """Resize the short side to ``short`` pixels (bilinear with antialias), then take the central ``size`` square.

    Sides and offsets are rounded as in torchvision's Resize and CenterCrop.
    """
    width, height = image.size
    if min(width, height) != short:
        scaled = (short, short * height // width) if width <= height else (short * width // height, short)
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def open_files(source: str, root: str | None, split: str, *, test: bool) -> ImageFiles:
    """Open one split through ``timm.data.create_dataset``.

    Nothing is downloaded, except by Hugging Face's ``datasets`` (``hfds/``), which keep their own cache.

    Args:
        source: ``folder`` or a name that timm knows, with its prefix (``torch/cifar10``).
        root: Folder or tar file.
        split: Name of the split; for ``folder`` the name of a sub-folder, or of a tar in ``root``.
        test: Whether this is the test split, or the training split.

    Raises:
        FileNotFoundError: If the root does not exist.
        ValueError: If there is no such split, or it holds no images in class folders.
    """
    if source == 'folder':
        path = _split_path(root, split, test)
        hint = f'it must hold class folders with images ({", ".join(get_img_extensions())})'
        if path.is_file():
            _check_end(path)
        files = ImageFiles(_create('', str(path), split, hint), str(path))
        _check_folders(path, files)
        return files
    if '/' not in source:
        raise ValueError(
            f'data.source={source} is unknown: use digits, folder, or the name of a timm data set with its prefix, '
            'such as torch/cifar10'
        )
    dataset = _create(source, root, split, 'the data set must be there already')
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f'data.source={source} can only be read from beginning to end, but images are drawn at random here: '
            'use one with random access'
        )
    # torchvision's small data sets take any unknown name of a split for the test set.
    if getattr(dataset, 'train', not test) == test:
        key, what = ('test_split', 'training') if test else ('train_split', 'test')
        raise ValueError(f'data.{key}={split} is the {what} set of {source}: correct data.{key}')
    return ImageFiles(dataset, str(root))


def _create(name: str, root: str | None, split: str, hint: str) -> Any:
    try:
        return timm.data.create_dataset(name, root=root, split=split, search_split=bool(name), download=False)
    except (AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError, tarfile.TarError) as error:
        source = f'data.source={name}, data.root={root}, split {split}' if name else str(root)
        raise ValueError(f'cannot open {source} ({one_line(error)}); {hint}') from error


def _split_path(root: str | None, split: str, test: bool) -> Path:
    """The folder or tar of a split, by timm's rules, except that a missing test split is an error.

    timm takes the root itself then, so that training and test images would be the same.
    """
    if not root:
        raise ValueError('data.source=folder needs data.root, a folder or tar of class folders')
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(f'data.root={root} does not exist')
    if path.is_file():
        if path.suffix != '.tar':
            raise ValueError(f'data.root={root} is neither a folder nor a .tar: unpack it')
        if test:
            raise ValueError(f'data.root={root} is a single tar, without a test split {split!r}: {_NO_TEST}')
        return path
    same = next((names for names in _SYNONYMS if split in names), ())
    for name in (split, *same) if split else ():
        if (path / name).exists():
            return path / name
    if test:
        there = ', '.join(sorted(child.name for child in path.iterdir())[:5])
        raise ValueError(f'data.root={root} has no test split {split!r} (it has {there}): {_NO_TEST}')
    return path


def _check_end(tar: Path) -> None:
    """Make sure that a tar is whole: timm and tarfile take the images that are there.

    Raises:
        ValueError: If it does not end with two empty blocks.
    """
    with tar.open('rb') as file:
        file.seek(max(0, tar.stat().st_size - 1024))
        if file.read() != bytes(1024):
            raise ValueError(f'{tar} is not a whole tar, its end is missing: copy it again')


def _check_folders(path: Path, files: ImageFiles) -> None:
    """Make sure that every class is one folder, and that every folder has images.

    Raises:
        ValueError: If not.
    """
    if '' in files.class_names:
        stray = files.name(int((files.labels == files.class_names.index('')).nonzero()[0]))
        raise ValueError(f'{path} has the image {stray} outside of class folders: put it into the folder of its class')
    if files.listing is not None:
        pairs = {(os.path.dirname(file), label) for file, label in files.listing}
    else:  # a tar, possibly of tars with a class each
        reader = files.dataset.reader
        pairs = {
            (os.path.dirname(member.path) or child.name, int(label))
            for (member, _, child), label in zip(reader.samples, reader.targets, strict=True)
        }
    folders: dict[int, str] = {}
    for folder, label in sorted(pairs):
        if folders.setdefault(label, folder) != folder:
            raise ValueError(
                f'{path} has two folders of the class {files.class_names[label]}, {folders[label]} and {folder}: set '
                'data.root and data.train_split so that they lead to a folder with one folder per class'
            )
    if path.is_dir():
        filled = {Path(folder).relative_to(path).parts[0] for folder in folders.values()}
        for child in sorted(path.iterdir()):
            if child.is_dir() and child.name not in filled and not child.name.startswith('.'):
                extensions = ', '.join(get_img_extensions())
                raise ValueError(f'the class folder {child} has no images ({extensions}): fill or remove it')


def _targets(dataset: Any, reader: Any) -> Any:
    """Classes of all images, without decoding images where the data set allows it."""
    if reader is None:
        targets = getattr(dataset, 'targets', None)
        return [dataset[i][1] for i in range(len(dataset))] if targets is None else targets
    if hasattr(reader, 'iter_targets'):
        return list(reader.iter_targets())
    return reader.targets if hasattr(reader, 'targets') else [label for _, label in reader.samples]


def _class_names(dataset: Any, reader: Any) -> tuple[str, ...]:
    for holder in (reader, dataset):
        for attribute in ('class_to_idx', 'class_name_to_idx'):  # folders and torchvision; tars
            numbers = getattr(holder, attribute, None)
            if numbers:
                return tuple(str(name) for name in sorted(numbers, key=numbers.__getitem__))
    return ()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # 16-bit gray, which convert() would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode == 'P':
        image = image.convert('RGBA')  # Pillow's advice for palettes with transparency
    return image.convert('RGB')
