"""LaNAS: learn which half of the space is good, then which half of that half, and sample where it pays.

Wang et al., "Sample-Efficient Neural Architecture Search by Learning Actions for Monte Carlo Tree Search"
(arXiv:1906.06832), written from the paper. What differs from it is said at ``Options``.
"""

from __future__ import annotations

import itertools
import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy.stats import rankdata

from ..spaces import ChoicePath, Limits, Space
from .base import Observation, Proposal, Seen, Strategy
from .pool import first_unseen

__all__ = ['Classifier', 'LaNAS', 'Node', 'Options', 'Region', 'check_classifier', 'create', 'ucb']


class Classifier(Protocol):
    """What a node needs: scikit-learn's binary classifiers have it. It has to be deterministic."""

    def fit(self, features: np.ndarray, good: np.ndarray) -> Any:
        """Learn from features [N, F] which samples are good, bool [N]."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Say for features [N, F] which samples are good, bool [N]."""


@dataclass(frozen=True)
class Options:
    """Options of ``LaNAS``.

    The paper splits a fixed number of times at the mean score, by linear regression. Here a node splits at the
    median and by classification, as in the authors' search of Π-NAS, for as long as both halves keep ``min_leaf``
    samples.

    Attributes:
        cp: Weight of exploration (LaNAS paper, UCB equation). Scores are replaced by their ranks in [0, 1], of which
            the paper's rule of thumb takes a tenth.
        initial: Uniform samples before the first tree; 80 in the Π-NAS authors' code.
        selects: Samples between one tree and the next; 8 in the Π-NAS authors' code.
        min_leaf: Fewest samples of a node. The first split therefore needs twice as many.
        batches: Batches of 4096 random paths that are searched for one in the leaf before its best path is mutated.
        classifier: Class of the classifier of a node, by its full name; it sees paths one-hot encoded.

    Raises:
        ValueError: If a number is too small.
    """

    cp: float = 0.1
    initial: int = 80
    selects: int = 8
    min_leaf: int = 20
    batches: int = 8
    classifier: str = 'sklearn.linear_model.LogisticRegression'

    def __post_init__(self) -> None:
        for name, least in (('cp', 0), ('initial', 1), ('selects', 1), ('min_leaf', 1), ('batches', 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f'{name} of LaNAS is {getattr(self, name)}, must be at least {least}')
        check_classifier(self.classifier)


def check_classifier(name: str) -> None:
    """Make sure that a classifier can be imported.

    Raises:
        ValueError: If it cannot.
    """
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f'search.options.classifier is {name!r}, which cannot be imported') from error


def ucb(mean: float, visits: int, parent_visits: int, cp: float) -> float:
    """Upper confidence bound of a node (LaNAS paper, section on the search phase).

    Args:
        mean: Mean score of the node's samples.
        visits: Number of the node's samples n.
        parent_visits: Number of its parent's samples.
        cp: Weight of exploration.

    Returns:
        mean + 2 cp sqrt(2 ln(parent_visits) / visits); infinite for a node without samples.
    """
    return mean + 2 * cp * math.sqrt(2 * math.log(parent_visits) / visits) if visits else math.inf


class Node:
    """A node of the tree: the samples that the classifiers above it send here."""

    def __init__(self, features: np.ndarray, scores: np.ndarray, options: Options) -> None:
        """Hold samples.

        Args:
            features: One-hot encoded paths [N, F].
            scores: Their scores [N].
            options: The options of the search.
        """
        self.features = features
        self.scores = scores
        self.options = options

    @cached_property
    def split(self) -> tuple[Classifier, dict[bool, Node]] | None:
        """A classifier and the children it sends samples to, True the good one; None for a leaf.

        Learnt on first use: the search visits few nodes of each tree.
        """
        least = self.options.min_leaf
        if len(self.scores) < 2 * least:
            return None
        good = self.scores >= np.median(self.scores)
        if good.all():  # at least half of the scores tie at the lowest
            good = self.scores > self.scores.min()
        if not good.any():
            return None
        classifier: Classifier = pkgutil.resolve_name(self.options.classifier)()
        classifier.fit(self.features, good)
        # Children hold what the classifier says, not what the scores say: new paths can only be sent by the classifier.
        good = classifier.predict(self.features).astype(bool)
        if min(good.sum(), (~good).sum()) < least:
            return None
        return classifier, {
            side: Node(self.features[good == side], self.scores[good == side], self.options) for side in (True, False)
        }


