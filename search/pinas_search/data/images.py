"""Opening timm data sets and decoding their images, with errors that say what is wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from pinas_models.common.text import one_line
from pinas_models.data import EXTENSIONS, TimmImages, check_class_folders, check_tar, open_dataset

__all__ = ['ImageFiles', 'fit', 'open_files']

# timm's names for the same split; it has none for "test".
_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))
_NO_TEST = 'correct data.test_split, or leave it empty (data.test_split=) if there are no test images'


class ImageFiles(TimmImages):
    """The encoded images of a timm data set with random access, and their classes.

    Attributes:
        labels: Classes of the images, int64 [n].
        class_names: Names of the classes.
    """

    def __init__(self, dataset: Any, source: str) -> None:
        """Read the labels.

        Raises:
            ValueError: If an image has no class, or several.
        """
        super().__init__(dataset, source)
        self.labels = torch.from_numpy(np.asarray(self.targets(), dtype=np.int64))
        if self.labels.ndim != 1 or not len(self.labels) or self.labels.min() < 0:
            raise ValueError(f'the images of {source} do not have one class each: choose a split that is labelled')
        names = sorted(self.class_to_index, key=self.class_to_index.__getitem__)
        self.class_names = tuple(map(str, names or range(int(self.labels.max()) + 1)))

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
            with self.opened(index) as (image, _):
                return _to_rgb(image)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise ValueError(
                f'cannot read the image {self.filename(index)} of {self.source} ({one_line(error)}): replace the file'
            ) from error


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
        if path.is_file():
            check_tar(path)
        hint = f'it must hold class folders with images ({EXTENSIONS})'
        dataset = open_dataset('', str(path), hint, root=str(path), split=split, search_split=False)
        files = ImageFiles(dataset, str(path))
        _check_folders(path, files)
        return files
    if '/' not in source:
        raise ValueError(
            f'data.source={source} is unknown: use digits, folder, or the name of a timm data set with its prefix, '
            'such as torch/cifar10'
        )
    what = f'data.source={source}, data.root={root}, split {split}'
    dataset = open_dataset(source, what, 'the data set must be there already', root=root, split=split)
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


def _check_folders(path: Path, files: ImageFiles) -> None:
    """Make sure that every class is one folder, and that every folder has images.

    Raises:
        ValueError: If not.
    """
    check_class_folders(files, 'set data.root and data.train_split so that they lead to a folder with one per class')
    if path.is_dir():
        filled = {Path(folder).relative_to(path).parts[0] for folder, _ in files.class_folders()}
        for child in sorted(path.iterdir()):
            if child.is_dir() and child.name not in filled and not child.name.startswith('.'):
                raise ValueError(f'the class folder {child} has no images ({EXTENSIONS}): fill or remove it')


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # 16-bit gray, which convert() would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode == 'P':
        image = image.convert('RGBA')  # Pillow's advice for palettes with transparency
    return image.convert('RGB')
