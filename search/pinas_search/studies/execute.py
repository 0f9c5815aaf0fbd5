"""Running a study: what is missing is filled in, several runs at a time; a run that fails stops no other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pinas_models.common.text import one_line

from ..config import Config, check_run_dir
from ..records import own
from ..stages import Run, run_stages
from ..stages.checks import check_run
from ..stages.truth import TABLE
from ..stages.workers import WAIT, Task, side_by_side
from .spec import Study, StudyRun

__all__ = ['Done', 'run_study']

Place = tuple[StudyRun, int, Config, Path]
"""A run, one of its seeds, its configuration with that and its run directory."""


@dataclass(frozen=True)
class Done:
    """What a study has come to.

    Attributes:
        study: The study; its runs name the table of accuracies that was made for it.
        folders: The finished run directories: name of the run -> seed -> folder.
        failed: Name of a run directory -> why it failed, a line.
    """

    study: Study
    folders: Mapping[str, Mapping[int, Path]]
    failed: Mapping[str, str]


def run_study(study: Study, out: Path, workers: int = 1) -> Done:
    """Run what is missing of a study in ``out/<run>-<seed>``, which are ordinary run directories.

    If networks are trained as the truth, this happens once, in the run directory ``out/truth``, for all runs.

    Args:
        study: The study.
        out: The folder, which the caller owns.
        workers: Runs at a time, in processes of their own; 1: one after the other in this process.

    Raises:
        ValueError: If the truth cannot be made.
        Interrupted: At SIGTERM or Ctrl-C; runs under way save their state, and the same call goes on.
    """
    places = _places(study, out)
    failed = _check([place for place in places if not _finished(place[-1], study)])
    if places and len(failed) == len(places) and len(set(failed.values())) == 1:
        raise ValueError(next(iter(failed.values())))  # a mistake that all have, such as a folder without images
    for name, line in failed.items():
        _tell(name, line)

    def fail(name: str, error: Exception) -> None:
        failed[name] = _line(error)
        _tell(name, failed[name])

    if study.baseline.config.truth.trained_here:
        study = study.judged_by(_make_truth(study, out, workers))
        places = _places(study, out)
    tasks: list[Task] = []
    for _, _, config, folder in places:
        if folder.name in failed:
            continue
        if not _finished(folder, study):
            tasks.append(Task(folder.name, folder, partial(_perform, config, folder, study.stages)))
            continue
        try:
            check_run_dir(config, folder)
        except ValueError as error:
            fail(folder.name, error)
    if workers > 1 and len(tasks) > 1:
        side_by_side(
            tasks, workers, 'study', total=len(places), unit='run', failed=lambda task, error: fail(task.name, error)
        )
    else:
        for task in tasks:
            print(f'study: {task.name}', flush=True)
            try:
                with own(task.folder, timeout=WAIT):
                    task.call()
            except Exception as error:
                fail(task.name, error)
    folders: dict[str, dict[int, Path]] = {run.name: {} for run in study.runs}
    for run, seed, _, folder in places:
        if folder.name not in failed and _finished(folder, study):
            folders[run.name][seed] = folder
    return Done(study, folders, failed)


def _places(study: Study, out: Path) -> list[Place]:
    return [(run, seed, config, run.folder(out, seed)) for run in study.runs for seed, config in run.configs.items()]


def _check(places: Sequence[Place]) -> dict[str, str]:
    """Find what is wrong with runs before hours of work, as ``pinas-search check`` does: name -> why, a line."""
    failed: dict[str, str] = {}
    images: Run | None = None
    # By seed: one set of images in memory at a time, read once for all runs that have the same.
    for _, _, config, folder in sorted(places, key=lambda place: place[1]):
        try:
            run = Run(config, folder)
            if images is not None and _same_images(images.config, config):
                run.share_images(images)
            check_run(run)
            images = run
        except Exception as error:  # a method of somebody may raise anything
            failed[folder.name] = _line(error)
    return failed


def _line(error: Exception) -> str:
    expected = isinstance(error, (ValueError, OSError))
    return one_line(error) if expected else f'{type(error).__name__}: {one_line(error)}'


def _tell(name: str, line: str) -> None:
    print(f'study: {name} failed: {line}', file=sys.stderr, flush=True)


def _same_images(config: Config, other: Config) -> bool:
    return (config.data, config.seed, config.device) == (other.data, other.seed, other.device)


def _finished(folder: Path, study: Study) -> bool:
    """Whether nothing is left to do; the page of a run leaves no mark, it is written in no time."""
    stages = [stage for stage in study.stages if stage not in ('truth', 'report')]
    return all((folder / stage / 'done.json').exists() for stage in stages)


def _perform(config: Config, folder: Path, stages: tuple[str, ...]) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = Run(config, folder)
    check_run_dir(config, folder)
    run.note_classes()
    run_stages(run, [stage for stage in run.stages if stage in stages])


def _make_truth(study: Study, out: Path, workers: int) -> Path:
    """Train the networks that all runs are judged by, with the settings and the first seed of the baseline."""
    run = Run(study.baseline.config, out / 'truth', workers=workers)
    table = run.path / 'truth' / TABLE
    if not (run.path / 'truth' / 'done.json').exists():
        check_run(run)
    with own(run.path, timeout=WAIT):
        check_run_dir(run.config, run.path)
        run.note_classes()
        run_stages(run, ('truth',))
    return table
