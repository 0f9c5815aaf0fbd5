"""Any sampler of Optuna as a strategy. Optuna is imported with this module and not before."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from pinas_models.common.text import nearest

from ..randomness import derive_seed
from ..spaces import Limits, Path, Space
from .base import Strategy
from .pool import first_unseen

__all__ = ['OptunaStrategy', 'sampler_names']

# Suggestions that are rejected before one of them is mutated instead.
_TRIES = 8
# They sample categories independently and at random, so they get integers, whose order means nothing here.
_NUMERIC = {'CmaEsSampler', 'QMCSampler'}
# Stops a study when it is through, which only works inside ``study.optimize``; RandomStrategy goes through a space
# as well.
_EXCLUDED = {'BruteForceSampler'}


def sampler_names() -> list[str]:
    """Names of Optuna's samplers that need nothing but a seed."""
    samplers = {name: getattr(optuna.samplers, name) for name in optuna.samplers.__all__}
    return [name for name, sampler in samplers.items() if _takes_only_a_seed(sampler) and name not in _EXCLUDED]


class OptunaStrategy(Strategy):
    """One parameter per position, suggested by a sampler around a study in memory.

    Optuna neither avoids repeats nor knows the limits, so both are added: a suggestion that is known or pending ends
    as a failed trial, which samplers ignore; one over a limit as a pruned trial, which those that can (TPE) count as
    bad. After 8 rejections the last suggestion is mutated.
    """

    def __init__(
        self,
        space: Space,
        sampler: str | Callable[[int], optuna.samplers.BaseSampler] = 'TPESampler',
        *,
        seed: int,
        limits: Limits | None = None,
    ) -> None:
        """Start with an empty study.

        Args:
            space: The space.
            sampler: Name of a class of ``optuna.samplers``, or a function from a seed to a sampler.
            seed: Seed of everything random in the strategy.
            limits: Largest allowed cost; no limit if None.

        Raises:
            ValueError: If the sampler is unknown or no path can satisfy the limits.
            ImportError: If the sampler needs a package that is not installed.
        """
        super().__init__(space, seed=seed, limits=limits)
        if isinstance(sampler, str) and sampler not in sampler_names():
            hint = nearest(sampler, sampler_names()) or '.'
            raise ValueError(f'Optuna has no sampler {sampler!r}{hint} Allowed are {", ".join(sampler_names())}')
        self._sampler = sampler
        numeric = sampler in _NUMERIC
        self._distributions = {
            f'position{i:02d}': IntDistribution(0, m - 1) if numeric else CategoricalDistribution(range(m))
            for i, m in enumerate(space.num_choices)
        }
        self._trials: dict[Path, optuna.Trial] = {}
        self._num_trials = 0
        with _quiet():
            self._study = optuna.create_study(direction='maximize', sampler=self._make_sampler())

    def tell(self, path: Sequence[int], score: float) -> None:
        """Report a candidate's score; bigger is better. Paths that were never asked for are welcome.

        Raises:
            ValueError: If the path is not in the space or the score is not a number.
        """
        super().tell(path, score)
        checked, score = self.history[-1]
        trial = self._trials.pop(checked, None)
        with _quiet():
            if trial is None:
                self._study.enqueue_trial(dict(zip(self._distributions, checked, strict=True)))
                trial, _ = self._suggest()
            self._study.tell(trial, score)

    def restore(self, history: Iterable[tuple[Sequence[int], float]]) -> None:
        """Replay a history, because samplers keep notes in the study that the (path, score) pairs do not tell.

        The next ``ask`` is the one an uninterrupted search would have made if that search told each path before it
        asked for the next. Takes as long as all the ``ask`` of that search did.

        Raises:
            ValueError: If a path is not in the space or a score is not a number.
        """
        for path, score in history:
            checked = self.space.validate(path)
            if checked not in self.seen:
                asked = self.ask()
                if asked != checked:  # the history is of another seed, of parallel workers or another version of Optuna
                    self.seen.remove(asked)
                    self._study.tell(self._trials.pop(asked), state=TrialState.FAIL)
            self.tell(checked, score)

    def _propose(self) -> Path:
        generator = self._generator()
        with _quiet():
            for _ in range(_TRIES):
                trial, path = self._suggest()
                allowed = self.limits.allow(self.space, np.array([path]))[0]
                if allowed and path not in self.seen:
                    self._trials[path] = trial
                    return path
                self._study.tell(trial, state=TrialState.FAIL if allowed else TrialState.PRUNED)
            near = first_unseen(self._pool.mutants(path, generator), self.seen)
            path = near or self._pool.draw(generator, self.seen)
            self._study.enqueue_trial(dict(zip(self._distributions, path, strict=True)))
            self._trials[path], _ = self._suggest()
        return path

    def _suggest(self) -> tuple[optuna.Trial, Path]:
        """Start a trial, of the enqueued path if there is one."""
        # A new sampler for each trial: its random state is then a function of the number of trials, not of its past.
        self._study.sampler = self._make_sampler()
        self._num_trials += 1
        trial = self._study.ask(self._distributions)
        return trial, tuple(trial.params[name] for name in self._distributions)

    def _make_sampler(self) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self.seed, 'optuna', self._num_trials) % 2**32
        if isinstance(self._sampler, str):
            return getattr(optuna.samplers, self._sampler)(seed=seed)
        return self._sampler(seed)


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
