"""The picture of a ranking: true accuracy against score."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ['draw_ranking']

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
