"""Stage 1: learn the supernet with the configured method."""

from __future__ import annotations

import math

import timm.optim
import torch

from ..config import LearnConfig
from ..data import Batch
from ..methods import Method, create_method
from ..randomness import generator, seeded_scope
from ..rundir import save_tensors
from ..training import TrainLoop, training_batches
from .run import Run

__all__ = ['learn']


def learn(run: Run) -> None:
    """Train the supernet; writes ``learn/supernet.safetensors`` (and the classifier of a method that trains one).

    Raises:
        ValueError: If the method, its options or the batch size do not fit; raised before any work is done.
    """
    stage, config, seed = run.stage('learn'), run.config.learn, run.config.seed
    if run.skip(stage):
        return
    source = run.splits.train
    total, per_epoch = run.num_steps(source, config.batch_size, config.epochs, config.max_steps)
    with seeded_scope(seed, 'method/init'):
        method = create_method(config, run.build_supernet(), len(run.splits.class_names))
    method.check_batch_size(config.batch_size)
    run.place(method).train()
    optimizer = _optimizer(method, config)
    views = config.views or method.default_views()

    def step(number: int, batch: Batch) -> dict[str, torch.Tensor]:
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(config, number // per_epoch)
        images = run.augment(batch.images, views, 'learn/photometric', number)
        paths = method.sample_paths(generator(seed, 'learn/paths', number))
        with run.autocast():
            loss = method.training_step(images, paths, batch.labels)
        # None, not zero: a block off the path gets neither momentum nor weight decay (the authors' optimizer hook).
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {'loss': loss.detach()}

    loop = TrainLoop(
        f'learn ({config.method})',
        stage,
        total,
        per_epoch,
        log_every=max(1, min(per_epoch, total // 200)),
        checkpoint_seconds=config.checkpoint_seconds,
        state={'method': method, 'optimizer': optimizer},
    )
    seconds = loop.run(
        lambda start: training_batches(
            source, config.batch_size, start, total, num_views=method.num_views, views=views, seed=seed, purpose='learn'
        ),
        step,
        lr=lambda: optimizer.param_groups[0]['lr'],
    )
    save_tensors(method.supernet, stage.path / 'supernet.safetensors')
    head = method.scoring_head()
    if head is not None:
        save_tensors(head, stage.path / 'classifier.safetensors')
    run.finish(stage, seconds, steps=total, method=config.method)


def learning_rate(config: LearnConfig, epoch: int) -> float:
    """Learning rate of an epoch; changes once per epoch, as in the authors' code."""
    progress = epoch / config.epochs
    return config.lr * (1 - progress if config.schedule == 'linear' else 0.5 * (1 + math.cos(math.pi * progress)))


def _optimizer(method: Method, config: LearnConfig) -> torch.optim.SGD:
    if method.decay_all:
        parameters = [{'params': [p for p in method.parameters() if p.requires_grad]}]
    else:
        parameters = timm.optim.param_groups_weight_decay(method, config.weight_decay)
    return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
