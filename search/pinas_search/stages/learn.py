"""Stage: learn the supernet with the configured method."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from .. import distributed
from ..config import LearnConfig
from ..methods import Method
from ..records import save_tensors
from .loop import Feed, Recipe, TrainLoop, TrainStep
from .run import Run

__all__ = ['learn', 'learning_rate']


def learn(run: Run) -> None:
    """Train the supernet; writes ``learn/<artifact>.safetensors`` for each artifact of the method.

    With ``learn.snapshots`` also ``learn/snapshots/<step>/<artifact>.safetensors``.

    Raises:
        ValueError: If the method, its options or the batch size do not fit; raised before any work is done.
    """
    stage, config = run.stage('learn'), run.config.learn
    if run.skip(stage, needs='supernet'):
        return
    method = run.build_method()
    method.check_batch_size(config.batch_size)
    if config.sync_bn:
        method = distributed.sync_batch_norm(method)
    run.place(method).train()
    optimizers = method.optimizers(config)
    streams = method.streams
    sources = run.subset(run.splits.train, 'learn/streams', [stream.share for stream in streams.values()])
    feeds = {
        name: Feed(source, config.views or stream.views, stream.num_views)
        for (name, stream), source in zip(streams.items(), sources, strict=True)
    }
    recipe = Recipe(
        f'learn ({config.method})',
        'learn',
        config.batch_size,
        config.epochs,
        config.checkpoint_seconds,
        config.max_steps,
    )
    loop = TrainLoop(run, stage, recipe, feeds, method, optimizers)
    snapshots = {loop.total * k // config.snapshots for k in range(1, config.snapshots)}  # the last one is the end

    def step(step: TrainStep) -> dict[str, torch.Tensor]:
        if 'weights' in optimizers:
            for group in optimizers['weights'].param_groups:
                group['lr'] = learning_rate(config, step.epoch)
        values = method.step(step)
        if step.number + 1 in snapshots:
            distributed.first(lambda: _save_artifacts(method, stage.path / 'snapshots' / str(step.number + 1)))
        return values

    seconds, ranks = loop.train(step), distributed.size()

    def finish() -> None:
        _save_artifacts(method, stage.path)
        more = dict(steps=loop.total, steps_per_epoch=loop.per_epoch, method=config.method, ranks=ranks)
        run.finish(stage, seconds, **more)

    distributed.first(finish)


def _save_artifacts(method: Method, folder: Path) -> None:
    for name, module in method.artifacts().items():
        save_tensors(module, folder / f'{name}.safetensors')


def learning_rate(config: LearnConfig, epoch: int) -> float:
    """Learning rate of an epoch; changes once per epoch, as in the authors' code."""
    progress = epoch / config.epochs
    return config.lr * (1 - progress if config.schedule == 'linear' else 0.5 * (1 + math.cos(math.pi * progress)))
