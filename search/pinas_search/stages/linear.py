"""Stage: linear evaluation. A classifier is trained on the frozen supernet, on a random path at each step."""

from __future__ import annotations

import shutil
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from pinas_models.common.files import atomic_path

from .. import distributed
from ..randomness import seeded_scope
from ..records import StageDir, save_tensors
from .loop import Feed, Recipe, TrainLoop, TrainStep
from .run import Run

__all__ = ['linear']


def linear(run: Run) -> None:
    """Train the classifier; writes ``linear/classifier.safetensors``, and one below it for each snapshot of learning.

    Batch norm uses batch statistics, as in the paper; its running statistics are not kept, they are recalibrated later.

    Raises:
        FileNotFoundError: If the learning stage has not finished.
    """
    stage = run.stage('linear')
    if run.skip(stage, needs='classifier'):
        return
    for step, snapshot in distributed.first(lambda: run.snapshots):
        folder = StageDir(stage.path / snapshot)
        if distributed.first(partial(getattr, folder, 'done')) is None:
            _train(run.variant(snapshot=snapshot), folder, f'linear (after {step} steps of learning)')
    _train(run, stage, 'linear')


def _train(run: Run, stage: StageDir, title: str) -> None:
    config = run.config.linear
    output = stage.path / 'classifier.safetensors'
    trained = run.path / 'learn' / run.snapshot / 'classifier.safetensors'

    def take_trained() -> bool:
        if not trained.exists():
            return False
        with atomic_path(output) as temporary:
            shutil.copyfile(trained, temporary)
        run.finish(stage, 0.0, skipped='the method trained its own classifier')
        return True

    if distributed.first(take_trained):
        return
    supernet = run.load_supernet().train().requires_grad_(False)
    classifier = nn.Linear(supernet.num_features, run.num_classes)
    with seeded_scope(run.config.seed, 'linear/init'):
        nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    classifier.to(run.device)
    optimizer = torch.optim.SGD(classifier.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)

    def step(step: TrainStep) -> dict[str, torch.Tensor]:
        drops = sum(step.epoch >= milestone for milestone in config.drops)
        optimizer.param_groups[0]['lr'] = config.lr * 0.1**drops
        batch = step.batch()
        with torch.no_grad(), step.autocast():
            path = run.space.sample(step.generator('paths'))
            features = supernet.features(supernet(batch.images[0], path)).float()
        logits = classifier(features)
        loss = F.cross_entropy(logits, batch.labels)
        step.backward(loss)
        step.update()
        return {'loss': loss.detach(), 'accuracy': (logits.argmax(1) == batch.labels).float().mean()}

    recipe = Recipe(title, 'linear', config.batch_size, config.epochs, config.checkpoint_seconds, config.max_steps)
    feeds = {'train': Feed(run.splits.train, config.views)}
    loop = TrainLoop(run, stage, recipe, feeds, classifier, {'weights': optimizer})
    loop.watch(supernet)
    seconds, ranks = loop.train(step), distributed.size()

    def finish() -> None:
        save_tensors(classifier, output)
        run.finish(stage, seconds, steps=loop.total, ranks=ranks)

    distributed.first(finish)
