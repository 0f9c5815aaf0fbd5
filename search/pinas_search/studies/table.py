"""The table of a study: taus with intervals, differences to the baseline, compute, and what needs no training."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..randomness import derive_seed
from ..records import StageDir
from ..report.figures import Picture, style
from ..report.ranking import TauLine, draw_tau_lines
from ..scoring.ranking import FEW, compare_taus, kendall_tau, ranking_report, trivial_predictors
from ..scoring.tables import join, read_table
from ..scoring.truth import Truth
from ..stages import Run
from ..stages.rank import known_truth
from .execute import Done
from .spec import StudyRun

__all__ = ['Row', 'Table', 'draw', 'make_table', 'to_csv', 'to_markdown']

# Columns of predictions that are no score of their own.
_NO_SCORES = ('arch', 'score', 'accuracy', 'cross_entropy', 'seconds')
_DASH = '-'
_CSV_COLUMNS = (
    *('run', 'kind', 'seeds', 'seeds_asked', 'n', 'tau', 'low', 'high', 'p_value', 'constant', 'seed_taus'),
    *('difference', 'difference_low', 'difference_high', 'verdict', 'chosen', 'chosen_true', 'regret'),
    *('images', 'forward_passes', 'backward_passes', 'seconds', 'paper_tau'),
)
PAPER_SD = 0.14
"""Standard deviation of a tau of 13 networks, which the paper's are of."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a run, or a score that its method offers beside the configured one.

    Attributes:
        name: The run, with the name of the score if it is another one.
        seeds: The seeds that have finished.
        asked: How many seeds the study asks for.
        n: Networks that all seeds have scored.
        tau: Mean of the seeds' taus.
        interval: Its 95 % interval over networks and seeds.
        seed_taus: Tau of each seed.
        p_value: Of the permutation test of tau = 0.
        constant: Whether each seed scores all networks alike, so that it ranks nothing.
        difference: Tau minus that of the baseline on the same networks; None for the baseline.
        difference_interval: Its 95 % interval by paired bootstrap.
        verdict: ``better``, ``worse`` or ``undecided at n = ...``.
        chosen: The network that each seed chooses.
        chosen_true: Mean true accuracy of these, in the unit of the truth.
        regret: How much better the best network is.
        images: Images that one seed learns from, the linear stage included.
        forward: Images times forward passes; None if the study does not state the passes of a step.
        backward: The same for backward passes.
        seconds: Time of a seed's learning and linear stage, mean.
        paper: Tau reported by the authors.
    """

    name: str
    seeds: tuple[int, ...]
    asked: int
    n: int
    tau: float
    interval: tuple[float, float]
    seed_taus: tuple[float, ...]
    p_value: float
    constant: bool
    difference: float | None
    difference_interval: tuple[float, float] | None
    verdict: str | None
    chosen: tuple[str, ...]
    chosen_true: float
    regret: float
    images: int
    forward: int | None
    backward: int | None
    seconds: float
    paper: float | None


@dataclass(frozen=True)
class Table:
    """All that a study has found.

    Attributes:
        name: Name of the study.
        title: What it asks.
        baseline: The run that the others are compared with.
        rows: The runs that have finished seeds.
        trivial: Name -> tau of what needs no training, on the networks of the baseline.
        best_true: The best true accuracy among these.
        ceiling: Tau between two trainings of the truth, where it has them.
        truth: What is known of the truth.
        samples: Bootstrap samples, and permutations.
        missing: Runs without a finished seed.
        failed: Name of a run directory -> why it failed.
        paper: Where the values of the paper stand.
    """

    name: str
    title: str
    baseline: str
    rows: tuple[Row, ...]
    trivial: Mapping[str, float]
    best_true: float
    ceiling: float | None
    truth: Mapping[str, Any]
    samples: int
    missing: tuple[str, ...]
    failed: Mapping[str, str]
    paper: str

    def to_json(self) -> dict[str, Any]:
        """As ``study.json`` has it."""
        return asdict(self)


@dataclass(frozen=True)
class _Scores:
    """Scores of the seeds of a run on networks that all have and whose truth is known.

    Attributes:
        keys: The networks.
        values: Column -> scores [S, N].
        truth: True accuracies [N].
    """

    keys: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    truth: np.ndarray


def make_table(done: Done) -> Table:
    """Judge the finished runs of a study. All seeds of a run count, on the networks that all of them have scored.

    Raises:
        ValueError: If no run has finished, or seeds share fewer than two networks.
    """
    study = done.study
    finished = [run for run in study.runs if done.folders[run.name]]
    if not finished:
        raise ValueError(f'no run of the study {study.name} has finished: there is nothing to compare')
    first = study.baseline if study.baseline in finished else finished[0]
    place = Run(first.config, _any(done.folders[first.name]))
    known = known_truth(place)
    scores = {run.name: _read(done.folders[run.name], known.truth) for run in finished}
    samples = first.config.rank.samples
    rows = [
        row
        for run in finished
        for row in _rows(
            run,
            done.folders[run.name],
            scores[run.name],
            scores.get(study.baseline.name),
            samples,
            is_baseline=run is study.baseline,
        )
    ]
    on = scores[first.name]
    trivial = trivial_predictors(place.space, [place.space.decode(key) for key in on.keys])
    taus = {name: kendall_tau(values, on.truth) for name, values in trivial.items()}
    return Table(
        study.name,
        study.title,
        study.baseline.name,
        tuple(rows),
        dict(sorted(taus.items(), key=lambda item: -item[1])),
        float(on.truth.max()),
        known.truth.agreement,
        known.truth.facts(),
        samples,
        tuple(run.name for run in study.runs if run not in finished),
        dict(done.failed),
        study.paper,
    )


def _any(folders: Mapping[int, Path]) -> Path:
    return next(iter(folders.values()))


def _read(folders: Mapping[int, Path], truth: Truth) -> _Scores:
    tables = [read_table(folder / 'rank' / 'predictions.csv', 'arch') for folder in folders.values()]
    shared = set(truth.keys).intersection(*(table.keys for table in tables))
    if len(shared) < 2:
        names = ', '.join(folder.name for folder in folders.values())
        raise ValueError(f'{names}: {len(shared)} networks of known accuracy have scores of all, a ranking needs two')
    keys = tuple(key for key in truth.keys if key in shared)
    columns = [c for c in tables[0].cells if c not in _NO_SCORES and all(c in table.cells for table in tables)]
    values = {
        column: np.stack([table.numbers(column)[join(table.keys, keys).left] for table in tables])
        for column in ('score', *columns)
    }
    return _Scores(keys, values, truth.accuracies[join(truth.keys, keys).left])


def _rows(
    run: StudyRun,
    folders: Mapping[int, Path],
    scores: _Scores,
    baseline: _Scores | None,
    samples: int,
    *,
    is_baseline: bool,
) -> list[Row]:
    costs, rows = _costs(run, folders), []
    for column, values in scores.values.items():
        own = column == 'score'
        name = run.name if own else f'{run.name}: {column}'
        # Streams of their own: an interval does not depend on which other runs there are.
        report = ranking_report(values, scores.truth, _stream(name), samples=samples)
        difference = None
        if baseline is not None and not (is_baseline and own):
            here = join(scores.keys, baseline.keys)
            difference = compare_taus(
                values[:, here.left],
                baseline.values['score'][:, here.right],
                baseline.truth[here.right],
                _stream(f'{name}/against'),
                samples,
            )
        rows.append(
            Row(
                name,
                tuple(folders),
                len(run.configs),
                report['n'],
                report['kendall_tau'],
                tuple(report['kendall_tau_interval']),
                tuple(report['seed_taus']),
                report['p_value'],
                report['constant'],
                None if difference is None else difference.difference,
                None if difference is None else difference.interval,
                None if difference is None else difference.verdict,
                tuple(scores.keys[int(row.argmax())] for row in values),
                report['chosen_true'],
                report['regret'],
                **costs,
                paper=run.paper if own else None,
            )
        )
    return rows


def _stream(purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(0, f'study/{purpose}'))


def _costs(run: StudyRun, folders: Mapping[int, Path]) -> dict[str, Any]:
    """What one seed of a run has cost: image passes of learning and of the linear stage, which has one forward pass."""
    stages = {name: [StageDir(folder / name).done or {} for folder in folders.values()] for name in ('learn', 'linear')}
    learned = stages['learn'][0].get('steps', 0) * run.config.learn.batch_size
    linear = stages['linear'][0].get('steps', 0) * run.config.linear.batch_size
    seconds = sum(record.get('seconds', 0.0) for records in stages.values() for record in records)
    passes = run.passes
    return {
        'images': learned + linear,
        'forward': None if passes is None else round(learned * passes.forward) + linear,
        'backward': None if passes is None else round(learned * passes.backward),
        'seconds': seconds / len(folders),
    }


def to_csv(table: Table) -> str:
    """The table as CSV: a line per row, then one per trivial predictor, whose cells are empty but for its tau."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_CSV_COLUMNS)
    for row in table.rows:
        cells = [row.name, 'run', ' '.join(map(str, row.seeds)), row.asked, row.n, row.tau, *row.interval, row.p_value]
        cells += [row.constant, ' '.join(map(repr, row.seed_taus))]
        cells += [row.difference, *(row.difference_interval or (None, None)), row.verdict]
        cells += [' '.join(row.chosen), row.chosen_true, row.regret]
        writer.writerow([*cells, row.images, row.forward, row.backward, round(row.seconds, 3), row.paper])
    for name, tau in table.trivial.items():
        writer.writerow([name, 'trivial', None, None, None, tau, *[None] * (len(_CSV_COLUMNS) - 6)])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The table in Markdown, and below it what the figures mean."""
    with_paper = any(row.paper is not None for row in table.rows)
    names = ['run', 'seeds', 'n', 'tau', '95 %', f'against `{table.baseline}`', 'chosen, true', 'regret', 'compute']
    header = [*names, 'authors'] if with_paper else names
    lines = [f'# {table.name}', '', *([table.title, ''] if table.title else [])]
    lines += ['| ' + ' | '.join(header) + ' |', '|---|' + '---:|' * (len(header) - 1)]
    for row in table.rows:
        seeds = str(len(row.seeds)) if len(row.seeds) == row.asked else f'{len(row.seeds)} of {row.asked}'
        against = _DASH
        if row.difference is not None and row.difference_interval is not None:
            against = f'{row.verdict}, {row.difference:+.3f} {_interval(row.difference_interval)}'
        cells = [f'`{row.name}`', seeds, str(row.n), f'{row.tau:+.3f}', _interval(row.interval), against]
        cells += [f'{row.chosen_true:.2f}', f'{row.regret:.2f}', _compute(row)]
        paper = [_DASH if row.paper is None else f'{row.paper:.2f} ± {PAPER_SD}'] if with_paper else []
        lines.append('| ' + ' | '.join([*cells, *paper]) + ' |')
    for name, tau in table.trivial.items():
        cells = [f'*{name}*', _DASH, _DASH, f'{tau:+.3f}', *[_DASH] * (len(header) - 4)]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join([*lines, '', *(f'- {note}' for note in _notes(table, with_paper))]) + '\n'


def draw(table: Table) -> Picture:
    """Draw the taus of the runs with their intervals, beside those of predictors without training and the paper's."""
    lines = [
        TauLine(row.name, row.tau, row.interval, row.seed_taus, None if row.paper is None else (row.paper, PAPER_SD))
        for row in table.rows
    ]
    with style():
        return Picture(*draw_tau_lines(lines, table.trivial, table.ceiling, f'{table.name}: who ranks how well'))


