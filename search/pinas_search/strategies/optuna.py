"""Any sampler of Optuna as a strategy. Optuna is imported with this module and not before."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from pinas_models.common.text import nearest

from ..spaces import ChoicePath, Limits, Space
from .base import Observation, Proposal, Seen, Strategy
from .pool import first_unseen

__all__ = ['Options', 'OptunaStrategy', 'create', 'sampler_names']

# Suggestions that are rejected before one of them is mutated instead.
_TRIES = 8
# They sample categories independently and at random, so they get integers, whose order means nothing here.
_NUMERIC = {'CmaEsSampler', 'QMCSampler'}
# Stops a study when it is through, which only works inside ``study.optimize``; RandomStrategy goes through a space
# as well.
_EXCLUDED = {'BruteForceSampler'}


@dataclass(frozen=True)
class Options:
    """Options of the strategy.

    Attributes:
        sampler: Name of a class of ``optuna.samplers`` that needs nothing but a seed.
    """

    sampler: str = 'TPESampler'


def sampler_names() -> list[str]:
    """Names of Optuna's samplers that need nothing but a seed."""
    samplers = {name: getattr(optuna.samplers, name) for name in optuna.samplers.__all__}
    return [name for name, sampler in samplers.items() if _takes_only_a_seed(sampler) and name not in _EXCLUDED]


class OptunaStrategy(Strategy):
    """One parameter per position, suggested by a sampler that sees the history as a study.

    Optuna neither avoids repeats nor knows the limits, so a suggestion that is known or over a limit is rejected; after
    8 rejections the last one is mutated. What a sampler notes in the attributes of trial and study travels with the
    history, so that generations of genetic samplers and the state of CMA-ES survive.
    """

    def __init__(
        self,
        space: Space,
        limits: Limits | None = None,
        sampler: str | Callable[[int], optuna.samplers.BaseSampler] = 'TPESampler',
    ) -> None:
        """Choose the sampler.

        Args:
            space: The space.
            limits: Largest allowed costs; no limit if None.
            sampler: Name of a class of ``optuna.samplers``, or a function from a seed to a sampler.

        Raises:
            ValueError: If the sampler is unknown or no path can satisfy the limits.
            ImportError: If the sampler needs a package that is not installed.
        """
        super().__init__(space, limits)
        if isinstance(sampler, str) and sampler not in sampler_names():
            raise ValueError(
                f'Optuna has no sampler {sampler!r}{nearest(sampler, sampler_names()) or "."} '
                f'Allowed are {", ".join(sampler_names())}'
            )
        self._sampler = sampler
        self._distributions = {
            f'position{i:02d}': IntDistribution(0, len(choices) - 1)
            if sampler in _NUMERIC
            else CategoricalDistribution(range(len(choices)))
            for i, choices in enumerate(space.allowed)
        }
        with _quiet():
            self._make_sampler(0)
        self._current: optuna.Study | None = None
        self._told: list[Observation] = []
        self._asked: dict[ChoicePath, int] = {}  # number of the trial of each pending path

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Ask a sampler with a seed of this proposal, in a study that holds what is known."""
        with _quiet():
            study = self._study(history, pending)
            for _ in range(_TRIES):
                study.sampler = self._make_sampler(int(generator.integers(2**32)))
                trial = study.ask(self._distributions)
                path = self._path(trial.params)
                if path not in seen and self.limits.allow(self.space, np.array([path]))[0]:
                    break
                study.tell(trial, state=TrialState.FAIL)
            else:
                near = first_unseen(self.pool.mutants(path, generator), seen)
                path = near or self.pool.draw(generator, seen)
                study.enqueue_trial(self._params(path))
                trial = study.ask(self._distributions)
        noted = study._storage.get_trial(trial._trial_id).system_attrs
        attributes = study._storage.get_study_system_attrs(study._study_id)
        self._asked[path] = trial.number
        return Proposal(path, {'number': trial.number, 'trial': dict(noted), 'study': dict(attributes)})

    def _study(self, history: Sequence[Observation], pending: Sequence[Proposal]) -> optuna.Study:
        """The study of the last proposal with what was told since; a new one where that does not fit.

        Both are the same: a new study has its trials in the noted order, and rejected ones leave gaps that are filled.
        """
        known = len(self._told)
        waiting = {proposal.path for proposal in pending}
        new = history[known:]
        if (
            self._current is None
            or any(a is not b for a, b in zip(self._told, history, strict=False))
            or len(history) < known
            or waiting | {seen.path for seen in new} != set(self._asked)
        ):
            self._current = self._rebuild(history, pending)
        else:
            for path, value, _ in new:
                failed = not np.isfinite(value)
                number = self._asked.pop(path)
                self._current.tell(
                    number, None if failed else value, state=TrialState.FAIL if failed else TrialState.COMPLETE
                )
        self._told = list(history)
        return self._current

    def _rebuild(self, history: Sequence[Observation], pending: Sequence[Proposal]) -> optuna.Study:
        study = optuna.create_study(direction='maximize')
        # Paths from elsewhere have no number: they come last.
        rows: list[tuple[float, ChoicePath, Mapping[str, Any], float | None]]
        rows = [(seen.notes.get('number', np.inf), seen.path, seen.notes, seen.value) for seen in history]
        rows += [(asked.notes.get('number', np.inf), asked.path, asked.notes, None) for asked in pending]
        self._asked = {}
        count = 0
        for number, path, notes, value in sorted(rows, key=lambda row: row[0]):
            while np.isfinite(number) and count < number:
                study.add_trial(create_trial(state=TrialState.FAIL))
                count += 1
            state = TrialState.RUNNING if value is None else TrialState.COMPLETE
            if value is not None and not np.isfinite(value):
                state = TrialState.FAIL
            study.add_trial(
                create_trial(
                    state=state,
                    value=value if state == TrialState.COMPLETE else None,
                    params=self._params(path),
                    distributions=self._distributions,
                    system_attrs=dict(notes.get('trial', {})),
                )
            )
            if value is None:
                self._asked[path] = count
            count += 1
        latest = max(rows, key=lambda row: row[0] if np.isfinite(row[0]) else -1, default=None)
        for key, value in (latest[2].get('study', {}) if latest else {}).items():
            study._storage.set_study_system_attr(study._study_id, key, value)
        return study

    def _params(self, path: ChoicePath) -> dict[str, int]:
        columns = zip(self._distributions, path, self.space.allowed, strict=True)
        return {name: choices.index(choice) for name, choice, choices in columns}

    def _path(self, params: Mapping[str, int]) -> ChoicePath:
        columns = zip(self._distributions, self.space.allowed, strict=True)
        return tuple(choices[params[name]] for name, choices in columns)

    def _make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if isinstance(self._sampler, str):
            return getattr(optuna.samplers, self._sampler)(seed=seed)
        return self._sampler(seed)


def create(space: Space, options: Options, limits: Limits) -> OptunaStrategy:
    """Build the strategy."""
    return OptunaStrategy(space, limits, options.sampler)


def _takes_only_a_seed(sampler: object) -> bool:
    if not inspect.isclass(sampler):
        return False
    parameters = inspect.signature(sampler).parameters
    return 'seed' in parameters and all(p.default is not inspect.Parameter.empty for p in parameters.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental classes inside the block."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
