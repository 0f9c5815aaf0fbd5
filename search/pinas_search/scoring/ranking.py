"""How well scores rank networks: statistics of scores against true accuracies, with their uncertainty.

Bigger is better on both sides, always. Where scores tie, a statistic of a choice (the top k, the best) is its
expectation when ties are broken at random: the order of the rows cannot matter. scipy computes the correlations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..spaces import AdditiveSpace, ChoicePath, Space

__all__ = [
    'FEW',
    'Comparison',
    'best_rank_at',
    'best_true',
    'chosen_true',
    'compare_taus',
    'coverage',
    'is_constant',
    'kendall_tau',
    'kendall_tau_interval',
    'p_value',
    'precision_at',
    'ranking_report',
    'regret',
    'spearman',
    'top_counts',
    'top_tenth_tau',
    'trivial_predictors',
    'weighted_tau',
]

LEVEL = 0.95
"""Coverage of the intervals."""

FEW = 50
"""Networks below which a ranking is rough; a tau of 13 has a standard deviation of about 0.14."""

_SHARES = {'1%': 0.01, '10%': 0.1}
_COUNTS = (1, 5, 10)


@dataclass(frozen=True)
class Comparison:
    """The difference of two taus on the same networks.

    Attributes:
        difference: First minus second tau.
        interval: Its 95 % interval by paired bootstrap.
        n: Networks.
    """

    difference: float
    interval: tuple[float, float]
    n: int

    @property
    def verdict(self) -> str:
        """Whether the first ranks better: ``better``, ``worse`` or ``undecided at n = ...``."""
        low, high = self.interval
        if low > 0:
            return 'better'
        return 'worse' if high < 0 else f'undecided at n = {self.n}'


def is_constant(scores: np.ndarray) -> bool:
    """Whether all scores of a predictor (or of each seed of it) are the same, so that it ranks nothing."""
    scores = np.atleast_2d(scores)
    return bool((scores == scores[:, :1]).all())


def kendall_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b: the share of concordant minus that of discordant pairs, corrected for ties.

    Args:
        scores: Scores [N], or [S, N] of several seeds, whose taus are averaged.
        truth: True accuracies [N].

    Returns:
        Tau in [-1, 1]; 0 where it is not defined, for constant scores or truths.

    Raises:
        ValueError: If the numbers of networks differ, there are fewer than two, or a number is not finite.
    """
    scores, truth = _check(scores, truth)
    return float(np.mean([_tau(row, truth) for row in scores]))


def kendall_tau_interval(
    scores: np.ndarray, truth: np.ndarray, generator: np.random.Generator, samples: int = 1000
) -> tuple[float, float]:
    """A 95 % interval of tau-b: percentiles of a bootstrap over networks and, where there are several, over seeds.

    Args:
        scores: Scores [N] or [S, N].
        truth: True accuracies [N].
        generator: Where the samples come from.
        samples: Bootstrap samples.

    Raises:
        ValueError: As ``kendall_tau``.
    """
    scores, truth = _check(scores, truth)
    return _interval(_bootstrap([scores], truth, generator, samples)[:, 0])


def compare_taus(
    scores: np.ndarray, others: np.ndarray, truth: np.ndarray, generator: np.random.Generator, samples: int = 1000
) -> Comparison:
    """Compare the taus of two predictors by a paired bootstrap: both are judged on the same samples of networks.

    Args:
        scores: Scores [N] or [S, N] of the first.
        others: Scores [N] or [S', N] of the second.
        truth: True accuracies [N].
        generator: Where the samples come from.
        samples: Bootstrap samples.

    Raises:
        ValueError: As ``kendall_tau``.
    """
    scores, truth = _check(scores, truth)
    others, _ = _check(others, truth)
    first, second = _bootstrap([scores, others], truth, generator, samples).T
    difference = kendall_tau(scores, truth) - kendall_tau(others, truth)
    return Comparison(difference, _interval(first - second), len(truth))


def p_value(scores: np.ndarray, truth: np.ndarray, generator: np.random.Generator, samples: int = 1000) -> float:
    """Two-sided permutation test of tau = 0: how often shuffled truths give a tau at least as far from 0.

    The identity counts as one permutation, so the least value is 1 / (samples + 1).

    Args:
        scores: Scores [N] or [S, N].
        truth: True accuracies [N].
        generator: Where the permutations come from.
        samples: Permutations.

    Raises:
        ValueError: As ``kendall_tau``.
    """
    scores, truth = _check(scores, truth)
    order = np.argsort(truth, kind='stable')
    truth_ranks, score_ranks = _ranks(truth[order]), np.stack([_ranks(row) for row in scores[:, order]])

    def tau(ranks: np.ndarray) -> float:
        return abs(float(np.mean([_tau(row, truth_ranks) for row in ranks])))

    observed = tau(score_ranks) * (1 - 1e-12)  # the same tau may be rounded differently
    extreme = sum(tau(generator.permutation(score_ranks, axis=1)) >= observed for _ in range(samples))
    return (1 + extreme) / (1 + samples)


def spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation of scores [N] or [S, N] (averaged); 0 for constant ones."""
    scores, truth = _check(scores, truth)
    return _average(lambda row: stats.spearmanr(row, truth).statistic, scores, truth)


def weighted_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """``scipy.stats.weightedtau`` of scores [N] or [S, N] (averaged): the good networks count more; 0 for constants."""
    scores, truth = _check(scores, truth)
    return _average(lambda row: stats.weightedtau(row, truth).statistic, scores, truth)


def top_counts(n: int) -> dict[str, int]:
    """The k that top-k statistics of n networks are given for: 1, 5, 10, and 1 % and 10 % of n, as far as n goes."""
    counts = {str(k): k for k in _COUNTS if k <= n}
    return counts | {name: max(1, round(share * n)) for name, share in _SHARES.items()}


def precision_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """The share of the k networks with the best scores [N] that are among the k truly best, ties in truth included."""
    (scores,), truth = _check(scores, truth, single=True, k=k)
    hits = truth >= np.sort(truth)[-k]
    sure, tied, places = _top(scores, k)
    return float(hits[sure].sum() + places * hits[tied].mean()) / k


def best_rank_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """The true rank (1 is best, equal truths share the better rank) of the best of the k networks with the best scores.

    Not a whole number only if scores tie at the border of the top k.
    """
    (scores,), truth = _check(scores, truth, single=True, k=k)
    ranks = len(truth) + 1 - stats.rankdata(truth, method='max')
    sure, tied, places = _top(scores, k)
    best = min(ranks[sure], default=np.inf)
    # `places` of the tied belong to the top k, drawn at random: the j-th of them in order is the best one drawn if none
    # before it is drawn and it is.
    candidates = np.sort(ranks[tied])
    expected, none_before = 0.0, 1.0
    for j, rank in enumerate(candidates):
        if rank >= best or none_before == 0:
            break
        drawn = places / (len(candidates) - j)
        expected += none_before * drawn * rank
        none_before *= 1 - drawn
    return float(expected + none_before * best if none_before else expected)


def top_tenth_tau(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Tau-b among the networks whose truth is in the top tenth, ties included; None if they are fewer than two."""
    scores, truth = _check(scores, truth)
    top = truth >= np.sort(truth)[-max(1, round(len(truth) / 10))]
    return kendall_tau(scores[:, top], truth[top]) if top.sum() >= 2 else None


def chosen_true(scores: np.ndarray, truth: np.ndarray) -> float:
    """The true accuracy of the network with the best score [N]; their mean where several have it."""
    (scores,), truth = _check(scores, truth, single=True)
    return float(truth[scores == scores.max()].mean())


def best_true(truth: np.ndarray) -> float:
    """The best true accuracy [N]."""
    return float(np.max(truth))


def regret(scores: np.ndarray, truth: np.ndarray) -> float:
    """How much better than the chosen network the best one is, in the unit of the truth."""
    return best_true(truth) - chosen_true(scores, truth)


def coverage(matched: int, known: int) -> float:
    """The share of the networks with a known truth that have a score."""
    return matched / known if known else 0.0


def trivial_predictors(space: Space, paths: Sequence[ChoicePath]) -> dict[str, np.ndarray]:
    """What needs no training: costs, how often each choice occurs, and how many choices have weights.

    Args:
        space: The space.
        paths: N valid paths.

    Returns:
        Name -> values [N]. What is the same in all networks is left out.
    """
    table = np.array(paths)
    predictors: dict[str, np.ndarray] = dict(space.costs(table))
    if isinstance(space, AdditiveSpace):
        weights = np.asarray(space.cost_table.per_choice['params'])[np.arange(table.shape[1]), table] > 0
        predictors['choices with weights'] = weights.sum(axis=1)
    for choice, named in enumerate(space.describe().choices):
        predictors[f'number of {named.name}'] = (table == choice).sum(axis=1)
    return {name: values for name, values in predictors.items() if not is_constant(values)}


