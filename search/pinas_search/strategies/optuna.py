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
                f'Optuna has no sampler {sampler!r}{nearest(sampler, sampler_names())}. '
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

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Ask the sampler; a new one with a new study each time, so that nothing depends on what was asked before."""
        path: ChoicePath = ()
        notes: dict[str, Any] = {}
        with _quiet():
            study = self._study(history, pending)
            for _ in range(_TRIES):
                study.sampler = self._make_sampler(int(generator.integers(2**32)))
                trial = study.ask(self._distributions)
                path = tuple(
                    choices[trial.params[name]]
                    for name, choices in zip(self._distributions, self.space.allowed, strict=True)
                )
                storage = study._storage
                notes = {
                    'trial': dict(storage.get_trial(trial._trial_id).system_attrs),
                    'study': dict(storage.get_study_system_attrs(study._study_id)),
                }
                if path not in seen and self.limits.allow(self.space, np.array([path]))[0]:
                    return Proposal(path, notes)
                study.tell(trial, state=TrialState.FAIL)
        # What takes the place of a suggestion belongs to its generation.
        near = first_unseen(self.pool.mutants(path, generator), seen)
        return Proposal(near or self.pool.draw(generator, seen), notes)

    def _study(self, history: Sequence[Observation], pending: Sequence[Proposal]) -> optuna.Study:
        """A study in memory with what is known; pending paths are running trials, which samplers may take as bad."""
        study = optuna.create_study(direction='maximize')
        for path, value, notes in history:
            failed = not np.isfinite(value)
            study.add_trial(self._trial(path, notes, TrialState.FAIL if failed else TrialState.COMPLETE, value))
        for proposal in pending:
            study.add_trial(self._trial(proposal.path, proposal.notes, TrialState.RUNNING))
        noted = [seen.notes for seen in history] + [proposal.notes for proposal in pending]
        latest: Mapping[str, Any] = next((notes['study'] for notes in reversed(noted) if 'study' in notes), {})
        for key, value in latest.items():
            study._storage.set_study_system_attr(study._study_id, key, value)
        return study

    def _trial(
        self, path: ChoicePath, notes: Mapping[str, Any], state: TrialState, value: float | None = None
    ) -> optuna.trial.FrozenTrial:
        columns = zip(self._distributions, path, self.space.allowed, strict=True)
        return create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            params={name: choices.index(choice) for name, choice, choices in columns},
            distributions=self._distributions,
            system_attrs=dict(notes.get('trial', {})),
        )

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
