"""Stage: train the winner, and others for comparison, as networks of their own."""

from __future__ import annotations

from dataclasses import dataclass

import timm.optim
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from pinas_models.common.files import write_json

from .. import distributed
from ..data import sequential_batches
from ..randomness import seeded_scope
from ..records import Candidate, StageDir, Trials, read_json
from ..scoring import Judgement, judge
from ..spaces import ChoicePath
from .loop import Feed, Recipe, Stateful, TrainLoop, TrainStep
from .model import save_network
from .run import Run
from .workers import train_all

__all__ = ['Training', 'retrain', 'train_network']


@dataclass(frozen=True)
class Training:
    """A network to train.

    Attributes:
        name: Name of its folder: ``winner``, ``top-2``, ``random-0``; further seeds have ``-seed-1`` and so on behind.
        path: The path.
        score: Its score in the search; None if nothing scored it.
        seed: Number of the training of this path, from 0.
        keep: Whether the trained network is wanted, and not its accuracy alone.
    """

    name: str
    path: ChoicePath
    score: float | None
    seed: int
    keep: bool = True

    @property
    def purpose(self) -> str:
        """Name of the random streams."""
        digits = ''.join(map(str, self.path))
        return f'retrain/{digits}' if self.seed == 0 else f'retrain/{digits}/{self.seed}'


def retrain(run: Run) -> None:
    """Train the networks; writes ``retrain/<name>/model`` (for timm's ``local-dir:``) and ``result.json``.

    Raises:
        FileNotFoundError: If the search has not finished.
        ValueError: If there are fewer images than a batch.
    """
    stage = run.stage('retrain')
    networks = [StageDir(folder) for folder in sorted(stage.path.glob('*')) if folder.is_dir()]
    if all(network.done for network in networks) and run.skip(stage):
        return
    if not (run.config.retrain.top or run.config.retrain.random_paths):
        distributed.first(lambda: run.finish(stage, 0.0, skipped='no network is to be retrained'))
        return
    if not (run.path / 'search' / 'result.json').exists():
        raise FileNotFoundError(
            f'{run.path / "search" / "result.json"} is missing: run the stage search first (pinas-search search ...)'
        )
    trainings = distributed.first(lambda: _plan(run, stage))
    seconds = train_all(run, trainings, stage, train_network)
    distributed.first(lambda: run.finish(stage, seconds))


def _plan(run: Run, stage: StageDir) -> list[Training]:
    """What is trained: the best candidates, and random paths with the scores that the search would have given them."""
    config = run.config.retrain
    journal = run.path / 'search' / 'journal.log'
    candidates = Trials(journal, run.space).candidates()
    if not candidates:
        raise ValueError(f'{journal} holds no candidates: delete it and run the stage search again')
    best = sorted(candidates, key=lambda candidate: candidate.order)[: config.top]
    paths = {'winner' if i == 0 else f'top-{i + 1}': run.space.decode(c.path) for i, c in enumerate(best)}
    random = run.draw_paths(config.random_paths, 'retrain/random-paths', taken=set(paths.values()))
    paths |= {f'random-{i}': path for i, path in enumerate(random)}
    scores = _scores(run, list(paths.values()), candidates, stage)
    return [
        Training(name if seed == 0 else f'{name}-seed-{seed}', path, scores.get(path), seed)
        for seed in range(config.seeds)
        for name, path in paths.items()
    ]


def _scores(run: Run, paths: list[ChoicePath], candidates: list[Candidate], stage: StageDir) -> dict[ChoicePath, float]:
    """Scores of paths; those that the search has not scored are scored now, and kept in ``scores.json``."""
    file = stage.path / 'scores.json'
    known = {candidate.path: candidate.score for candidate in candidates}
    known |= read_json(file) if file.exists() else {}
    missing = [path for path in paths if run.space.encode(path) not in known]
    if missing:
        scored = run.scorer().score(missing)
        fresh = {
            run.space.encode(path): score.extra.get('accuracy', score.value)
            for path, score in zip(missing, scored, strict=True)
        }
        write_json(file, fresh)
        known |= fresh
    return {path: known[run.space.encode(path)] for path in paths}


