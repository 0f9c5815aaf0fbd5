"""The datasets of a configuration, and whether their files are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.classes import inner_datasets

__all__ = ['build_datasets', 'check_folders']


def build_datasets(config: dict[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Build the inner datasets of a configuration without reading their annotations.

    Args:
        config: A dataset or a wrapper.
        place: Its dotted name.

    Yields:
        Dotted name, and the dataset with complete paths and classes.

    Raises:
        ValueError: If the classes are a word instead of a sequence.
    """
    from mmengine.dataset import BaseDataset
    from mmengine.registry import DATASETS

    for name, inner in inner_datasets(config, place):
        classes = (inner.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not Path(classes).is_file():  # a file would be a list of them
            raise ValueError(
                f"{name}.metainfo.classes is the text {classes!r}; a single class is written ('{classes}',), with the "
                'comma'
            )
        cls = inner.get('type')
        if isinstance(cls, str):
            with DATASETS.switch_scope_and_registry(inner.get('_scope_')) as registry:  # that of the default scope
                cls = registry.get(cls)
        if cls is None or issubclass(cls, BaseDataset):  # others have no such option, nor anything known to check
            yield name, DATASETS.build({**inner, 'lazy_init': True})


def check_folders(dataset: Any, place: str) -> None:
    """Check that the annotation file and the folders of a dataset exist.

    Args:
        dataset: Built.
        place: Its dotted name.

    Raises:
        FileNotFoundError: If one does not.
    """
    if getattr(dataset, 'backend_args', None) or '://' in f'{dataset.data_root}{dataset.ann_file}':
        return  # not on this file system
    root = dataset.data_root
    if root and not Path(root).exists():
        raise FileNotFoundError(f'{place}: there is no folder {root}; --data-root DIR says where the data is')
    if dataset.ann_file and not Path(dataset.ann_file).exists():
        raise FileNotFoundError(f'{place}: there is no annotation file {dataset.ann_file}')
    for name, folder in dataset.data_prefix.items():
        if folder and not Path(folder).is_dir():
            raise FileNotFoundError(f'{place}: there is no folder {folder} (data_prefix.{name})')
