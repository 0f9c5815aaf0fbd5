"""Bayesian optimisation in the latent space of arch2vec: the path with the largest expected improvement comes next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, ndtr

from ..config.types import PositiveInt
from ..scoring.arch2vec import Arch2vec, LatentOptions, LatentSpace
from ..spaces import ChoicePath, Limits, Space
from .base import Observation, Proposal, Seen, Strategy
from .pool import first_unseen

__all__ = ['Arch2vecStrategy', 'Options', 'create', 'log_expected_improvement']

_FAR = -1e4  # standard deviations below the target, where 1 - |u| M(|u|) is lost to rounding and 1 / u² is as good


@dataclass(frozen=True)
class Options(LatentOptions):
    """Options of the search; the defaults are the released code.

    Attributes:
        initial: Uniform samples before the first regression.
        selects: Samples between one regression and the next.
        candidates: Random paths of which the best is proposed; of a space with at most so many, all are compared.
        target: What is to be improved upon, in units of the score: 1.0 is a perfect accuracy. None: the best so far.
        fit_epochs: Passes of the regression's network over the samples.
    """

    initial: PositiveInt = 16
    selects: PositiveInt = 1
    candidates: PositiveInt = 16_384
    target: float | None = 1.0
    fit_epochs: PositiveInt = 100


def log_expected_improvement(mean: np.ndarray, std: np.ndarray, target: float) -> np.ndarray:
    """Logarithm of E[max(value - target, 0)] for normal values; it orders paths even where that is 0 in float64.

    Args:
        mean: Means [N].
        std: Standard deviations [N].
        target: What is to be improved upon.

    Returns:
        The logarithms [N]; with u = (mean - target) / std, log(std (φ(u) + u Φ(u))).
    """
    std = np.maximum(std, np.finfo(float).tiny)
    u = (mean - target) / std
    high, low = np.maximum(u, -1.0), np.clip(u, _FAR, -1.0)
    near = np.log(np.exp(-0.5 * high**2) / math.sqrt(2 * math.pi) + high * ndtr(high))
    # φ(u) + u Φ(u) = φ(u) (1 - |u| M(|u|)) with Mills' ratio M.
    rest = np.log1p(-np.abs(low) * math.sqrt(math.pi / 2) * erfcx(-low / math.sqrt(2)))
    rest = np.where(u < _FAR, -2 * np.log(np.maximum(-u, 1.0)), rest)
    far = -0.5 * np.minimum(u, -1.0) ** 2 - 0.5 * math.log(2 * math.pi) + rest
    return np.log(std) + np.where(u > -1.0, near, far)


class Arch2vecStrategy(Strategy):
    """Samples at random, then where the regression on the latent space expects the largest improvement."""

    default_options = Options()
    _fitted: tuple[list[Observation], Arch2vec] | None = None

    def __init__(self, space: Space, limits: Limits | None = None, options: Options | None = None) -> None:
        """Define the latent space; see ``Strategy``.

        Raises:
            ValueError: If no path can satisfy the limits, or the space has no graphs.
        """
        super().__init__(space, limits, options)
        self.latent = LatentSpace(space, self.options)

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Propose the unseen path with the largest expected improvement."""
        predictor = None if len(history) < self.options.initial else self._learn(history)
        if predictor is None or predictor.num_labels < 2:
            return Proposal(self.pool.draw(generator, seen))
        best_so_far = max(observation.value for observation in history)
        target = best_so_far if self.options.target is None else self.options.target
        found: tuple[float, ChoicePath] | None = None
        count = 0
        for batch in self.pool.batches(generator):
            batch = batch[: self.options.candidates - count]
            if len(batch):
                gains = log_expected_improvement(*predictor.predict(batch), target)
                order = np.argsort(-gains, kind='stable')
                path = first_unseen(batch[order], seen)
                if path is not None:
                    gain = float(gains[(batch == path).all(1)][0])
                    found = (gain, path) if found is None or gain > found[0] else found
            count += len(batch)
            if count == self.options.candidates:
                break
        return Proposal(self.pool.draw(generator, seen) if found is None else found[1])

    def _learn(self, history: Sequence[Observation]) -> Arch2vec:
        """The regression on the first ``initial`` + a multiple of ``selects`` samples."""
        initial, selects = self.options.initial, self.options.selects
        samples = list(history[: initial + (len(history) - initial) // selects * selects])
        if self._fitted is None or self._fitted[0] != samples:
            predictor = Arch2vec(self.latent, epochs=self.options.fit_epochs, seed=self.options.seed)
            predictor.observe([sample.path for sample in samples], [sample.value for sample in samples])
            self._fitted = samples, predictor
        return self._fitted[1]


def create(space: Space, options: Options, limits: Limits) -> Arch2vecStrategy:
    """Build the strategy."""
    return Arch2vecStrategy(space, limits, options)
