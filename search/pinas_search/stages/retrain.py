"""Stage 4: train the winner, and random paths for comparison, as networks of their own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path as FilePath

import numpy as np
import timm.optim
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import save_for_hf
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from pinas_models import PinasNet
from pinas_models.common.files import write_json

from ..augment import normalize
from ..card import model_card
from ..data import Batch, sequential_batches
from ..evaluate import top1
from ..randomness import generator, seeded_scope
from ..rundir import StageDir
from ..spaces import Limits, Path
from ..training import Stateful, TrainLoop, training_batches
from .run import Run

__all__ = ['retrain']


def retrain(run: Run) -> None:
    """Train the networks; writes ``retrain/<name>/model`` (for timm's ``local-dir:``) and ``result.json``.

    Raises:
        FileNotFoundError: If the search has not finished.
        ValueError: If there are fewer images than a batch.
    """
    stage = run.stage('retrain')
    if run.skip(stage):
        return
    result = run.path / 'search' / 'result.json'
    if not result.exists():
        raise FileNotFoundError(f'{result} is missing: run the stage search first (pinas-search search ...)')
    winner = run.space.decode(json.loads(result.read_text(encoding='utf-8'))['path'])
    networks = {'winner': winner}
    networks |= {f'random-{i}': path for i, path in enumerate(_random_paths(run, winner))}
    seconds = 0.0
    for name, path in networks.items():
        folder = StageDir(stage.path / name)
        if folder.done is None:
            _train(run, name, path, folder)
        done = folder.done
        seconds += done['seconds'] if done else 0.0
    run.finish(stage, seconds)


def _random_paths(run: Run, winner: Path) -> list[Path]:
    """Distinct random paths under the limits of the search, other than the winner."""
    config, stream = run.config, generator(run.config.seed, 'retrain/random-paths')
    limits = Limits(config.search.max_params, config.search.max_macs)
    paths: list[Path] = []
    for _ in range(1000 * config.retrain.random_paths):
        path = run.space.sample(stream)
        if path != winner and path not in paths and limits.allow(run.space, np.array([path]))[0]:
            paths.append(path)
        if len(paths) == config.retrain.random_paths:
            break
    return paths


def _train(run: Run, name: str, path: Path, folder: StageDir) -> None:
    config, data, seed = run.config.retrain, run.config.data, run.config.seed
    test = run.splits.test
    # Without a test split the held-out images measure the accuracy, so the training must not see them.
    source = run.splits.train if test is None else run.splits.full_train
    measured = run.splits.held_out if test is None else test
    total, per_epoch = run.num_steps(source, config.batch_size, config.epochs, None)
    purpose = f'retrain/{run.space.encode(path)}'
    model = run.place(_build(run, path, purpose))
    optimizer = timm.optim.create_optimizer_v2(
        model, config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=0.9
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=per_epoch,
    )
    ema = ModelEmaV3(model, decay=config.ema_decay) if config.ema_decay else None
    num_classes = len(run.splits.class_names)
    mixup = None
    if config.mixup or config.cutmix:
        mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=num_classes)
    erase = RandomErasing(config.erase_prob, mode='pixel', device=str(run.device)) if config.erase_prob else None
    criterion: nn.Module = SoftTargetCrossEntropy() if mixup else LabelSmoothingCrossEntropy(config.label_smoothing)

    def step(number: int, batch: Batch) -> dict[str, torch.Tensor]:
        scheduler.step_update(number)
        images, labels = run.augment(batch.images, config.views, f'{purpose}/photometric', number)[0], batch.labels
        model.train()
        with seeded_scope(seed, f'{purpose}/step', number):  # Mixup, erasing, DropPath and dropout take no generator
            if mixup is not None:
                images, labels = mixup(images, labels)
            if erase is not None:
                images = erase(images)
            with run.autocast():
                logits = model(images)
        loss = criterion(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if ema is not None:
            ema.update(model, step=number)
        return {'loss': loss.detach()}

    def accuracy(network: nn.Module) -> float:
        network.eval()
        batches = measured.center_crops(sequential_batches(len(measured), config.batch_size))
        with run.autocast():
            return top1(network, ((normalize(b.images, data.mean, data.std), b.labels) for b in batches))

    def figures() -> dict[str, float]:
        return {'accuracy': accuracy(model)} | ({'ema_accuracy': accuracy(ema.module)} if ema is not None else {})

    state: dict[str, Stateful] = {'model': model, 'optimizer': optimizer}
    if ema is not None:
        state['ema'] = ema
    loop = TrainLoop(f'retrain {name}', folder, total, per_epoch, per_epoch, config.checkpoint_seconds, state)
    batches = partial(
        training_batches, source, config.batch_size, num_views=1, views=config.views, seed=seed, purpose=purpose
    )
    seconds = loop.run(
        lambda start: batches(start=start, total=total), step, lambda: optimizer.param_groups[0]['lr'], figures
    )
    final = ema.module if ema is not None else model
    cost = run.space.cost(path)
    result = {
        'name': name,
        'path': run.space.encode(path),
        'accuracy': accuracy(final),
        'accuracy_on': 'held_out' if test is None else 'test',
        'images': len(measured),
        'params': cost.params,
        'macs': cost.macs,
        'start': config.start,
        'epochs': config.epochs,
    }
    _save_model(run, final, path, result, folder.path / 'model')
    write_json(folder.path / 'result.json', result)
    run.finish(folder, seconds, steps=total)


def _build(run: Run, path: Path, purpose: str) -> PinasNet:
    config, num_classes = run.config.retrain, len(run.splits.class_names)
    with seeded_scope(run.config.seed, f'{purpose}/init'):
        model = run.space.build(
            path, num_classes=num_classes, drop_rate=config.drop_rate, drop_path_rate=config.drop_path_rate
        )
    if config.start == 'inherited':
        inherited = run.load_supernet().extract(path, run.load_classifier())
        model.load_state_dict(inherited.state_dict())
    return model


def _save_model(run: Run, model: nn.Module, path: Path, result: dict[str, object], folder: FilePath) -> None:
    """Write what ``timm.create_model('local-dir:...')`` opens: configuration, weights and a card."""
    data = run.config.data
    names = list(run.splits.class_names)
    config = {
        'num_classes': len(names),
        'label_names': names,
        'pretrained_cfg': {
            'tag': 'searched',
            'input_size': (3, data.image_size, data.image_size),
            'mean': data.mean,
            'std': data.std,
            'crop_pct': 1.0 if data.image_size < 64 else 0.875,
            'interpolation': 'bilinear',
            'num_classes': len(names),
        },
    }
    # The path is not implied by the name of the architecture, so it must be among the stored arguments.
    model_args = {'choices': list(path), 'num_classes': len(names)}
    save_for_hf(model.cpu().to(memory_format=torch.contiguous_format), str(folder), config, model_args, True)
    card = model_card(run.space, path, result, run.config, run.path)
    (folder / 'README.md').write_text(card, encoding='utf-8')
