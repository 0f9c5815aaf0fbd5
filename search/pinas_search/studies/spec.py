"""What a study is: a YAML file with a base configuration, named runs that differ in settings, and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pinas_models.common.configs import find_file, packaged_configs
from pinas_models.common.text import nearest

from .. import STAGES
from ..config import Config, Settings, differences, parse_config, parse_options, read_yaml
from ..config.types import NonNegativeFloat, NonNegativeInt

__all__ = ['Passes', 'Study', 'StudyRun', 'builtin_studies', 'read_study']

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')


@dataclass(frozen=True)
class Passes:
    """Network passes of one batch per step of learning, on average over the steps.

    Attributes:
        forward: Forward passes, the teacher's included.
        backward: Backward passes.
    """

    forward: NonNegativeFloat
    backward: NonNegativeFloat


@dataclass(frozen=True)
class RunFields:
    """A run in the file.

    Attributes:
        settings: What it has other than the base.
        seeds: Its seeds, if they are not those of the study.
        passes: Network passes per step of learning; without them the images are counted.
        paper: Tau that the paper has for it.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[NonNegativeInt, ...] | None = None
    passes: Passes | None = None
    paper: float | None = None


@dataclass(frozen=True)
class StudyFields:
    """The file.

    Attributes:
        config: The base configuration: a built-in name, or a file (beside this one, or in the working directory).
        baseline: The run that the others are compared with.
        runs: The runs, by name.
        title: What the study asks, in a sentence.
        settings: What all runs have other than ``config``.
        seeds: Seeds of the runs.
        stages: Stages of each run; those that a ranking needs not are left out by default.
        paper: Where the values of the paper stand, and on how many networks they are.
    """

    config: str
    baseline: str
    runs: dict[str, Any]
    title: str = ''
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[NonNegativeInt, ...] = (0,)
    stages: tuple[str, ...] = ('learn', 'linear', 'rank', 'report')
    paper: str = ''


@dataclass(frozen=True)
class StudyRun:
    """A run of a study.

    Attributes:
        name: Its name.
        configs: Seed -> configuration.
        passes: Network passes per step of learning, if the study states them.
        paper: Tau of the paper, if it has one.
    """

    name: str
    configs: Mapping[int, Config]
    passes: Passes | None
    paper: float | None

    @property
    def config(self) -> Config:
        """The configuration with the first seed."""
        return next(iter(self.configs.values()))

    def folder(self, out: Path, seed: int) -> Path:
        """The run directory of a seed."""
        return out / f'{self.name}-{seed}'


@dataclass(frozen=True)
class Study:
    """Runs that are compared.

    Attributes:
        name: Name of the file.
        title: What the study asks.
        runs: The runs, the order of the file.
        baseline: Which of them the others are compared with.
        stages: Stages of each run.
        paper: Where the values of the paper stand.
    """

    name: str
    title: str
    runs: tuple[StudyRun, ...]
    baseline: StudyRun
    stages: tuple[str, ...]
    paper: str

    def judged_by(self, table: Path) -> Study:
        """The same study, whose runs are judged by a table of accuracies that was made for it."""

        def judged(config: Config) -> Config:
            truth, epochs = config.truth, config.retrain.epochs
            truth = replace(truth, file=str(table), column='accuracy', key='arch', fidelity=epochs, networks=None)
            return replace(config, truth=truth)

        runs = tuple(replace(r, configs={s: judged(c) for s, c in r.configs.items()}) for r in self.runs)
        return replace(self, runs=runs, baseline=next(run for run in runs if run.name == self.baseline.name))


def builtin_studies() -> dict[str, Path]:
    """Name -> file of the studies that come with the package."""
    return packaged_configs('pinas_search', 'studies/*.yaml')


