"""The candidates of a search: one Optuna study, written by one process, readable with stock Optuna while it runs."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from pinas_models.common.files import write_text

from ..scoring import Score
from ..spaces import ChoicePath, Space
from ..strategies import Observation
from .candidates import Candidate
from .rundir import drop_half_line

__all__ = ['STUDY', 'Trials']

STUDY = 'search'


class Trials:
    """Finished candidates, one trial each; a kill loses at most the one under evaluation.

    ``optuna.load_study(study_name='search', storage=...).best_trial`` is the winner.
    """

    def __init__(self, storage: Path | BaseStorage, space: Space) -> None:
        """Open or create the study.

        Args:
            storage: A journal file, or any storage of Optuna.
            space: The space of the candidates.

        Raises:
            ValueError: If the journal is damaged.
        """
        self.space = space
        self.distributions = {
            f'p{position:02d}': CategoricalDistribution(choices) for position, choices in enumerate(space.allowed)
        }
        with _quiet_optuna():
            self.study = optuna.create_study(
                storage=_journal(storage) if isinstance(storage, Path) else storage,
                study_name=STUDY,
                direction='maximize',
                load_if_exists=True,
            )

    def add(
        self,
        path: ChoicePath,
        score: Score,
        started: datetime,
        finished: datetime,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a finished candidate.

        Args:
            path: The path.
            score: Its score.
            started: When the evaluation began.
            finished: When it ended.
            notes: What the strategy wants to find again in the history.
        """
        costs = {name: values[0].item() for name, values in self.space.costs(np.array([path])).items()}
        attributes = {
            **costs,
            **score.extra,
            'correct': score.correct,
            'seconds': round((finished - started).total_seconds(), 3),
            'notes': dict(notes or {}),
        }
        self._add(path, TrialState.COMPLETE, score.value, attributes, started, finished)

    def fail(self, path: ChoicePath, reason: str, started: datetime, finished: datetime) -> None:
        """Record a path that could not be scored, so that it is not proposed again."""
        self._add(path, TrialState.FAIL, None, {'reason': reason, 'notes': {}}, started, finished)

    def _add(
        self,
        path: ChoicePath,
        state: TrialState,
        value: float | None,
        attributes: dict[str, Any],
        started: datetime,
        finished: datetime,
    ) -> None:
        trial = create_trial(
            state=state,
            value=value,
            params=dict(zip(self.distributions, path, strict=True)),
            distributions=self.distributions,
            user_attrs=attributes,
        )
        trial.datetime_start, trial.datetime_complete = started, finished
        self.study.add_trial(trial)

    def history(self) -> list[Observation]:
        """All candidates in the order of evaluation, those that failed with the value -inf."""
        return [
            Observation(path, trial.value if trial.value is not None else -math.inf, trial.user_attrs['notes'])
            for path, trial in self._ours()
        ]

    def candidates(self) -> list[Candidate]:
        """All scored candidates in the order of evaluation."""
        scored = [(path, trial) for path, trial in self._ours() if trial.state == TrialState.COMPLETE]
        return [self._candidate(number, path, trial) for number, (path, trial) in enumerate(scored)]

    def _candidate(self, number: int, path: ChoicePath, trial: FrozenTrial) -> Candidate:
        values = dict(trial.user_attrs)
        del values['notes']
        named = {name: values.pop(name) for name in ('params', 'macs', 'seconds', 'correct')}
        return Candidate(
            number=number,
            path=self.space.encode(path),
            score=values.pop('accuracy', trial.value),
            value=trial.value,
            cross_entropy=values.pop('cross_entropy', None),
            extra=values,
            **named,
        )

    def _ours(self) -> Iterator[tuple[ChoicePath, FrozenTrial]]:
        """The trials that a search of this space has written; others are left out with a warning."""
        for trial in self.study.get_trials(deepcopy=False):
            try:
                path = self.space.validate([trial.params[name] for name in self.distributions])
                foreign = len(trial.params) != len(self.distributions) or 'notes' not in trial.user_attrs
            except (KeyError, ValueError):
                foreign = True
            if foreign or trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
                warnings.warn(
                    f'trial {trial.number} of the study was not written by this search and is ignored', stacklevel=2
                )
                continue
            yield path, trial

    def export(self, file: Path) -> None:
        """Write the candidates as JSON lines, for reading without Optuna."""
        write_text(file, ''.join(json.dumps(asdict(candidate)) + '\n' for candidate in self.candidates()))


def _journal(file: Path) -> JournalStorage:
    file.parent.mkdir(parents=True, exist_ok=True)
    drop_half_line(file)
    # Optuna's default lock is a symbolic link to the path as given. After a kill, a link to a relative path leads
    # nowhere, its age cannot be read and the next start would wait for it for ever; a plain file has an age.
    lock = JournalFileOpenLock(str(file), grace_period=3)
    try:
        return JournalStorage(JournalFileBackend(str(file), lock))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # as the lines are no records of Optuna's
        raise ValueError(
            f'{file} is damaged ({type(error).__name__}: {error}): delete it to begin the search anew, or cut the file '
            'before the damaged line'
        ) from error


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna's line about a new study out of the progress display."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
