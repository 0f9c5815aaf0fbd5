"""The numbers and warnings of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ..records import Candidate
from ..scoring import unpack
from ..scoring.comparison import Paired, Place, compare, place_among
from ..scoring.ranking import is_constant, kendall_tau, kendall_tau_interval, p_value
from ..spaces import Cost, Space
from .collect import Network, RetrainResult, RunRecord

__all__ = ['Agreement', 'Comparison', 'Summary', 'Tau', 'standard_error', 'summarize']

_LEAST_NETWORKS = 5  # fewer say nothing about a ranking
_SAMPLES = 2000


def standard_error(accuracy: float, images: int) -> float:
    """Binomial standard error of an accuracy (0..1) that was measured on ``images`` images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


@dataclass(frozen=True)
class Comparison:
    """The retrained winner against random paths that were trained in the same way.

    Attributes:
        random_mean: Mean accuracy of the random paths, 0..1.
        place: The place of the winner among itself and the random paths.
        paired: Name of a random path -> winner against it on the same images; empty if the images are not recorded.
    """

    random_mean: float
    place: Place
    paired: dict[str, Paired]


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b.

    Attributes:
        value: The coefficient; 0 for a constant predictor.
        low: Lower end of its 95 % interval, by bootstrap over the networks.
        high: Upper end.
        constant: Whether one of the two is constant.
    """

    value: float
    low: float
    high: float
    constant: bool


@dataclass(frozen=True)
class Agreement:
    """What is known before the retraining against the accuracy after it.

    Attributes:
        n: Networks.
        score: Tau of the supernet score.
        params: Tau of the number of parameters, a predictor that needs no search.
        macs: Tau of the multiply-accumulates, another one.
        chance: Share of the permutations that give a tau of the score at least as far from 0.
    """

    n: int
    score: Tau
    params: Tau
    macs: Tau
    chance: float


@dataclass(frozen=True)
class Summary:
    """What the page says first.

    Attributes:
        path: The winner as digits; None if no candidate is known.
        score: Its score, 0..1; None if the search has not scored it.
        score_error: Binomial standard error of the score; None if the number of images is unknown.
        cost: Cost of the winner.
        against_best: Path of a candidate -> the best candidate against it on the same images.
        tied: Candidates that these images do not tell from the best: p above .05 in the paired test.
        retrained: The winner trained as a network of its own.
        others: The other retrained networks that are finished.
        comparison: The winner against the random ones.
        agreement: Scores against accuracies; only with at least five networks that have both.
        warnings: What a reader must know before believing a number.
    """

    path: str | None
    score: float | None
    score_error: float | None
    cost: Cost | None
    against_best: dict[str, Paired]
    tied: int
    retrained: RetrainResult | None
    others: tuple[Network, ...]
    comparison: Comparison | None
    agreement: Agreement | None
    warnings: tuple[str, ...]


def summarize(record: RunRecord, space: Space) -> Summary:
    """Work out what the page says first."""
    search, results = record.search, {n.name: n.result for n in record.networks if n.result}
    retrained = results.get('winner')
    best = search or next(iter(record.ranked), None)
    score = best.score if best else None
    path = best.path if best else retrained.path if retrained else None
    warnings = _warnings(record, path, retrained)
    if retrained is not None and retrained.path != path:
        retrained = None
    others = tuple(n for n in record.networks if n.name != 'winner' and n.result)
    images = search.held_out_images if search else 0
    against_best = _against_best(record.ranked)
    return Summary(
        path=path,
        score=score,
        score_error=standard_error(score, images) if score is not None and images else None,
        cost=space.cost(space.decode(path)) if path else None,
        against_best=against_best,
        tied=sum(paired.p_value > 0.05 for paired in against_best.values()),
        retrained=retrained,
        others=others,
        comparison=_compare(retrained, results),
        agreement=_agreement(record, list(results.values())),
        warnings=tuple(warnings),
    )


def _against_best(ranked: Sequence[Candidate]) -> dict[str, Paired]:
    if not ranked or not ranked[0].correct:
        return {}
    best = unpack(ranked[0].correct)
    return {c.path: compare(best, unpack(c.correct)) for c in ranked[1:] if c.correct}


def _warnings(record: RunRecord, path: str | None, retrained: RetrainResult | None) -> list[str]:
    search, warnings = record.search, []
    if search is not None and search.recalibrated is False:
        warnings.append(
            'The scores were measured without recalibrating batch norm for each candidate. They mix the statistics of '
            'all paths and rank candidates hardly better than chance; do not choose a network by them.'
        )
    if search is None and record.candidates:
        warnings.append('The search has not finished: the winner shown here is the best candidate so far.')
    if retrained is not None and retrained.path != path:
        warnings.append(
            f'The retrained network called winner has the path {retrained.path}, which is not the winner of this '
            'search: delete its folder and run the retraining again.'
        )
    if any(n.result.accuracy_on == 'held_out' for n in record.networks if n.result):
        warnings.append(
            'There are no test images, so retrained accuracies are measured on the held-out images. The search chose '
            'the winner by the same images, which flatters it.'
        )
    return warnings


def _compare(winner: RetrainResult | None, results: dict[str, RetrainResult]) -> Comparison | None:
    random = {name: result for name, result in results.items() if name.startswith('random')}
    if winner is None or not random:
        return None
    accuracies = _by_path([winner, *random.values()])
    own = accuracies.pop(winner.path)
    if not accuracies:  # the random paths are the winner's
        return None
    paired = {
        name: compare(unpack(winner.correct), unpack(result.correct))
        for name, result in random.items()
        if winner.correct and result.correct
    }
    values = list(accuracies.values())
    return Comparison(random_mean=fmean(values), place=place_among(own, values), paired=paired)


def _by_path(results: Sequence[RetrainResult]) -> dict[str, float]:
    """Path -> accuracy, the mean over its trainings: a path that was trained twice must not count as two networks."""
    paths = dict.fromkeys(result.path for result in results)
    return {path: fmean(r.accuracy for r in results if r.path == path) for path in paths}


def _agreement(record: RunRecord, results: list[RetrainResult]) -> Agreement | None:
    scores = {candidate.path: candidate.score for candidate in record.candidates}
    scores |= {result.path: result.score for result in results if result.score is not None}
    accuracies = {path: value for path, value in _by_path(results).items() if path in scores}
    if len(accuracies) < _LEAST_NETWORKS:
        return None
    by_path = {result.path: result for result in results}
    predictions = {
        'score': [scores[path] for path in accuracies],
        'params': [by_path[path].params for path in accuracies],
        'macs': [by_path[path].macs for path in accuracies],
    }
    truth, generator = np.array(list(accuracies.values())), np.random.default_rng(0)
    return Agreement(
        n=len(truth),
        chance=p_value(np.array(predictions['score']), truth, generator, _SAMPLES),
        **{name: _tau(np.array(values, dtype=float), truth, generator) for name, values in predictions.items()},
    )


def _tau(prediction: np.ndarray, truth: np.ndarray, generator: np.random.Generator) -> Tau:
    low, high = kendall_tau_interval(prediction, truth, generator, _SAMPLES)
    constant = is_constant(prediction) or is_constant(truth)
    return Tau(kendall_tau(prediction, truth), low, high, constant)
