"""Reading a run directory, whatever part of it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml
from safetensors.numpy import load_file

from .. import STAGES
from ..records import Candidate, read_json
from ..scoring.tables import read_table
from ..spaces import Space

__all__ = [
    'Architecture',
    'Network',
    'Ranking',
    'RetrainResult',
    'RunRecord',
    'SearchResult',
    'StageRecord',
    'collect',
]

T = TypeVar('T')
Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SearchResult:
    """What a finished search says.

    Attributes:
        path: The winner as digits.
        score: Its score, 0..1.
        strategy: How candidates were proposed.
        recalibrated: Whether the BN statistics of every candidate were estimated anew; None if not recorded.
        calibration_images: Images of that estimate.
        held_out_images: Images behind each score.
    """

    path: str
    score: float
    strategy: str = ''
    recalibrated: bool | None = None
    calibration_images: int = 0
    held_out_images: int = 0


@dataclass(frozen=True)
class RetrainResult:
    """What the training of a stand-alone network ended with.

    Attributes:
        path: The path as digits.
        accuracy: Top-1 accuracy, 0..1.
        accuracy_on: Which images it was measured on.
        images: How many.
        params: Parameters.
        macs: Multiply-accumulates for one image.
        start: ``scratch`` or ``inherited`` weights.
        epochs: Passes over the training images.
        score: Score in the supernet; None if nothing scored it.
        correct: Which images were right, as ``pinas_search.scoring.pack`` writes it; empty if not recorded.
        seed: Number of the training of this path.
    """

    path: str
    accuracy: float
    accuracy_on: str
    images: int
    params: int
    macs: int
    start: str = ''
    epochs: int = 0
    score: float | None = None
    correct: str = ''
    seed: int = 0


@dataclass(frozen=True)
class Network:
    """A path that was trained as a network of its own.

    Attributes:
        name: ``winner``, ``random-0``, ...
        metrics: Lines of the training.
        result: The end of it; None while it is not finished.
    """

    name: str
    metrics: Metrics
    result: RetrainResult | None


@dataclass(frozen=True)
class Architecture:
    """What the architecture parameters of a method prefer.

    Attributes:
        path: The path of the largest logits, as digits.
        probability: Its probability, the product over the positions.
    """

    path: str
    probability: float


@dataclass(frozen=True)
class Ranking:
    """How the supernet ranks networks of known accuracy.

    Attributes:
        report: The statistics, as ``rank/report.json`` has them.
        scores: Scores [N].
        truth: True accuracies [N], in the unit of their table.
    """

    report: Mapping[str, Any]
    scores: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class StageRecord:
    """How far a stage is.

    Attributes:
        name: Name of the stage.
        state: ``finished``, ``skipped`` (was not needed), ``unfinished`` or ``missing``.
        seconds: Time spent so far; None if unknown.
        done: The record of a finished stage; empty before.
    """

    name: str
    state: Literal['finished', 'skipped', 'unfinished', 'missing']
    seconds: float | None
    done: Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What a run directory holds.

    Attributes:
        name: Name of the directory.
        config_text: The configuration as it was written; empty if there is none.
        config: The same, parsed; empty if it is no YAML mapping.
        stages: All stages in order.
        learn: Metrics of the learning stage.
        architecture: What the method's architecture parameters prefer; None if it has none.
        linear: Metrics of the linear stage.
        candidates: Scored paths in the order of evaluation.
        search: Result of the search; None while it is not finished.
        networks: Retrained networks, the winner first.
        ranking: The ranking against true accuracies; None while it is not finished, or none is asked for.
    """

    name: str
    config_text: str
    config: Mapping[str, Any]
    stages: tuple[StageRecord, ...]
    learn: Metrics
    architecture: Architecture | None
    linear: Metrics
    candidates: tuple[Candidate, ...]
    search: SearchResult | None
    networks: tuple[Network, ...]
    ranking: Ranking | None

    @property
    def ranked(self) -> list[Candidate]:
        """Candidates from the best to the worst, as in the search."""
        return sorted(self.candidates, key=lambda candidate: candidate.order)

    @property
    def random_phase(self) -> int:
        """How many candidates the strategy drew at random before it began to learn; 0 if its options do not say."""
        initial = self.setting('search.options.initial')
        return int(initial) if initial.isdecimal() else 0

    def stage(self, name: str) -> StageRecord:
        """Look up a stage."""
        return next(stage for stage in self.stages if stage.name == name)

    def recorded(self, key: str) -> list[str]:
        """Different values that the finished stages recorded under a key, in order."""
        return list(dict.fromkeys(str(stage.done[key]) for stage in self.stages if key in stage.done))

    @property
    def versions(self) -> dict[str, list[str]]:
        """Versions of what the stages ran with; more than one where stages differ."""
        found: dict[str, list[str]] = {}
        for stage in self.stages:
            for name, version in stage.done.get('versions', {}).items():
                found[name] = list(dict.fromkeys([*found.get(name, []), str(version)]))
        return found

    def setting(self, key: str) -> str:
        """Value of a dotted key of the configuration as text; empty if it is not there."""
        value: Any = self.config
        for part in key.split('.'):
            value = value.get(part) if isinstance(value, Mapping) else None
        return '' if value is None else str(value)


