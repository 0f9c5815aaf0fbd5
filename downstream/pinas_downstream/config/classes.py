"""Classes and their colours, wherever a configuration has them."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

__all__ = ['complete_palettes', 'heads', 'inner_datasets', 'set_classes']

_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
_GOLDEN = 0.618034  # steps around the circle of hues that never come close to an earlier one


def set_classes(config: Config, classes: Sequence[str], palette: Any = None) -> None:
    """Write classes into the data sets of training, validation and test, and their number into the heads.

    Args:
        config: Changed in place.
        classes: Names in the order of their labels. For annotations in COCO's format the order of the file.
        palette: Colours (red, green, blue) 0..255; None, or too few, are completed.

    Raises:
        ValueError: If there is no class, or one is empty or twice there.
    """
    classes = tuple(str(name).strip() for name in classes)
    if not all(classes) or len(set(classes)) < len(classes) or not classes:
        raise ValueError(f'the classes must be different names, without an empty one: {", ".join(classes) or "none"}')
    for split in ('train', 'val', 'test'):
        for _, dataset in inner_datasets((config.get(f'{split}_dataloader') or {}).get('dataset') or {}, ''):
            dataset['metainfo'] = dict(classes=classes, palette=extended(palette, len(classes)))
    for _, head in heads(config.get('model') or {}, 'model'):
        if 'num_classes' in head:
            head['num_classes'] = len(classes)


def complete_palettes(config: Config) -> None:
    """Give a colour to every class that has none.

    A palette of None, or shorter than the classes, ends a training of mmseg, and the drawing of mmdet.

    Args:
        config: Changed in place.
    """
    for split in ('train', 'val', 'test'):
        loader = config.get(f'{split}_dataloader')
        for _, dataset in inner_datasets(loader.get('dataset') or {} if isinstance(loader, dict) else {}, ''):
            metainfo = dataset.get('metainfo')
            if isinstance(metainfo, dict) and 'palette' in metainfo and isinstance(metainfo.get('classes'), Sequence):
                metainfo['palette'] = extended(metainfo['palette'], len(metainfo['classes']))


def extended(palette: Any, count: int) -> list[Any]:
    """A palette with at least so many colours; the given ones first."""
    given = list(palette) if isinstance(palette, (list, tuple)) else []
    missing = range(len(given), count)
    hues = [colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.65, 0.9) for index in missing]
    return given + [tuple(round(255 * part) for part in colour) for colour in hues]


def heads(model: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Dotted name and settings of every head of a model that may have classes.

    Args:
        model: Settings of the model, or of a part.
        place: Its dotted name.
    """
    for name, value in model.items():
        for index, part in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if not isinstance(part, dict):
                continue
            key = f'{place}.{name}.{index}' if isinstance(value, (list, tuple)) else f'{place}.{name}'
            if name in _HEADS:
                yield key, part
            yield from heads(part, key)


def inner_datasets(config: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Look into wrappers such as ``RepeatDataset`` and ``ConcatDataset``.

    Args:
        config: A dataset or a wrapper.
        place: Its dotted name.

    Yields:
        Dotted name and settings of each dataset inside.
    """
    if isinstance(config.get('dataset'), dict):
        yield from inner_datasets(config['dataset'], f'{place}.dataset')
    elif isinstance(config.get('datasets'), (list, tuple)):
        for index, inner in enumerate(config['datasets']):
            yield from inner_datasets(inner, f'{place}.datasets.{index}')
    elif config:
        yield place, config