def ranking_report(
    scores: np.ndarray,
    truth: np.ndarray,
    generator: np.random.Generator,
    *,
    samples: int = 1000,
    known: int | None = None,
    trivial: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """All statistics by name, as ``report.json`` has them.

    Args:
        scores: Scores [N], or [S, N] of several seeds: statistics are their means, and the interval is over seeds too.
        truth: True accuracies [N].
        generator: Where the samples of intervals and test come from.
        samples: Bootstrap samples, and permutations.
        known: Networks with a known truth, for the coverage; N if None.
        trivial: Name -> values [N] of predictors that the taus are to be set against.

    Raises:
        ValueError: As ``kendall_tau``.
    """
    rows, truth = _check(scores, truth)
    counts = top_counts(len(truth))

    def mean(statistic: Callable[..., float], *args: int) -> float:
        return float(np.mean([statistic(row, truth, *args) for row in rows]))

    return {
        'n': len(truth),
        'seeds': len(rows),
        'seed_taus': [kendall_tau(row, truth) for row in rows],
        'kendall_tau': kendall_tau(scores, truth),
        'constant': is_constant(scores),
        'kendall_tau_interval': list(kendall_tau_interval(scores, truth, generator, samples)),
        'p_value': p_value(scores, truth, generator, samples),
        'samples': samples,
        'spearman': spearman(scores, truth),
        'weighted_tau': weighted_tau(scores, truth),
        'precision_at': {name: mean(precision_at, k) for name, k in counts.items()},
        'top_tenth_tau': top_tenth_tau(scores, truth),
        'best_rank_at': {name: mean(best_rank_at, k) for name, k in counts.items()},
        'chosen_true': mean(chosen_true),
        'best_true': best_true(truth),
        'regret': mean(regret),
        'coverage': coverage(len(truth), len(truth) if known is None else known),
        'trivial': {name: kendall_tau(values, truth) for name, values in (trivial or {}).items()},
    }


def _check(
    scores: np.ndarray, truth: np.ndarray, *, single: bool = False, k: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as [S, N] and truth as [N]."""
    rows, truth = np.atleast_2d(np.asarray(scores)), np.asarray(truth)
    if truth.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(truth):
        raise ValueError(f'scores of shape {np.shape(scores)} do not fit truths of shape {truth.shape}')
    if single and len(rows) != 1:
        raise ValueError(f'scores of one seed are expected, got {len(rows)} seeds')
    if len(truth) < 2:
        raise ValueError(f'a ranking needs at least two networks, got {len(truth)}')
    if not (np.isfinite(rows).all() and np.isfinite(truth).all()):
        raise ValueError('scores and truths must be finite numbers')
    if k is not None and not 1 <= k <= len(truth):
        raise ValueError(f'k is {k}: it must be 1 to {len(truth)}')
    return rows, truth


def _ranks(values: np.ndarray) -> np.ndarray:
    """Dense ranks: tau depends on the order alone, and scipy sorts short integers faster than floats."""
    ranks = np.unique(values, return_inverse=True)[1]
    return ranks.astype(np.uint16) if len(values) <= 2**16 else ranks


def _tau(scores: np.ndarray, truth: np.ndarray) -> float:
    # Only tau is used: the normal approximation is the cheap p-value, but scipy divides by zero for two networks.
    tau = stats.kendalltau(scores, truth, method='asymptotic' if len(truth) > 2 else 'auto').statistic
    return 0.0 if math.isnan(tau) else float(tau)


def _bootstrap(
    predictors: Sequence[np.ndarray], truth: np.ndarray, generator: np.random.Generator, samples: int
) -> np.ndarray:
    """Taus of predictors [S_p, N] on bootstrap samples of networks, the same for all: [samples, predictors]."""
    if samples < 1:
        raise ValueError(f'samples is {samples}: at least 1 is needed')
    n = len(truth)
    order = np.argsort(truth, kind='stable')  # sorted once: scipy is faster on sorted truths
    ranks = _ranks(truth[order])
    tables = [np.stack([_ranks(row) for row in rows[:, order]]) for rows in predictors]
    taus = np.empty((samples, len(tables)))
    for sample in range(samples):
        counts = np.bincount(generator.integers(n, size=n), minlength=n)
        drawn = np.repeat(ranks, counts)
        for column, table in enumerate(tables):
            rows = generator.integers(len(table), size=len(table)) if len(table) > 1 else (0,)
            taus[sample, column] = np.mean([_tau(np.repeat(table[row], counts), drawn) for row in rows])
    return taus


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _average(statistic: Callable[[np.ndarray], float], scores: np.ndarray, truth: np.ndarray) -> float:
    if is_constant(truth):
        return 0.0
    return float(np.mean([0.0 if is_constant(row) else statistic(row) for row in scores]))


def _top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The networks surely among the best k, those that tie for the rest, and how many of these belong to it."""
    border = np.sort(scores)[-k]
    sure = scores > border
    return sure, scores == border, k - int(sure.sum())