def _interval(interval: tuple[float, float]) -> str:
    return f'[{interval[0]:+.3f}, {interval[1]:+.3f}]'


def _compute(row: Row) -> str:
    if not row.images:
        return _DASH
    if row.forward is None or row.backward is None:
        return f'{_count(row.images)} images'
    return f'{_count(row.forward)} forward, {_count(row.backward)} backward'


def _count(number: int) -> str:
    return f'{number / 1e6:.2f}M' if number >= 1e5 else f'{number:,}'


def _notes(table: Table, with_paper: bool) -> list[str]:
    truth = table.truth
    epochs = 'an unknown number of' if truth['fidelity'] is None else truth['fidelity']
    notes = [
        "tau: Kendall's tau-b, mean over the seeds; intervals by bootstrap over networks and seeds "
        f'({table.samples} samples), differences on the same samples of networks.',
        f'Truth: {truth["file"]}, {truth["column"]}, {epochs} epochs, SHA-256 {truth["checksum"]}; '
        f'the best network has {table.best_true:.2f}.',
    ]
    if table.ceiling is not None:
        notes.append(f'Two trainings of the truth agree with tau {table.ceiling:+.3f}: no score can be expected above.')
    notes.append(
        'compute: of one seed, learning and linear stage, in passes of one image; where the study does not state the '
        'passes of a step, its images. In italics: predictors that need no training.'
    )
    if with_paper:
        notes.append(
            f'authors: reported by the authors, not measured here{f" ({table.paper})" if table.paper else ""}, on 13 '
            f'networks, where a tau has a standard deviation of about {PAPER_SD}: differences below about 0.3 between '
            'two of them are noise.'
        )
    few = [row.name for row in table.rows if row.n < FEW]
    if few:
        notes.append(f'Few networks, so wide intervals: {", ".join(few)}.')
    constant = [row.name for row in table.rows if row.constant]
    if constant:
        notes.append(f'All scores are the same, which ranks nothing: {", ".join(constant)}.')
    if table.missing:
        notes.append(f'Without a finished seed: {", ".join(table.missing)}.')
    return [*notes, *(f'Failed: {name}: {why}' for name, why in table.failed.items())]
