"""The pictures of a ranking: true accuracy against score, taus side by side, tau over training and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ['TauLine', 'draw_curve', 'draw_ranking', 'draw_tau_lines', 'draw_taus']

_BLUE, _ORANGE, _GREY = '#0b5fa5', '#c8500a', '#767676'


@dataclass(frozen=True)
class TauLine:
    """A predictor in a picture of taus.

    Attributes:
        name: Its name.
        tau: Its tau.
        interval: The 95 % interval of it.
        seeds: Taus of single seeds, if there are several.
        reported: Tau that others have reported, and its standard deviation.
    """

    name: str
    tau: float
    interval: Sequence[float]
    seeds: Sequence[float] = ()
    reported: tuple[float, float] | None = None


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
    lines = [
        TauLine('score', report['kendall_tau'], report['kendall_tau_interval']),
        *(
            TauLine(name, of['kendall_tau'], of['kendall_tau_interval'])
            for name, of in report.get('scores', {}).items()
        ),
    ]
    return draw_tau_lines(lines, report['trivial'], report['truth'].get('tau_between_trainings'))


def draw_tau_lines(
    lines: Sequence[TauLine],
    trivial: Mapping[str, float],
    ceiling: float | None = None,
    title: str = 'Who ranks how well',
) -> tuple[Figure, str]:
    """Draw taus with their intervals, beside those of predictors that need no training.

    Args:
        lines: Predictors, from above; at least one.
        trivial: Name -> tau of what needs no training.
        ceiling: Tau between two trainings of the truth, if it is known.
        title: Title of the picture.

    Returns:
        The figure, and what it shows in words.
    """
    simple = sorted(trivial.items(), key=lambda item: -item[1])
    names = [line.name for line in lines] + [name for name, _ in simple]
    figure = Figure(figsize=(5.0, 1.1 + 0.32 * len(names)), layout='constrained')
    axes = figure.subplots()
    for y, line in enumerate(lines):
        low, high = line.interval
        bars = [[max(line.tau - low, 0)], [max(high - line.tau, 0)]]
        axes.errorbar(line.tau, y, xerr=bars, fmt='o', color=_BLUE, capsize=3, label='tau, 95 % interval')
        if len(line.seeds) > 1:
            axes.plot(line.seeds, [y] * len(line.seeds), '|', color='black', markersize=9, label='single seeds')
        if line.reported is not None:
            value, deviation = line.reported
            look: dict[str, Any] = dict(fmt='D', color=_ORANGE, markersize=5, linewidth=0.9, capsize=2)
            axes.errorbar(value, y + 0.28, xerr=deviation, label='reported by the authors', **look)
    for y, (_, tau) in enumerate(simple, start=len(lines)):
        axes.plot([tau], [y], 's', color='white', markeredgecolor=_GREY, label='without training')
    axes.axvline(0, color='black', linewidth=0.8)
    if ceiling is not None:
        axes.axvline(ceiling, color=_ORANGE, linestyle='--', linewidth=1.4, label='two trainings of the truth')
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each once
    if len(marks) > 2 or ceiling is not None:
        figure.legend(list(marks.values()), list(marks), loc='outside lower center', ncols=2, fontsize=9)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="Kendall's τ", title=title)
    axes.invert_yaxis()
    best = f'; the best predictor without training is {simple[0][0]} with {simple[0][1]:.2f}' if simple else ''
    taus = ', '.join(f'{line.name} {line.tau:.2f}' for line in lines)
    return figure, f"Kendall's tau: {taus}{best}."


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
