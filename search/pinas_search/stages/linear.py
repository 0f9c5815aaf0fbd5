"""Stage 2: linear evaluation. A classifier is trained on the frozen supernet, on a random path at each step."""

from __future__ import annotations

import shutil

import torch
import torch.nn.functional as F
from torch import nn

from pinas_models.common.files import atomic_path

from ..data import Batch
from ..randomness import generator, seeded_scope
from ..rundir import save_tensors
from ..training import TrainLoop, training_batches
from .run import Run

__all__ = ['linear']


def linear(run: Run) -> None:
    """Train the classifier; writes ``linear/classifier.safetensors``.

    Batch norm uses batch statistics, as in the paper; its running statistics are not kept, they are recalibrated later.

    Raises:
        FileNotFoundError: If the learning stage has not finished.
    """
    stage, config, seed = run.stage('linear'), run.config.linear, run.config.seed
    if run.skip(stage):
        return
    output = stage.path / 'classifier.safetensors'
    trained = run.path / 'learn' / 'classifier.safetensors'
    if trained.exists():
        with atomic_path(output) as temporary:
            shutil.copyfile(trained, temporary)
        run.finish(stage, 0.0, skipped='the method trained its own classifier')
        return
    source = run.splits.train
    total, per_epoch = run.num_steps(source, config.batch_size, config.epochs, config.max_steps)
    supernet = run.load_supernet().train().requires_grad_(False)
    classifier = nn.Linear(supernet.num_features, len(run.splits.class_names))
    with seeded_scope(seed, 'linear/init'):
        nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    classifier.to(run.device)
    optimizer = torch.optim.SGD(classifier.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)

    def step(number: int, batch: Batch) -> dict[str, torch.Tensor]:
        drops = sum(number // per_epoch >= milestone for milestone in config.milestones)
        optimizer.param_groups[0]['lr'] = config.lr * 0.1**drops
        images = run.augment(batch.images, config.views, 'linear/photometric', number)[0]
        path = run.space.sample(generator(seed, 'linear/paths', number))
        with torch.no_grad(), run.autocast():
            features = supernet(images, path).mean((2, 3)).float()
        logits = classifier(features)
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {'loss': loss.detach(), 'accuracy': (logits.argmax(1) == batch.labels).float().mean()}

    loop = TrainLoop(
        'linear',
        stage,
        total,
        per_epoch,
        log_every=max(1, min(per_epoch, total // 200)),
        checkpoint_seconds=config.checkpoint_seconds,
        state={'classifier': classifier, 'optimizer': optimizer},
    )
    seconds = loop.run(
        lambda start: training_batches(
            source, config.batch_size, start, total, num_views=1, views=config.views, seed=seed, purpose='linear'
        ),
        step,
        lr=lambda: optimizer.param_groups[0]['lr'],
    )
    save_tensors(classifier, output)
    run.finish(stage, seconds, steps=total)
