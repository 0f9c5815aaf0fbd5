"""All checks of a configuration, for a training and for a test."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from .coco import check_coco
from .datasets import build_datasets, check_folders
from .evaluators import check_evaluator, check_save_best
from .model import check_batch_size, check_num_classes
from .segmentation import check_segmentation

__all__ = ['check_testing', 'check_training']


def check_training(config: Config) -> None:
    """Check the data, the number of classes, and the evaluation that a training will make.

    Args:
        config: Complete.

    Raises:
        OSError: If a file or folder is missing.
        ValueError: If something does not fit; the message says what.
    """
    check_batch_size(config)
    _check_loader(config, 'train')
    if config.get('val_dataloader'):
        _check_loader(config, 'val')
        check_evaluator(config, 'val')
        check_save_best(config)


def check_testing(config: Config) -> None:
    """Check the data, the number of classes and the metrics of a test.

    Args:
        config: Complete.

    Raises:
        OSError: If a file or folder is missing.
        ValueError: If something does not fit; the message says what.
    """
    _check_loader(config, 'test')
    check_evaluator(config, 'test')


def _check_loader(config: Config, split: str) -> None:
    place = f'{split}_dataloader'
    loader: dict[str, Any] | None = config.get(place)
    if not loader or not isinstance(loader.get('dataset'), dict):
        raise ValueError(f'{config.filename}: has no {place} with a dataset')
    # Unqualified names, such as CocoDataset, are looked for there.
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmengine')):
        for name, dataset in build_datasets(loader['dataset'], f'{place}.dataset'):
            check_num_classes(config, dataset.metainfo.get('classes'), name)
            check_folders(dataset, name)
            kinds = {cls.__name__ for cls in type(dataset).__mro__}
            if 'CocoDataset' in kinds:
                check_coco(dataset, name, training=split == 'train')
            elif 'BaseSegDataset' in kinds:
                check_segmentation(dataset, name)
