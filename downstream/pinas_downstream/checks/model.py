"""Whether a model fits its data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ['check_batch_size', 'check_last_batch', 'check_num_classes']

_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def check_num_classes(config: Config, classes: Sequence[str] | None, place: str) -> None:
    """Check that the heads have as many classes as a dataset.

    Args:
        config: Complete.
        classes: Of the dataset.
        place: Dotted name of the dataset.

    Raises:
        ValueError: If one has another number.
    """
    if classes is None:
        return
    for name, head in _heads(config.model, 'model'):
        number = head.get('num_classes')
        if number is not None and number != len(classes):
            raise ValueError(
                f'{name}.num_classes is {number}, but {place} has {len(classes)} classes '
                f'({", ".join(map(str, classes[:5]))}{", ..." if len(classes) > 5 else ""})'
            )


def _heads(config: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in config.items():
        for index, part in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if not isinstance(part, dict):
                continue
            key = f'{place}.{name}.{index}' if isinstance(value, (list, tuple)) else f'{place}.{name}'
            if name in _HEADS:
                yield key, part
            yield from _heads(part, key)


def check_batch_size(config: Config) -> None:
    """Check that no layer would have to normalise over a single value.

    The attention of a block, and the pooled branch of DeepLabV3, have one value per image and channel before BN.

    Args:
        config: Complete.

    Raises:
        ValueError: If a process would see one image at a time.
    """
    if (config.get('train_dataloader') or {}).get('batch_size') == 1:
        needs = _needs_two_images(config)
        if needs:
            raise ValueError(f'train_dataloader.batch_size is 1, but {needs}')


def _needs_two_images(config: Config) -> str:
    """Why a process cannot learn from one image, and what helps; nothing if it can."""
    import torch

    if int(os.environ.get('WORLD_SIZE', '1')) > 1 and torch.cuda.is_available():
        return ''  # SyncBN normalises over the images of all processes
    reason = '{} normalises over the images of a batch: write 2 or more'
    backbone, head = config.model.get('backbone') or {}, config.model.get('decode_head') or {}
    if isinstance(head, dict) and head.get('type') == 'EncodingDeepLabHead':
        return reason.format('EncodingDeepLabHead')
    if backbone.get('type') == 'PiNAS' and not backbone.get('norm_eval'):
        return reason.format('the backbone') + ', or norm_eval=True in the backbone'
    return ''


def check_last_batch(loader: DataLoader[Any], config: Config) -> None:
    """Check that an epoch does not end with a batch of one image.

    Args:
        loader: Of the training.
        config: It is made from.

    Raises:
        ValueError: If it does and the backbone cannot learn from one.
    """
    from torch.utils.data import BatchSampler

    endless = 'Infinite' in type(loader.sampler).__name__
    if endless or type(loader.batch_sampler) is not BatchSampler or loader.batch_sampler.drop_last:
        return
    images, batch = len(loader.sampler), loader.batch_sampler.batch_size  # type: ignore[arg-type]  # it is finite
    if images % batch == 1 and _needs_two_images(config):
        raise ValueError(
            f'an epoch of {images} images in batches of {batch} ends with a single one, and BN cannot learn from that: '
            'write train_dataloader.drop_last=True, or another batch_size'
        )
