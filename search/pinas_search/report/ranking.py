"""The pictures of a ranking: true accuracy against score, taus side by side, tau over training and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ['draw_curve', 'draw_ranking', 'draw_taus']

_BLUE, _ORANGE, _GREY = '#0b5fa5', '#c8500a', '#767676'


def draw_ranking(
    scores: np.ndarray,
    truth: np.ndarray,
    *,
    tau: float,
    interval: tuple[float, float],
    score_label: str = 'score',
    truth_label: str = 'true accuracy',
) -> tuple[Figure, str]:
    """Draw true accuracies against scores, with the chosen and the best network marked; readable in grey.

    Args:
        scores: Scores [N].
        truth: True accuracies [N].
        tau: Kendall's tau-b of the two.
        interval: Its 95 % interval.
        score_label: What the scores are, with their unit.
        truth_label: What the accuracies are, with their unit.

    Returns:
        The figure, and what it shows in words.
    """
    figure = Figure(figsize=(5.0, 4.2), layout='constrained')
    axes = figure.subplots()
    n, chosen, best = len(scores), int(np.argmax(scores)), int(np.argmax(truth))
    size = 18 if n <= 300 else 7 if n <= 3000 else 3
    # Thousands of vectors make a heavy page: from there on the points are one image.
    axes.scatter(
        scores, truth, s=size, facecolors='none', edgecolors=_GREY, linewidths=0.8, label='network', rasterized=n > 3000
    )
    marks: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ('chosen', chosen, dict(marker='*', markersize=15, color=_ORANGE)),
        ('best', best, dict(marker='D', markersize=8, color=_BLUE)),
    )
    for label, row, look in marks:
        axes.plot([scores[row]], [truth[row]], label=label, linestyle='none', markeredgecolor='black', zorder=3, **look)
    # A few networks that learn nothing would press all others into a line.
    low = np.quantile(truth, 0.05)
    span = truth.max() - low
    hidden = int((truth < low - 0.5 * span).sum()) if span > 0 else 0
    if hidden:
        axes.set_ylim(low - 0.5 * span, truth.max() + 0.08 * span)
        axes.annotate(f'{hidden} networks below', (0.02, 0.02), xycoords='axes fraction', fontsize=9, color='black')
    title = f'τ = {tau:.2f}, 95 % [{interval[0]:.2f}, {interval[1]:.2f}], n = {n}'
    axes.set(xlabel=score_label, ylabel=truth_label, title=title)
    axes.legend(loc='best')
    return figure, (
        f'{n} networks, true accuracy against score: tau {tau:.2f}; the chosen network has {truth[chosen]:.4g}, '
        f'the best {truth[best]:.4g}.'
    )


def draw_taus(report: Mapping[str, Any]) -> tuple[Figure, str]:
    """Draw the tau of the scores, with its interval, beside those of predictors that need no training.

    Args:
        report: As ``rank/report.json`` has it.

    Returns:
        The figure, and what it shows in words.
    """
    rows: list[tuple[str, float, Sequence[float]]] = [
        ('score', report['kendall_tau'], report['kendall_tau_interval']),
        *((name, of['kendall_tau'], of['kendall_tau_interval']) for name, of in report.get('scores', {}).items()),
    ]
    trivial = sorted(report['trivial'].items(), key=lambda item: -item[1])
    names = [name for name, *_ in rows] + [name for name, _ in trivial]
    figure = Figure(figsize=(5.0, 0.9 + 0.32 * len(names)), layout='constrained')
    axes = figure.subplots()
    for y, (_, tau, (low, high)) in enumerate(rows):
        axes.errorbar(tau, y, xerr=[[max(tau - low, 0)], [max(high - tau, 0)]], fmt='o', color=_BLUE, capsize=3)
    for y, (_, tau) in enumerate(trivial, start=len(rows)):
        axes.plot([tau], [y], marker='s', color='white', markeredgecolor=_GREY)
    axes.axvline(0, color='black', linewidth=0.8)
    ceiling = report['truth'].get('tau_between_trainings')
    if ceiling is not None:
        axes.axvline(ceiling, color=_ORANGE, linestyle='--', linewidth=1.4, label='two trainings of the truth')
        axes.legend(loc='best')
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="Kendall's τ", title='Who ranks how well')
    axes.invert_yaxis()
    best = f'; the best predictor without training is {trivial[0][0]} with {trivial[0][1]:.2f}' if trivial else ''
    return figure, f"Kendall's tau of the score is {report['kendall_tau']:.2f}{best}."


def draw_curve(points: Sequence[Mapping[str, Any]], key: str, label: str) -> tuple[Figure, str]:
    """Draw tau, with its intervals, over something.

    Args:
        points: ``kendall_tau``, ``kendall_tau_interval``, ``n`` and ``key`` of each.
        key: What it is drawn over.
        label: The same in words.

    Returns:
        The figure, and what it shows in words.
    """
    figure = Figure(figsize=(5.0, 3.2), layout='constrained')
    axes = figure.subplots()
    x, tau = [point[key] for point in points], np.array([point['kendall_tau'] for point in points])
    low, high = np.array([point['kendall_tau_interval'] for point in points]).T
    bars = np.maximum([tau - low, high - tau], 0)
    axes.errorbar(x, tau, yerr=bars, fmt='o-', color=_BLUE, capsize=3)
    axes.axhline(0, color='black', linewidth=0.8)
    axes.set(xlabel=label, ylabel="Kendall's τ", title=f'95 % intervals, {points[0]["n"]} networks')
    return figure, f"Kendall's tau goes from {tau[0]:.2f} to {tau[-1]:.2f} over {label}."
