"""Stage: how well the supernet ranks networks whose true accuracies are known."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pinas_models.common.files import write_json, write_text
from pinas_models.common.progress import Progress

from ..randomness import derive_seed, generator
from ..records import Predictions, StageDir
from ..scoring import Scorer
from ..scoring.ranking import (
    FEW,
    kendall_tau,
    kendall_tau_interval,
    ranking_report,
    trivial_predictors,
)
from ..scoring.truth import Truth, load_truth, name_in
from ..spaces import ChoicePath
from .run import Run
from .truth import TABLE

__all__ = ['known_truth', 'rank']

JOINED = 'joined.csv'
_CHUNK = 81  # paths that are scored at once and then written: what they share is computed once


@dataclass(frozen=True)
class Known:
    """Networks of the space whose true accuracies are known.

    Attributes:
        truth: Their accuracies; keys are digits.
        paths: Their paths, in the order of the truth.
        left_out: Networks of the table that are not of the space, or not of the set that is asked for.
        available: Networks of the space and the set that the table knows, before some of them were drawn.
    """

    truth: Truth
    paths: tuple[ChoicePath, ...]
    left_out: int
    available: int


def known_truth(run: Run) -> Known:
    """Read the truth and choose the networks that are ranked.

    Raises:
        FileNotFoundError: If the table is missing; says where tables come from.
        ValueError: If no truth is configured, the table is wrong, or it knows fewer than two networks of the space.
    """
    config, space = run.config.truth, run.space
    if not config:
        raise ValueError(
            'there is no truth to rank against: set truth.file, a table of true accuracies, or truth.networks, a '
            'number of networks to train'
        )
    made_here = run.path / 'truth' / TABLE
    if config.trained_here and not made_here.exists():
        raise FileNotFoundError(f'{made_here} is missing: run the stage truth first (pinas-search truth ...)')
    truth = load_truth(
        Path(config.file) if config.file else made_here,
        config.column if config.file else 'accuracy',
        key=config.key if config.file else 'arch',
        fidelity=config.fidelity if config.file else run.config.retrain.epochs,
        seeds=config.seeds if config.file else None,
        normalize=name_in(space),
    )
    belongs = space.subset(config.only)
    rows, paths = [], []
    for row, key in enumerate(truth.keys):
        try:
            path = space.decode(key)
        except ValueError:
            continue
        if belongs(path):
            rows.append(row)
            paths.append(path)
    available = len(rows)
    if available < 2:
        raise ValueError(
            f'{truth.file} knows {available} of the networks of {space.name}, a ranking needs two: its first network '
            f'is {truth.keys[0]!r}, a network of the space is {space.encode(space.sample(torch.Generator()))!r}'
        )
    if config.networks is not None and config.networks < available:
        order = torch.randperm(available, generator=generator(run.config.seed, 'rank/networks'))
        drawn = sorted(order[: config.networks].tolist())
        rows, paths = [rows[i] for i in drawn], [paths[i] for i in drawn]
    return Known(truth.only(rows), tuple(paths), len(truth.keys) - available, available)


def rank(run: Run) -> None:
    """Score networks of known accuracy; writes ``rank/predictions.csv`` (``arch``, ``score``, ...) and ``report.json``.

    Scores are those of the configured scorer, and those that the method offers. Where learning has kept snapshots, or
    ``rank.calibration`` asks for it, some of the networks are scored again for the curves.

    Raises:
        FileNotFoundError: If an earlier stage has not finished, or the truth is missing.
        ValueError: If the truth does not fit.
    """
    stage = run.stage('rank')
    known = known_truth(run)
    if run.skip(stage):
        return
    scorers = _scorers(run)
    predictions = _score(run, scorers, known.paths, stage.path / 'predictions.csv', 'rank')
    curves = _curves(run, known, scorers, stage)
    report = _report(run, known, predictions, scorers['score'].facts, curves)
    scores = _column(predictions, known, 'score')
    pairs = zip(known.truth.keys, scores.tolist(), known.truth.accuracies.tolist(), strict=True)
    write_text(stage.path / JOINED, 'arch,score,truth\n' + ''.join(f'{a},{s!r},{t!r}\n' for a, s, t in pairs))
    write_json(stage.path / 'report.json', report)
    low, high = report['kendall_tau_interval']
    print(
        f'rank: tau-b {report["kendall_tau"]:+.3f}, 95 % [{low:+.3f}, {high:+.3f}], {report["n"]} networks; chosen '
        f'{report["chosen"]} with {report["chosen_true"]:.4g} of at most {report["best_true"]:.4g}',
        flush=True,
    )
    seconds = sum(_seconds(file) for file in stage.path.rglob('*.csv') if file.name != JOINED)
    run.finish(stage, seconds, networks=len(known.paths))


def _seconds(file: Path) -> float:
    return float(Predictions(file).table().numbers('seconds').sum())


def _scorers(run: Run) -> dict[str, Scorer]:
    """The configured scorer as ``score``, and what the method offers under its own names."""
    scorers = {'score': run.scorer()}
    if 'supernet' in run.needs:
        scorers |= run.load_method().scorers(run)
    return scorers


def _score(run: Run, scorers: Mapping[str, Scorer], paths: Sequence[ChoicePath], file: Path, title: str) -> Predictions:
    """Score the paths that a table lacks, and add them to it."""
    predictions = Predictions(file)
    # Sorted, so that neighbours share what they compute.
    waiting = [path for path in sorted(paths) if run.space.encode(path) not in predictions]
    with Progress(title, len(paths), len(paths) - len(waiting), unit='network') as progress:
        for start in range(0, len(waiting), _CHUNK):
            chunk, clock = waiting[start : start + _CHUNK], time.monotonic()
            scores = {name: scorer.score(chunk) for name, scorer in scorers.items()}
            seconds = (time.monotonic() - clock) / len(chunk)
            rows = []
            for i, path in enumerate(chunk):
                figures = {name: of[i].value for name, of in scores.items()}
                rows.append((run.space.encode(path), {**figures, **scores['score'][i].extra, 'seconds': seconds}))
            predictions.add(rows)
            progress.update(len(chunk))
    return predictions


def _curves(run: Run, known: Known, scorers: Mapping[str, Scorer], stage: StageDir) -> dict[str, list[dict[str, Any]]]:
    """Tau on the same networks over the training, and over the number of calibration images."""
    config = run.config
    if 'supernet' not in run.needs or not (run.snapshots or config.rank.calibration):
        return {}
    order = torch.randperm(len(known.paths), generator=generator(config.seed, 'rank/curves'))
    rows = sorted(order[: config.rank.curve_networks].tolist())
    few = replace(known, truth=known.truth.only(rows), paths=tuple(known.paths[row] for row in rows))
    end = {**_tau_of(run, few, Predictions(stage.path / 'predictions.csv')), 'n': len(rows)}
    curves: dict[str, list[dict[str, Any]]] = {}
    learned = run.stage('learn').done or {}
    points = []
    for step, snapshot in run.snapshots:
        if 'classifier' in run.needs and not (run.path / 'linear' / snapshot / 'classifier.safetensors').exists():
            continue
        at = run.variant(snapshot=snapshot)
        predictions = _score(at, _scorers(at), few.paths, stage.path / f'{snapshot}.csv', f'rank (step {step})')
        epoch = step / learned['steps_per_epoch']
        points.append({'epoch': epoch, **_tau_of(run, few, predictions), 'n': len(rows)})
    if points:
        curves['by_epoch'] = [*points, {'epoch': learned['steps'] / learned['steps_per_epoch'], **end}]
    evaluate, points = config.search.evaluate, []
    for batches in config.rank.calibration:
        other = replace(evaluate, batches=max(batches, 1), recalibrate=batches > 0)
        at = run.variant(evaluate=other)
        scorer = at.scorer()
        images = scorer.facts.get('calibration_images', 0)
        file = stage.path / 'calibration' / f'{batches}.csv'
        predictions = _score(at, {'score': scorer}, few.paths, file, f'rank ({images} calibration images)')
        points.append({'images': images, **_tau_of(run, few, predictions), 'n': len(rows)})
    if points:
        last = {'images': scorers['score'].facts.get('calibration_images', 0), **end}
        curves['by_calibration'] = sorted([*points, last], key=lambda point: point['images'])
    return curves


def _tau_of(run: Run, known: Known, predictions: Predictions) -> dict[str, Any]:
    scores = _column(predictions, known, 'score')
    stream = np.random.default_rng(derive_seed(run.config.seed, 'rank/curve'))
    interval = kendall_tau_interval(scores, known.truth.accuracies, stream, run.config.rank.samples)
    return {'kendall_tau': kendall_tau(scores, known.truth.accuracies), 'kendall_tau_interval': list(interval)}


def _column(predictions: Predictions, known: Known, column: str) -> np.ndarray:
    """A column of the predictions, in the order of the truth."""
    table = predictions.table()
    row_of = {key: row for row, key in enumerate(table.keys)}
    return table.numbers(column)[[row_of[key] for key in known.truth.keys]]


def _report(
    run: Run,
    known: Known,
    predictions: Predictions,
    facts: Mapping[str, Any],
    curves: Mapping[str, Any],
) -> dict[str, Any]:
    config, space, truth = run.config, run.space, known.truth
    table = predictions.table()
    scores = _column(predictions, known, 'score')
    trivial = trivial_predictors(space, known.paths)
    if truth.short is not None:
        trivial['12-epoch accuracy'] = truth.short
    stream = np.random.default_rng(derive_seed(config.seed, 'rank/report'))
    samples = config.rank.samples
    report = ranking_report(scores, truth.accuracies, stream, samples=samples, known=known.available, trivial=trivial)
    chosen, best = int(np.argmax(scores)), int(np.argmax(truth.accuracies))
    others = [name for name in table.cells if name not in ('arch', 'score', 'seconds', 'accuracy')]
    values = {name: _column(predictions, known, name) for name in others}
    report |= {
        'chosen': truth.keys[chosen],
        'best': truth.keys[best],
        'space': space.name,
        'only': config.truth.only,
        'method': config.learn.method,
        'scorer': config.search.scorer,
        'recalibrated': facts.get('recalibrated'),
        'calibration_images': facts.get('calibration_images'),
        'held_out_images': facts.get('held_out_images'),
        'batch_norm': facts.get('batch_norm'),
        'predictions': {'file': predictions.file.name, 'column': 'score', 'checksum': table.checksum},
        'truth': truth.facts() | _ceiling(truth),
        'left_out': known.left_out,
        'scores': {
            name: {
                'kendall_tau': kendall_tau(column, truth.accuracies),
                'kendall_tau_interval': list(kendall_tau_interval(column, truth.accuracies, stream, samples)),
            }
            # A loss ranks the other way round: bigger must be better.
            for name, column in ((n, -v if n == 'cross_entropy' else v) for n, v in values.items())
        },
        **curves,
        'seed': config.seed,
    }
    accuracies = table.numbers('accuracy') if 'accuracy' in table.cells else None
    report['warnings'] = _warnings(run, report, known.paths[chosen], accuracies)
    return report


def _ceiling(truth: Truth) -> dict[str, Any]:
    return {} if truth.agreement is None else {'tau_between_trainings': truth.agreement}


def _warnings(run: Run, report: Mapping[str, Any], chosen: ChoicePath, accuracies: np.ndarray | None) -> list[str]:
    """What a reader must know before believing the figures."""
    warnings, n, images = [], report['n'], report['held_out_images']
    if report['recalibrated'] is False and report['batch_norm'] != 'batch statistics':
        warnings.append(
            'The scores were measured without recalibrating batch norm for each path: they mix the statistics of all '
            'paths, and such a ranking is hardly better than chance.'
        )
    if n < FEW:
        warnings.append(f'{n} networks are few: a tau of 13 networks has a standard deviation of about 0.14.')
    if report['constant']:
        warnings.append('All scores are the same: they rank nothing.')
    elif images and accuracies is not None:
        noise, spread = float(np.sqrt(np.mean(accuracies) * (1 - np.mean(accuracies)) / images)), np.std(accuracies)
        if spread < noise:
            warnings.append(
                f'The scores spread by {spread:.2%} (standard deviation), less than the standard error of one '
                f'score on {images} images, {noise:.2%}: all networks lie within the noise.'
            )
    skips = sum(run.space.describe().choices[choice].skip for choice in chosen)
    if 2 * skips > len(chosen):
        warnings.append(
            f'The chosen network is mostly skips ({skips} of {len(chosen)} positions): searches are known to collapse '
            'so.'
        )
    return warnings