class Region:
    """The part of the space that belongs to a node: an answer for each classifier above it, and all must be given."""

    def __init__(self) -> None:
        self.conditions: list[tuple[Classifier, bool]] = []

    def contains(self, features: np.ndarray) -> np.ndarray:
        """Say which of the encoded paths [N, F] lie in the region, bool [N]; one call per classifier."""
        inside = np.arange(len(features))
        for classifier, side in self.conditions:
            if len(inside):
                inside = inside[classifier.predict(features[inside]).astype(bool) == side]
        return np.isin(np.arange(len(features)), inside)


class LaNAS(Strategy):
    """Monte Carlo tree search over learnt halves of the space.

    The tree is learnt anew every ``selects`` samples from the history. Each proposal descends from the root to the
    child with the larger ``ucb``, then draws uniformly from the leaf it arrives at. Pending paths count as visits,
    without a score, so that parallel workers spread out.
    """

    default_options = Options()
    _tree: tuple[list[Observation], Node] | None = None

    def propose(
        self, history: Sequence[Observation], pending: Sequence[Proposal], seen: Seen, generator: np.random.Generator
    ) -> Proposal:
        """Draw from the leaf that ``select`` descends to; uniformly from the space before there is a tree."""
        if len(history) < self.options.initial:
            return Proposal(self.pool.draw(generator, seen))
        region = self.select(history, [proposal.path for proposal in pending])
        for batch in itertools.islice(self.pool.batches(generator), self.options.batches):
            path = first_unseen(batch[region.contains(self._encode(batch))], seen)
            if path is not None:
                return Proposal(path)
        # The leaf is small or used up: stay near the best that is known of it.
        paths, scores = _samples(history)
        best = np.where(region.contains(self._encode(paths)), scores, -np.inf).argmax()
        mutants = self.pool.mutants(paths[best], generator)
        path = first_unseen(mutants[region.contains(self._encode(mutants))], seen)
        return Proposal(path or self.pool.draw(generator, seen))

    def select(self, history: Sequence[Observation], pending: Sequence[ChoicePath] = ()) -> Region:
        """Descend from the root by ``ucb`` and return the region of the leaf."""
        paths, scores = _samples(history)
        features = self._encode([*paths, *sorted(pending)])
        values = np.append(_ranks(scores), np.full(len(pending), np.nan))
        node, region = self._learn(history), Region()
        while node.split is not None:
            classifier, children = node.split
            good = classifier.predict(features).astype(bool)
            bounds = {
                side: ucb(np.nanmean(values[good == side]), int((good == side).sum()), len(good), self.options.cp)
                for side in children
            }
            best = max(bounds, key=bounds.__getitem__)
            region.conditions.append((classifier, best))
            features, values, node = features[good == best], values[good == best], children[best]
        return region

    def _learn(self, history: Sequence[Observation]) -> Node:
        """The root of the tree; learnt from the first ``initial`` + a multiple of ``selects`` samples."""
        initial, selects = self.options.initial, self.options.selects
        samples = list(history[: initial + (len(history) - initial) // selects * selects])
        if self._tree is None or self._tree[0] != samples:
            paths, scores = _samples(samples)
            self._tree = samples, Node(self._encode(paths), _ranks(scores), self.options)
        return self._tree[1]

    def _encode(self, paths: Sequence[ChoicePath] | np.ndarray) -> np.ndarray:
        """One-hot features [N, sum of num_choices] of paths [N, L]."""
        offsets = np.cumsum([0, *self.space.num_choices[:-1]])
        columns = np.asarray(paths, dtype=np.int64).reshape(-1, self.space.num_positions) + offsets
        features = np.zeros((len(columns), sum(self.space.num_choices)))
        features[np.arange(len(columns))[:, None], columns] = 1
        return features


def create(space: Space, options: Options, limits: Limits) -> LaNAS:
    """Build the strategy."""
    return LaNAS(space, limits, options)


def _samples(history: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Paths [N, L] and scores [N] of a history."""
    return np.array([seen.path for seen in history]), np.array([seen.value for seen in history])


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks of scores [N] from 0 for the lowest to 1 for the highest; ties share the mean of their ranks."""
    return (rankdata(scores) - 1) / max(len(scores) - 1, 1)
