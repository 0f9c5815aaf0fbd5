"""The numbers and warnings of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import kendalltau

from ..spaces import Cost, Space
from .collect import Network, RetrainResult, RunRecord

__all__ = ['Agreement', 'Comparison', 'Summary', 'chance_deviation', 'standard_error', 'summarize']


def standard_error(accuracy: float, images: int) -> float:
    """Binomial standard error of an accuracy (0..1) that was measured on ``images`` images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def chance_deviation(n: int) -> float:
    """Standard deviation of Kendall's tau between two unrelated rankings of ``n`` items without ties."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


@dataclass(frozen=True)
class Comparison:
    """The retrained winner against random paths that were trained in the same way.

    Attributes:
        random_mean: Mean accuracy of the random paths, 0..1.
        difference: Winner minus that mean.
        error: Standard error of the difference that comes from the number of images alone.
        better_than: Random paths that the winner beats.
        count: Random paths.
    """

    random_mean: float
    difference: float
    error: float
    better_than: int
    count: int


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between what is known before the retraining and the accuracy after it; NaN if one is constant.

    Attributes:
        n: Networks.
        score: Tau of the supernet score.
        params: Tau of the number of parameters, a predictor that needs no search.
        macs: Tau of the multiply-accumulates, another one.
        deviation: Standard deviation of tau by chance.
    """

    n: int
    score: float
    params: float
    macs: float
    deviation: float


@dataclass(frozen=True)
class Summary:
    """What the page says first.

    Attributes:
        path: The winner as digits; None if no candidate is known.
        score: Its score, 0..1; None if the search has not scored it.
        score_error: Binomial standard error of the score; None if the number of images is unknown.
        cost: Cost of the winner.
        retrained: The winner trained as a network of its own.
        others: The other retrained networks that are finished.
        comparison: The winner against the others.
        agreement: Scores against accuracies; only with at least three networks that have both.
        warnings: What a reader must know before believing a number.
    """

    path: str | None
    score: float | None
    score_error: float | None
    cost: Cost | None
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
    return Summary(
        path=path,
        score=score,
        score_error=standard_error(score, images) if score is not None and images else None,
        cost=space.cost(space.decode(path)) if path else None,
        retrained=retrained,
        others=others,
        comparison=_compare(retrained, [n.result for n in others if n.result]),
        agreement=_agreement(record, list(results.values())),
        warnings=tuple(warnings),
    )


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


def _compare(winner: RetrainResult | None, others: list[RetrainResult]) -> Comparison | None:
    if winner is None or not others:
        return None
    mean = fmean(other.accuracy for other in others)
    variance = standard_error(winner.accuracy, winner.images) ** 2
    variance += sum(standard_error(o.accuracy, o.images) ** 2 for o in others) / len(others) ** 2
    return Comparison(
        random_mean=mean,
        difference=winner.accuracy - mean,
        error=math.sqrt(variance),
        better_than=sum(winner.accuracy > other.accuracy for other in others),
        count=len(others),
    )


def _agreement(record: RunRecord, results: list[RetrainResult]) -> Agreement | None:
    scores = {candidate.path: candidate.score for candidate in record.candidates}
    # By path: a path that was retrained twice must not count as two networks.
    scored = list({result.path: result for result in results if result.path in scores}.values())
    if len(scored) < 3:
        return None
    accuracies = [result.accuracy for result in scored]
    return Agreement(
        n=len(scored),
        score=_tau([scores[result.path] for result in scored], accuracies),
        params=_tau([result.params for result in scored], accuracies),
        macs=_tau([result.macs for result in scored], accuracies),
        deviation=chance_deviation(len(scored)),
    )


def _tau(x: list[float] | list[int], y: list[float]) -> float:
    return float(kendalltau(x, y).statistic)
