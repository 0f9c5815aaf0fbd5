"""What can be known to be wrong with a run before it begins."""

from __future__ import annotations

import warnings
from dataclasses import fields, is_dataclass
from typing import Any

import timm.optim
import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from ..config import Config, RetrainConfig
from ..randomness import generator
from .rank import known_truth
from .run import Run

__all__ = ['check_run']


def check_run(run: Run, ranks: int = 1) -> None:
    """Find what a later stage would refuse, and warn of settings that do not do what they seem to.

    Args:
        run: The run.
        ranks: Processes that will share each batch.

    Raises:
        ValueError: For anything that a later stage would refuse.
        FileNotFoundError: If there are no images.
    """
    config = run.config
    _check_ranges(config)
    _check_schedules(config)
    if config.learn.nesterov and not config.learn.momentum:
        raise ValueError('learn.nesterov needs learn.momentum above 0')
    if config.learn.sync_bn and run.device.type != 'cuda':
        raise ValueError(f'learn.sync_bn needs CUDA GPUs, the device is {run.device.type}: set it to false')
    if run.num_classes < 2:
        raise ValueError('the images have one class only: there is nothing to tell apart')
    splits = run.splits
    if 'supernet' in run.needs:
        method = run.build_method()
        for name, stream in method.streams.items():
            which = '' if len(method.streams) == 1 else f' in the stream {name}'
            _check_batch('learn', int(len(splits.train) * stream.share), config.learn.batch_size, ranks, which)
        method.check_batch_size(config.learn.batch_size)
        method.optimizers(config.learn)
        if config.retrain.start == 'inherited' and _trains_networks(config):
            method.supernet.extract(run.space.sample(generator(config.seed, 'check')))
    if 'classifier' in run.needs:
        _check_batch('linear', len(splits.train), config.linear.batch_size, ranks)
    if _trains_networks(config):
        retrained = splits.full_train if splits.test else splits.train
        _check_batch('retrain', len(retrained), config.retrain.batch_size, ranks)
    run.strategy()
    run.check_scorer()
    if config.truth.file is not None:
        known_truth(run)
    run.space.subset(config.truth.only)
    if _trains_networks(config) and splits.test is None and not len(splits.held_out):
        raise ValueError(
            'there are neither test nor held-out images to measure the retrained networks on: set data.test_split, or '
            'data.held_out_per_class above 0'
        )
    initial = getattr(run.strategy_options, 'initial', 0)
    if initial >= config.search.candidates:
        warnings.warn(
            f'search.options.initial is {initial} and search.candidates {config.search.candidates}: '
            f'{config.search.strategy} draws its first {initial} candidates at random, so all of them',
            stacklevel=2,
        )


def _trains_networks(config: Config) -> bool:
    return bool(config.retrain.top or config.retrain.random_paths or config.truth.trained_here)


def _check_batch(stage: str, images: int, batch_size: int, ranks: int, which: str = '') -> None:
    if images < batch_size:
        raise ValueError(
            f'{stage}.batch_size is {batch_size}, but there are {images} training images{which}: set it to that or less'
        )
    if batch_size % ranks:
        raise ValueError(
            f'{stage}.batch_size is {batch_size}, which {ranks} ranks cannot share: set it to '
            f'{max(batch_size // ranks, 1) * ranks}, or start another number of ranks'
        )


def _check_ranges(config: Any, prefix: str = '') -> None:
    """Refuse pairs that are lower and upper ends, in the wrong order."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _check_ranges(value, f'{prefix}{field.name}.')
        elif field.name in ('scale', 'ratio', 'blur_sigma') and value[0] > value[1]:
            raise ValueError(f'{prefix}{field.name} is {list(value)}: the smallest comes first')


def _check_schedules(config: Config) -> None:
    retrain, linear = config.retrain, config.linear
    if _trains_networks(config) and retrain.warmup >= retrain.epochs:
        warnings.warn(
            f'retrain.warmup_epochs is {retrain.warmup} and retrain.epochs {retrain.epochs}: the learning rate never '
            'arrives at retrain.lr',
            stacklevel=2,
        )
    late = [milestone for milestone in linear.drops if milestone >= linear.epochs]
    if late:
        warnings.warn(
            f'linear.milestones {late} lie beyond the {linear.epochs} epochs: the learning rate does not fall there',
            stacklevel=2,
        )
    _check_optimizer(retrain)


def _check_optimizer(config: RetrainConfig) -> None:
    model = nn.Linear(1, 1)
    try:
        optimizer = timm.optim.create_optimizer_v2(model, config.optimizer, lr=config.lr)
    except (ValueError, AssertionError, RuntimeError, TypeError, ImportError) as error:
        known = ', '.join(timm.optim.list_optimizers()[:8])
        raise ValueError(
            f'retrain.optimizer is {config.optimizer!r}, which timm does not know; it knows {known}, ...'
        ) from error
    try:
        scheduler, _ = create_scheduler_v2(optimizer, config.schedule, num_epochs=config.epochs)
    except ValueError:
        scheduler = None
    if scheduler is None or not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f'retrain.schedule is {config.schedule!r}, which timm does not know; it knows cosine, tanh, step, '
            'multistep, plateau and poly'
        )
