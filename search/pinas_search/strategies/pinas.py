"""The greedy search of the Π-NAS authors: a tree of classifiers of which only the best leaf is ever sampled.

Their code calls it a Monte Carlo tree search, but its selection has no exploration term: the branch of the better half
always wins. It differs from ``lanas`` in that, in the raw choices as features, and in how deep the tree is. Left out
are two defects that only waste time: the tuning of the classifier, repeated with the same seeds up to 100 times, and
repeats of a path within the samples of one tree.
"""

from __future__ import annotations

import itertools
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..config.types import PositiveInt
from ..spaces import Limits, Space
from .base import Observation, Proposal, Seen, Strategy
from .lanas import Classifier, check_classifier
from .pool import first_unseen

__all__ = ['GreedyTree', 'Options', 'create']

_BATCHES = 49  # of 4096 paths: about the authors' 200,000 tries


@dataclass(frozen=True)
class Options:
    """Options of the search; the defaults are the authors' code.

    Attributes:
        initial: Uniform samples before the first tree.
        selects: Samples between one tree and the next.
        deeper_at: Numbers of samples above which the tree is a level deeper than one.
        fallback: What happens when no new path lies in the leaf: ``anywhere`` draws from the whole space (code),
            ``mutants`` stays near the best path.
        classifier: Class of the classifier of a node, by its full name; the authors' is
            ``lightgbm.LGBMClassifier``, which is not installed with this package.
    """

    initial: PositiveInt = 80
    selects: PositiveInt = 8
    deeper_at: tuple[PositiveInt, ...] = (400, 800, 1600, 3200)
    fallback: Literal['anywhere', 'mutants'] = 'anywhere'
    classifier: str = 'sklearn.ensemble.GradientBoostingClassifier'

    def __post_init__(self) -> None:
        check_classifier(self.classifier)


class GreedyTree(Strategy):
    """Samples where every classifier of the chain says good; each is learnt on the better half of the one before."""

    default_options = Options()
    _chain: tuple[list[Observation], list[Classifier]] | None = None

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Draw uniformly among the paths that all classifiers call good."""
        if len(history) < self.options.initial:
            return Proposal(self.pool.draw(generator, seen))
        chain = self._learn(history)
        for batch in itertools.islice(self.pool.batches(generator), _BATCHES):
            for classifier in chain:
                if len(batch):
                    batch = batch[classifier.predict(batch).astype(bool)]
            path = first_unseen(batch, seen)
            if path is not None:
                return Proposal(path)
        if self.options.fallback == 'mutants':
            best = max(history, key=lambda observation: observation.value)
            near = first_unseen(self.pool.mutants(best.path, generator), seen)
            if near is not None:
                return Proposal(near)
        return Proposal(self.pool.draw(generator, seen))

    def _learn(self, history: Sequence[Observation]) -> list[Classifier]:
        """The chain of classifiers of the first ``initial`` + a multiple of ``selects`` samples."""
        initial, selects = self.options.initial, self.options.selects
        samples = list(history[: initial + (len(history) - initial) // selects * selects])
        if self._chain is None or self._chain[0] != samples:
            self._chain = samples, self._fit(samples)
        return self._chain[1]

    def _fit(self, samples: list[Observation]) -> list[Classifier]:
        paths, values = np.array([s.path for s in samples]), np.array([s.value for s in samples])
        chain: list[Classifier] = []
        for _ in range(1 + int(np.searchsorted(self.options.deeper_at, len(samples)))):
            good = values >= np.median(values)
            if good.all():
                break
            classifier: Classifier = pkgutil.resolve_name(self.options.classifier)(random_state=0)
            classifier.fit(paths, good)
            chain.append(classifier)
            # The children are split by the true values, as in the authors' code.
            paths, values = paths[good], values[good]
        return chain


def create(space: Space, options: Options, limits: Limits) -> GreedyTree:
    """Build the strategy."""
    return GreedyTree(space, limits, options)
