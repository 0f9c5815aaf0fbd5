"""The candidates of a search in an Optuna journal file, so that Optuna's tools can read a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path as FilePath

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from pinas_models.common.files import atomic_path

from .candidate import Candidate
from .spaces import Path, Space

__all__ = ['Journal']


class Journal:
    """Finished candidates, one Optuna trial each; a kill loses at most the one under evaluation."""

    def __init__(self, file: FilePath, space: Space) -> None:
        """Open or create the journal.

        Args:
            file: The journal file.
            space: The space of the candidates.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(file)
        self.space = space
        self.distributions = {
            f'p{position:02d}': optuna.distributions.CategoricalDistribution(tuple(range(m)))
            for position, m in enumerate(space.num_choices)
        }
        # Optuna's default lock is a symbolic link to the path as given. After a kill, a link to a relative path leads
        # nowhere, its age cannot be read and the next start would wait for it for ever; a plain file has an age.
        lock = JournalFileOpenLock(str(file), grace_period=3)
        with _quiet_optuna():
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(file), lock)),
                study_name='search',
                direction='maximize',
                load_if_exists=True,
            )

    def add(self, path: Path, score: float, seconds: float) -> None:
        """Record a finished candidate."""
        cost = self.space.cost(path)
        self.study.add_trial(
            optuna.trial.create_trial(
                value=score,
                params=dict(zip(self.distributions, path, strict=True)),
                distributions=self.distributions,
                user_attrs={'params': cost.params, 'macs': cost.macs, 'seconds': round(seconds, 3)},
            )
        )

    def candidates(self) -> list[Candidate]:
        """All finished candidates in the order of evaluation."""
        trials = self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        return [
            Candidate(
                number=number,
                path=self.space.encode([trial.params[name] for name in self.distributions]),
                score=trial.value,
                **trial.user_attrs,
            )
            for number, trial in enumerate(trials)
        ]

    def export(self, file: FilePath) -> None:
        """Write the candidates as JSON lines, for reading without Optuna."""
        with atomic_path(file) as temporary:
            lines = [json.dumps(asdict(candidate)) + '\n' for candidate in self.candidates()]
            temporary.write_text(''.join(lines), encoding='utf-8')


def _drop_half_line(file: FilePath) -> None:
    """Remove what a kill left of a last line: appended to, it would become an unreadable line in the middle."""
    if not file.exists():
        return
    content = file.read_bytes()
    if content and not content.endswith(b'\n'):
        with file.open('r+b') as stream:
            stream.truncate(content.rfind(b'\n') + 1)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna's line about a new study out of the progress display."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