def read_study(source: str, overrides: Sequence[str] = ()) -> Study:
    """Read a study and check all that can be known without images.

    Args:
        source: A file, or the name of a study that comes with the package.
        overrides: ``key=value`` for all runs.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: For an unknown key or setting, a wrong value, or runs that cannot be compared; says where.
    """
    path = find_file(source, builtin_studies())
    content = read_yaml(path)
    missing = [key for key in ('config', 'baseline', 'runs') if key not in content]
    if missing:
        raise ValueError(f'{path} has no {" and no ".join(missing)}')
    fields = _fields(StudyFields, content, 'study', str(path))
    if any(override.partition('=')[0] == 'seed' for override in overrides):
        raise ValueError('seed=... sets one seed for all runs: the seeds stand in the study')
    beside = path.parent / fields.config
    base = str(beside) if beside.is_file() else fields.config
    parse_config([base], overrides)  # so that a mistake in them is not laid at the door of a run
    common = Settings(str(path), fields.settings)
    runs = []
    for name, about in fields.runs.items():
        runs.append(_run(name, about, fields, [base, common], overrides, path))
    by_name = {run.name: run for run in runs}
    if fields.baseline not in by_name:
        raise ValueError(
            f'{path}: the baseline is {fields.baseline}{nearest(fields.baseline, by_name, 0.5)}; '
            f'the runs are {", ".join(by_name) or "none"}'
        )
    for stage in fields.stages:
        if stage not in STAGES:
            raise ValueError(f'{path}: there is no stage {stage}{nearest(stage, STAGES)}; {", ".join(STAGES)} are')
    if 'rank' not in fields.stages:
        raise ValueError(f'{path}: a study compares rankings, its stages must have rank')
    study = Study(path.stem, fields.title, tuple(runs), by_name[fields.baseline], fields.stages, fields.paper)
    _check_comparable(study, path)
    return study


def _fields(cls: type, content: Any, what: str, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f'{where} must hold keys and values, not {content!r}')
    try:
        return parse_options(cls, {str(key): value for key, value in content.items()}, what)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error


def _run(
    name: Any, about: Any, fields: StudyFields, base: list[str | Settings], overrides: Sequence[str], path: Path
) -> StudyRun:
    where = f'{path}, run {name}'
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f'{where}: a name has letters, digits and _ . - in it, it becomes a folder')
    given = _fields(RunFields, {} if about is None else about, 'run', where)
    seeds = fields.seeds if given.seeds is None else given.seeds
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f'{where}: seeds are {list(seeds)}, at least one is needed and each once')
    if 'seed' in {**fields.settings, **given.settings}:
        raise ValueError(f'{where}: seed is no setting of a run; list its seeds under seeds')
    try:
        config = parse_config([*base, Settings(where, given.settings)], overrides)
    except ValueError as error:
        raise ValueError(str(error) if where in str(error) else f'{where}: {error}') from error
    return StudyRun(name, {seed: replace(config, seed=seed) for seed in seeds}, given.passes, given.paper)


def _check_comparable(study: Study, path: Path) -> None:
    """Refuse runs without a truth, with different ones, and runs that are the same."""
    first = study.runs[0]
    truth = first.config.truth
    if not truth:
        raise ValueError(f'{path}: there is no truth to compare with: set truth.file, a table, or truth.networks')
    if truth.file is not None and truth.networks is not None and len({s for r in study.runs for s in r.configs}) > 1:
        raise ValueError(
            f'{path}: truth.networks draws other networks of {truth.file} for each seed: name a set with truth.only'
        )
    # A table that is made here also depends on how and on what its networks are trained.
    kinds = ('truth', 'space', 'data', 'retrain') if truth.trained_here else ('truth',)
    for number, run in enumerate(study.runs):
        differing = differences(run.config, first.config)
        of_truth = [key for key in differing if key.partition('.')[0].removesuffix('_options') in kinds]
        if of_truth:
            raise ValueError(
                f'{path}: all runs must be judged by the same truth, but {run.name} differs from {first.name} in '
                f'{", ".join(of_truth)}'
            )
        for other in study.runs[:number]:
            if not differences(replace(run.config, seed=0), replace(other.config, seed=0)):
                raise ValueError(f'{path}: the runs {other.name} and {run.name} have the same settings')