def collect(run_dir: Path, space: Space) -> RunRecord:
    """Read a run directory.

    Args:
        run_dir: The directory.
        space: The space of the run.

    Raises:
        ValueError: If no stage has begun, or a file is damaged or of another space.
    """
    if not any(map(_has_begun, _stage_dirs(run_dir))):
        raise ValueError(
            f'{run_dir} holds nothing to report, no stage has run there: '
            f'begin with pinas-search run --config NAME --out {run_dir}'
        )
    config_file = run_dir / 'config.yaml'
    config_text = config_file.read_text(encoding='utf-8', errors='replace') if config_file.exists() else ''
    learn, linear = (_read_lines(run_dir / stage / 'metrics.jsonl') for stage in ('learn', 'linear'))
    candidates_file = run_dir / 'search' / 'candidates.jsonl'
    candidates = tuple(_build(Candidate, line, candidates_file) for line in _read_lines(candidates_file))
    networks = tuple(_read_networks(run_dir / 'retrain'))
    search = _read_result(SearchResult, run_dir / 'search' / 'result.json')
    paths = [c.path for c in candidates] + [n.result.path for n in networks if n.result]
    for path in paths + ([search.path] if search else []):
        try:
            space.decode(path)
        except ValueError as error:
            raise ValueError(f'{run_dir} holds the path {path}, not one of the space {space.name}: {error}') from error
    so_far = {
        'learn': _last_seconds(learn),
        'linear': _last_seconds(linear),
        'search': sum(c.seconds for c in candidates) or None,
        'truth': _time_of(_read_networks(run_dir / 'truth')),
        'rank': None,
        'retrain': _time_of(networks),
    }
    config = _parse_yaml(config_text)
    return RunRecord(
        name=run_dir.resolve().name,
        config_text=config_text,
        config=config,
        stages=tuple(
            _read_stage(folder, so_far[folder.name])
            for folder in _stage_dirs(run_dir)
            if folder.is_dir() or _is_asked_for(folder.name, config)
        ),
        learn=learn,
        architecture=_read_architecture(run_dir / 'learn' / 'architecture.safetensors', space),
        linear=linear,
        candidates=candidates,
        search=search,
        networks=networks,
        ranking=_read_ranking(run_dir / 'rank'),
    )


def _read_architecture(file: Path, space: Space) -> Architecture | None:
    """Read the artifact ``architecture``: one tensor ``logits``, [L, m]; a method may keep something else there."""
    logits = load_file(file).get('logits') if file.exists() else None
    if logits is None or logits.shape != (space.num_positions, max(space.num_choices)):
        return None
    rows = [row[list(choices)].astype(float) for row, choices in zip(logits, space.allowed, strict=True)]
    path = [choices[int(row.argmax())] for row, choices in zip(rows, space.allowed, strict=True)]
    odds = [np.exp(row - row.max()).sum() for row in rows]
    return Architecture(space.encode(path), float(1 / np.prod(odds)))


def _stage_dirs(run_dir: Path) -> list[Path]:
    return [run_dir / stage for stage in STAGES if stage != 'report']


def _is_asked_for(stage: str, config: Mapping[str, Any]) -> bool:
    truth = config.get('truth') or {}
    return {
        'truth': not truth.get('file') and bool(truth.get('networks')),
        'rank': bool(truth.get('file') or truth.get('networks')),
    }.get(stage, True)


def _time_of(networks: Sequence[Network]) -> float | None:
    return sum(_last_seconds(network.metrics) or 0.0 for network in networks) or None


def _read_ranking(folder: Path) -> Ranking | None:
    report, joined = _read_json(folder / 'report.json'), folder / 'joined.csv'
    if report is None or not joined.exists():
        return None
    table = read_table(joined, 'arch')
    return Ranking(report, table.numbers('score'), table.numbers('truth'))


def _has_begun(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _read_stage(folder: Path, seconds_so_far: float | None) -> StageRecord:
    done = _read_json(folder / 'done.json')
    if done is None:
        return StageRecord(folder.name, 'unfinished' if _has_begun(folder) else 'missing', seconds_so_far, {})
    return StageRecord(folder.name, 'skipped' if done.get('skipped') else 'finished', done.get('seconds'), done)


def _read_networks(folder: Path) -> list[Network]:
    if not folder.is_dir():
        return []
    networks = [
        Network(f.name, _read_lines(f / 'metrics.jsonl'), _read_result(RetrainResult, f / 'result.json'))
        for f in folder.iterdir()
        if f.is_dir()
    ]
    # The winner first, then the other best candidates, then random paths; random-2 before random-10.
    order = ('winner', 'top', 'random')
    kind = {n.name: next((i for i, k in enumerate(order) if n.name.startswith(k)), len(order)) for n in networks}
    return sorted(networks, key=lambda n: (kind[n.name], len(n.name), n.name))


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line that a kill left half written is left out, like a file that is not there.

    Raises:
        ValueError: If a line before the last is damaged.
    """
    if not file.exists():
        return []
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            raise ValueError(f'{file}, line {number} is damaged: {line[:80]!r}; delete the line or run the stage again')
    return records


def _read_json(file: Path) -> dict[str, Any] | None:
    return read_json(file) if file.exists() else None


def _read_result(cls: type[T], file: Path) -> T | None:
    record = _read_json(file)
    return None if record is None else _build(cls, record, file)


def _build(cls: type[T], record: Mapping[str, Any], file: Path) -> T:
    known = {field.name: record[field.name] for field in fields(cls) if field.name in record}  # type: ignore[arg-type]
    try:
        return cls(**known)
    except TypeError as error:
        raise ValueError(f'{file} lacks a value ({error}): run the stage again') from error


def _last_seconds(metrics: Metrics) -> float | None:
    return metrics[-1].get('seconds') if metrics else None


def _parse_yaml(text: str) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:  # the page shows the text anyway
        return {}
    return config if isinstance(config, Mapping) else {}