def train_network(run: Run, training: Training, folder: StageDir) -> None:
    """Train one network with the recipe of ``retrain``, from its last checkpoint if there is one.

    Args:
        run: The run.
        training: The network.
        folder: Where its metrics, its result and, if it is kept, its weights go.
    """
    config, seed, purpose = run.config.retrain, run.config.seed, training.purpose
    test = run.splits.test
    # Without a test split the held-out images measure the accuracy, so the training must not see them.
    source = run.splits.train if test is None else run.splits.full_train
    measured = run.splits.held_out if test is None else test
    model = run.place(_build(run, training))
    optimizer = timm.optim.create_optimizer_v2(
        model, config.optimizer, lr=config.lr, weight_decay=config.weight_decay, momentum=0.9
    )
    ema = ModelEmaV3(model, decay=config.ema_decay) if config.ema_decay else None
    recipe = Recipe(
        f'retrain {training.name}',
        purpose,
        config.batch_size,
        config.epochs,
        config.checkpoint_seconds,
        log_epochs=True,
    )
    averages: dict[str, Stateful] = {} if ema is None else {'ema': ema}
    feeds = {'train': Feed(source, config.views)}
    loop = TrainLoop(run, folder, recipe, feeds, model, {'weights': optimizer}, averages)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup,
        step_on_epochs=False,
        updates_per_epoch=loop.per_epoch,
    )
    own = f'/rank-{distributed.rank()}' if distributed.rank() else ''
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    mixup = None
    if config.mixup or config.cutmix:
        mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=run.num_classes)
    erase = RandomErasing(config.erase_prob, mode='pixel', device=str(run.device)) if config.erase_prob else None
    criterion: nn.Module = SoftTargetCrossEntropy() if mixup else LabelSmoothingCrossEntropy(config.label_smoothing)

    def step(step: TrainStep) -> dict[str, torch.Tensor]:
        scheduler.step_update(step.number)
        images, labels = step.batch()
        images = images[0]
        model.train()
        # Mixup, erasing, DropPath and dropout take no generator, and draw for the images of a rank only.
        with seeded_scope(seed, f'{purpose}/step{own}', step.number):
            if mixup is not None:
                images, labels = mixup(images, labels)
            if erase is not None:
                images = erase(images)
            with step.autocast():
                logits = model(images)
        loss = criterion(logits.float(), labels)
        step.backward(loss)
        step.update()
        distributed.mean_(statistics)  # so that what is measured and kept is not that of one rank
        if ema is not None:
            ema.update(model, step=step.number)
        return {'loss': loss.detach()}

    def judgement(network: nn.Module) -> Judgement:
        network.eval()
        batches = measured.center_crops(sequential_batches(len(measured), config.batch_size))
        with run.autocast():
            return judge(network, ((run.normalize(b.images), b.labels) for b in batches))

    def figures() -> dict[str, float]:
        ema_figures = {} if ema is None else {'ema_accuracy': judgement(ema.module).accuracy}
        return {'accuracy': judgement(model).accuracy, **ema_figures}

    seconds, ranks = loop.train(step, figures), distributed.size()
    final = ema.module if ema is not None else model

    def finish() -> None:
        end, cost = judgement(final), run.space.cost(training.path)
        result = {
            'name': training.name,
            'path': run.space.encode(training.path),
            'score': training.score,
            'accuracy': end.accuracy,
            'accuracy_on': 'held_out' if test is None else 'test',
            'images': len(measured),
            'cross_entropy': end.cross_entropy,
            'correct': end.score.correct,
            'params': cost.params,
            'macs': cost.macs,
            'start': config.start,
            'epochs': config.epochs,
            'seed': training.seed,
        }
        if training.keep:
            save_network(run, final, training.path, result, folder.path / 'model')
        write_json(folder.path / 'result.json', result)
        run.finish(folder, seconds, steps=loop.total, ranks=ranks)

    distributed.first(finish)


def _build(run: Run, training: Training) -> nn.Module:
    config = run.config.retrain
    with seeded_scope(run.config.seed, f'{training.purpose}/init'):
        model = run.space.build(
            training.path,
            num_classes=run.num_classes,
            drop_rate=config.drop_rate,
            drop_path_rate=config.drop_path_rate,
        )
    if config.start == 'inherited':
        inherited = run.load_supernet().extract(training.path, run.load_classifier())
        model.load_state_dict(inherited.state_dict())
    return model
