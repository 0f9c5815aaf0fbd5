"""All checks of a configuration, for a training and for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from pinas_models.common.text import one_line

from ..config.classes import inner_datasets
from .coco import check_coco
from .datasets import build_datasets, check_folders
from .evaluators import check_evaluator, check_save_best
from .model import check_batch_size, check_num_classes
from .parts import check_lengths, check_model, check_start, named_parts
from .segmentation import check_segmentation

__all__ = ['check_testing', 'check_training']


def check_training(config: Config) -> None:
    """Check all that a training will use: settings, data, classes, model, optimizer, and the evaluation.

    Args:
        config: Complete.

    Raises:
        OSError: If the only fault is a file or folder that is missing.
        ValueError: If something does not fit; the message names everything.
    """
    checks: list[Callable[[], None]] = [partial(check_batch_size, config), *_of_loader(config, 'train')]
    if config.get('val_dataloader'):
        checks += [*_of_loader(config, 'val'), partial(check_evaluator, config, 'val')]
        checks.append(partial(check_save_best, config))
    checks += [partial(check_lengths, config), partial(check_start, config)]
    _run(chain(checks, check_model(config), named_parts(config)), config)


def check_testing(config: Config) -> None:
    """Check the data, the number of classes and the metrics of a test.

    Args:
        config: Complete.

    Raises:
        OSError: If the only fault is a file or folder that is missing.
        ValueError: If something does not fit; the message names everything.
    """
    _run([*_of_loader(config, 'test'), partial(check_evaluator, config, 'test')], config)


def _run(checks: Iterable[Callable[[], None]], config: Config) -> None:
    faults: list[ValueError | OSError] = []
    # Unqualified names, such as CocoDataset, are looked for there.
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmengine')):
        for check in checks:
            try:
                check()
            except (ValueError, OSError) as error:
                if str(error) not in map(str, faults):
                    faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        listed = '; '.join(f'({number}) {one_line(fault)}' for number, fault in enumerate(faults, 1))
        raise ValueError(f'{len(faults)} faults: {listed}')


def _of_loader(config: Config, split: str) -> Iterator[Callable[[], None]]:
    place = f'{split}_dataloader'
    loader: dict[str, Any] | None = config.get(place)
    if not loader or not isinstance(loader.get('dataset'), dict):
        raise ValueError(f'{config.filename}: has no {place} with a dataset')
    for name, settings in inner_datasets(loader['dataset'], f'{place}.dataset'):
        for check in (_check_classes, _check_files):
            yield partial(check, config, name, settings, split)


def _check_classes(config: Config, place: str, settings: dict[str, Any], split: str) -> None:
    training = (config.get('train_dataloader') or {}).get('dataset') or {}
    if split == 'val' and any(_kind(settings) == _kind(inner) for _, inner in inner_datasets(training, '')):
        return  # the same was said of the training
    for _, dataset in build_datasets(settings, place):
        check_num_classes(config, dataset.metainfo.get('classes'), place)


def _kind(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return settings.get('type'), settings.get('metainfo')


def _check_files(config: Config, place: str, settings: dict[str, Any], split: str) -> None:
    for _, dataset in build_datasets(settings, place):
        check_folders(dataset, place)
        kinds = {cls.__name__ for cls in type(dataset).__mro__}
        if 'CocoDataset' in kinds:
            check_coco(dataset, place, training=split == 'train')
        elif 'BaseSegDataset' in kinds:
            check_segmentation(dataset, place)
