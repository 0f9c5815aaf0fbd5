"""Whether a model fits its data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from pinas_models.common.text import first_names

from ..config.classes import heads

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

__all__ = ['check_batch_size', 'check_channels', 'check_last_batch', 'check_num_classes']


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
    numbers = {f'{name}.num_classes': head.get('num_classes') for name, head in heads(config.model, 'model')}
    wrong = [f'{name} is {number}' for name, number in numbers.items() if number not in (None, len(classes))]
    if wrong:
        raise ValueError(
            f'{" and ".join(wrong)}, but {place} has {len(classes)} classes ({first_names(classes)}); '
            '--classes A,B,C sets data and heads'
        )


def check_channels(model: nn.Module) -> None:
    """Check that what follows our backbone takes the channels that it gives.

    Args:
        model: Built.

    Raises:
        ValueError: If it does not.
    """
    from ..models.backbone import PiNAS
    from ..patches.checkpoints import innermost

    model = innermost(model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PiNAS):
        return
    given = list(backbone.out_channels)
    if getattr(model, 'neck', None) is not None:
        wanted = getattr(model.neck, 'in_channels', None)
        if isinstance(wanted, (list, tuple)) and list(wanted) != given:
            raise ValueError(f'model.neck.in_channels is {list(wanted)}, but the backbone gives {given}')
        return
    for name in ('decode_head', 'auxiliary_head'):
        parts: Any = getattr(model, name, None)
        for head in [parts] if hasattr(parts, 'in_index') else parts or ():
            chosen = [head.in_index] if isinstance(head.in_index, int) else list(head.in_index)
            wrong = [index for index in chosen if not -len(given) <= index < len(given)]
            wanted = [head.in_channels] if isinstance(head.in_channels, int) else list(head.in_channels)
            if wrong:
                raise ValueError(f'model.{name}.in_index is {head.in_index}, but the backbone gives {len(given)} maps')
            found = [given[index] for index in chosen]
            if head.input_transform == 'resize_concat':
                found, wanted = [sum(found)], [sum(wanted)]
            if found != wanted:
                raise ValueError(
                    f'model.{name}.in_channels is {head.in_channels}, but the backbone gives {found} at in_index '
                    f'{head.in_index}'
                )


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
        ValueError: If it does and the backbone cannot learn from one, or the epoch has no batch at all.
    """
    from torch.utils.data import BatchSampler

    if 'Infinite' in type(loader.sampler).__name__ or loader.batch_sampler is None:
        return
    if len(loader) == 0:
        raise ValueError(
            f'an epoch has no batch: {len(loader.sampler)} images are fewer than train_dataloader.batch_size'  # type: ignore[arg-type]
            ', and drop_last=True leaves them out; write a smaller one'
        )
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_sampler.drop_last:
        return
    images, batch = len(loader.sampler), loader.batch_sampler.batch_size  # type: ignore[arg-type]  # it is finite
    if images % batch == 1 and _needs_two_images(config):
        raise ValueError(
            f'an epoch of {images} images in batches of {batch} ends with a single one, and BN cannot learn from that: '
            'write train_dataloader.drop_last=True, or another batch_size'
        )
