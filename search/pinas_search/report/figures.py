"""The figures. Readable in grey: marks, line styles and hatches carry the meaning, colours only support it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pinas_models.common.files import atomic_path, write_text

from ..records import Candidate
from ..spaces import Space
from .collect import Metrics, RunRecord
from .ranking import draw_curve, draw_ranking, draw_taus
from .summary import Summary
from .winner import describe_winner, draw_winner

__all__ = ['Picture', 'draw_pictures', 'duration', 'pareto_front', 'save_pictures', 'style', 'top_count']

_BLUE, _ORANGE, _GREY = '#0b5fa5', '#c8500a', '#767676'
_WIDTH = 5.0  # inches: letters keep 70 % of their size on a phone
_DPI = 150
# Looks of the networks that the winner is compared with.
_OTHERS: tuple[dict[str, Any], ...] = (
    dict(color='#555555', linestyle='--'),
    dict(color=_ORANGE, linestyle=':'),
    dict(color='#8a6d00', linestyle='-.'),
    dict(color='#7a4a8c', linestyle=(0, (6, 1, 1, 1, 1, 1))),
)

# Text stays text, and the same numbers give the same bytes. Names of networks are not TeX.
_STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'pinas-models',
    'text.parse_math': False,
    'font.family': 'sans-serif',
    'font.size': 10.5,
    'axes.titlesize': 10.5,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': '#dddddd',
    'grid.linewidth': 0.7,
    'hatch.linewidth': 0.7,
    'legend.edgecolor': 'none',
    'legend.framealpha': 0.9,
    'figure.facecolor': 'white',
}


@dataclass(frozen=True)
class Picture:
    """A figure and its description.

    Attributes:
        figure: The figure, or the text of an SVG file.
        alt: What it shows, for readers who cannot see it.
    """

    figure: Figure | str
    alt: str


def duration(seconds: float) -> str:
    """Format a time as hh:mm:ss; hours go on beyond 24."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}'


def top_count(candidates: int) -> int:
    """How many of the best candidates are set against all: a tenth, at least 10, at most half."""
    return min(max(10, candidates // 10), candidates // 2)


def style() -> AbstractContextManager[None]:
    """The look of all figures, for the block that draws one."""
    return matplotlib.rc_context(_STYLE)


def draw_pictures(record: RunRecord, summary: Summary, space: Space) -> dict[str, Picture]:
    """Draw what the run has data for, keyed by file name."""
    with style():
        return dict(_pictures(record, summary, space))


def save_pictures(pictures: Mapping[str, Picture], folder: Path) -> dict[str, str]:
    """Save every figure as PNG and SVG; what is an SVG file already has no PNG.

    Returns:
        Each figure as an ``<svg>`` element that can stand beside others in one HTML page.
    """
    inline = {}
    with style():
        for name, picture in pictures.items():
            if isinstance(picture.figure, Figure):
                with atomic_path(folder / f'{name}.png') as temporary:
                    # None: no version of matplotlib in the file, so that an update of it does not change the bytes.
                    picture.figure.savefig(temporary, format='png', dpi=_DPI, metadata={'Software': None})
                picture.figure.set_layout_engine('none')  # both files have one layout, which is half of the work
                svg = _to_svg(picture.figure)
            else:
                svg = picture.figure
            write_text(folder / f'{name}.svg', svg)
            inline[name] = _to_inline(svg, name, picture.alt)
    return inline


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    svg = buffer.getvalue()
    return svg[svg.index('<svg') :]  # without the document type, which names an address


def _to_inline(svg: str, name: str, alt: str) -> str:
    # The figure's style sheet would apply to the whole page, which has the same rule for figures.
    svg = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', svg, count=1, flags=re.DOTALL)
    # Ids are unique within a figure only.
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf'\g<1>{name}-', svg)
    # Its own words would be a second title of the page.
    svg = re.sub(r'\s*<(title|desc)>.*?</\1>', '', svg.replace(' role="img"', '', 1), flags=re.DOTALL)
    return svg.replace('<svg ', f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _pictures(record: RunRecord, summary: Summary, space: Space) -> Iterator[tuple[str, Picture]]:
    if summary.path is not None:
        path, description = space.decode(summary.path), space.describe()
        yield 'winner', Picture(draw_winner(path, description), describe_winner(path, description))
    if record.learn:
        yield 'learning', _draw_learning(record.learn)
    if record.linear:
        yield 'linear', _draw_linear(record.linear)
    if record.candidates:
        yield 'candidates', _draw_candidates(record.candidates, record.random_phase)
        yield 'scores', _draw_scores(record)
        yield 'costs', _draw_costs(record)
    if len(record.candidates) >= 20:  # fewer say nothing about a position
        yield 'choices', _draw_choices(record, space)
    if record.ranking is not None:
        ranking, report = record.ranking, record.ranking.report
        yield (
            'ranking',
            Picture(
                *draw_ranking(
                    ranking.scores,
                    ranking.truth,
                    tau=report['kendall_tau'],
                    interval=tuple(report['kendall_tau_interval']),
                    score_label='score in the supernet',
                    truth_label=f'true accuracy ({report["truth"]["column"]})',
                )
            ),
        )
        yield 'taus', Picture(*draw_taus(report))
        if 'by_epoch' in report:
            yield 'tau-by-epoch', Picture(*draw_curve(report['by_epoch'], 'epoch', 'epochs of learning'))
        if 'by_calibration' in report:
            label = 'training images of the BN recalibration'
            yield 'tau-by-calibration', Picture(*draw_curve(report['by_calibration'], 'images', label))
    if any(network.metrics for network in record.networks):
        yield 'retraining', _draw_retraining(record)
    if any(stage.seconds for stage in record.stages):
        yield 'time', _draw_time(record)


def _column(metrics: Metrics, key: str) -> np.ndarray:
    """One quantity of all lines; NaN, which is not drawn, where a line lacks it."""
    return np.array([line.get(key) for line in metrics], dtype=float)


def _figure(height: float, rows: int = 1, columns: int = 1, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(_WIDTH, height), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def _percent_axis(axis: Axis, label: str) -> None:
    axis.set_major_formatter(lambda value, _: f'{100 * value:.6g}%')
    axis.set_label_text(label)


def _plot_points(axes: Axes, x: Any, y: Any) -> None:
    """One ring per candidate; smaller when there are many."""
    size = 18 if len(x) <= 300 else 7
    axes.scatter(x, y, s=size, facecolors='none', edgecolors=_GREY, linewidths=0.9, label='candidate')


def _plot_series(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A curve; a long one also smoothed, because single batches scatter."""
    if len(x) < 60:
        axes.plot(x, y, color=_BLUE, marker='o', markersize=3)
        return
    window = len(x) // 20
    axes.plot(x, y, color='#9dbfdd', linewidth=0.8, label='measured')
    smooth = np.convolve(y, np.ones(window) / window, mode='valid')
    middle = x[(window - 1) // 2 : len(x) - window // 2]
    axes.plot(middle, smooth, color=_BLUE, linewidth=2, label=f'mean of {window} points')


def _draw_learning(metrics: Metrics) -> Picture:
    epochs, loss, rate, entropy = (_column(metrics, key) for key in ('epoch', 'loss', 'lr', 'entropy'))
    decides = not np.isnan(entropy).all()  # the method has architecture parameters
    ratios = (3, 2, 2) if decides else (3, 2)
    figure, grid = _figure(5.6 if decides else 4.2, rows=len(ratios), sharex=True, height_ratios=ratios)
    upper, lower = grid[0, 0], grid[-1, 0]
    _plot_series(upper, epochs, loss)
    if decides:
        grid[1, 0].plot(epochs, entropy, color=_BLUE)
        grid[1, 0].set(ylabel='entropy (nats)', ylim=(0, None))
    upper.set(ylabel='loss', title='Learning the supernet')
    if upper.get_legend_handles_labels()[0]:
        upper.legend(loc='upper right')
    lower.plot(epochs, rate, color=_BLUE, drawstyle='steps-pre')
    lower.set(xlabel='epoch', ylabel='learning rate', ylim=(0, None))
    figure.align_ylabels()
    alt = f'The loss of the supernet goes from {loss[0]:.3g} to {loss[-1]:.3g}.'
    if decides:
        alt += f' The entropy of its architecture parameters goes from {entropy[0]:.3g} to {entropy[-1]:.3g} nats.'
    return Picture(figure, alt)


def _draw_linear(metrics: Metrics) -> Picture:
    figure, grid = _figure(4.2, rows=2, sharex=True, height_ratios=(3, 2))
    upper, lower = grid[:, 0]
    epochs, accuracy, loss = (_column(metrics, key) for key in ('epoch', 'accuracy', 'loss'))
    _plot_series(upper, epochs, accuracy)
    upper.set_title('Training the classifier on the frozen supernet')
    _percent_axis(upper.yaxis, 'batch accuracy')
    if upper.get_legend_handles_labels()[0]:
        upper.legend(loc='lower right')
    _plot_series(lower, epochs, loss)
    lower.set(xlabel='epoch', ylabel='loss')
    figure.align_ylabels()
    return Picture(figure, f'The accuracy on training batches goes from {accuracy[0]:.1%} to {accuracy[-1]:.1%}.')


def _draw_candidates(candidates: tuple[Candidate, ...], random_phase: int) -> Picture:
    figure, grid = _figure(3.5)
    axes = grid[0, 0]
    numbers = np.array([c.number + 1 for c in candidates])
    scores = np.array([c.score for c in candidates])
    best = np.maximum.accumulate(scores)
    _plot_points(axes, numbers, scores)
    axes.step(numbers, best, where='post', color=_BLUE, linewidth=2, label='best so far')
    learns = 0 < random_phase < len(candidates)
    if learns:
        axes.axvline(
            random_phase + 0.5, color='#333333', linewidth=1.2, linestyle='--', label='end of the random phase'
        )
    axes.set(xlabel='candidates evaluated', title='Score of each candidate, in order of evaluation')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent_axis(axes.yaxis, 'score (top-1)')
    axes.legend(loc='best')
    first = numbers[scores.argmax()]
    reached = f'the best score, {best[-1]:.2%}, was reached at candidate {first}'
    phase = f'the first {random_phase} were drawn at random; ' if learns else ''
    return Picture(figure, f'{len(scores)} candidates in order of evaluation; {phase}{reached}.')


def _draw_scores(record: RunRecord) -> Picture:
    figure, grid = _figure(3.5)
    axes = grid[0, 0]
    scores = np.array([c.score for c in record.candidates])
    best = scores.max()
    axes.hist(scores, bins=min(30, max(5, len(scores) // 4)), color='#9dbfdd', edgecolor='#333333', linewidth=0.7)
    axes.axvline(best, color=_ORANGE, linewidth=2, label='best')
    axes.set(ylabel='candidates', title='How the scores are distributed')
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))  # percentages are wide
    _percent_axis(axes.xaxis, 'score (top-1)')
    axes.legend(loc='upper left')
    spread = f'from {scores.min():.2%} to {best:.2%}, median {np.median(scores):.2%}'
    return Picture(figure, f'Histogram of {len(scores)} scores {spread}.')


def _draw_costs(record: RunRecord) -> Picture:
    figure, grid = _figure(5.6, rows=2)
    best, scores = record.ranked[0], [c.score for c in record.candidates]
    for axes, key, what in zip(grid[:, 0], ('params', 'macs'), ('parameters', 'multiply-accumulates'), strict=True):
        values = np.array([getattr(c, key) for c in record.candidates])
        unit, scale = ('billion', 1e9) if values.max() >= 1e9 else ('million', 1e6)
        _plot_points(axes, values / scale, scores)
        front = pareto_front(values, np.array(scores))
        look = {'marker': 'o', 'markersize': 4.5, 'color': _BLUE, 'linewidth': 1.6, 'drawstyle': 'steps-post'}
        axes.plot(values[front] / scale, np.array(scores)[front], label='Pareto front', **look)
        star = {'marker': '*', 'markersize': 15, 'color': _ORANGE, 'markeredgecolor': 'black', 'linestyle': 'none'}
        axes.plot([getattr(best, key) / scale], [best.score], label='best', **star)
        axes.set_xlabel(f'{what} ({unit})' if key == 'params' else f'{what} for one image ({unit})')
        _percent_axis(axes.yaxis, 'score (top-1)')
    grid[0, 0].set_title('Score against size and computation')
    grid[0, 0].legend(loc='best')
    return Picture(
        figure,
        'Two scatter plots with Pareto fronts: score against parameters, and score against multiply-accumulates.',
    )


def pareto_front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which candidates no other one beats in both: indices from the cheapest to the best, one of each kind of equals.

    Args:
        costs: Costs [N]; smaller is better.
        scores: Scores [N]; bigger is better.
    """
    order = np.lexsort((-scores, costs))
    before = np.concatenate(([-np.inf], np.maximum.accumulate(scores[order])[:-1]))
    return order[scores[order] > before]


def _draw_choices(record: RunRecord, space: Space) -> Picture:
    top, description = top_count(len(record.candidates)), space.describe()
    names = [choice.name for choice in description.choices]
    paths = np.array([space.decode(c.path) for c in record.ranked])
    figure, grid = _figure(5.6, columns=2, sharey=True)
    everywhere, among_best = _shares(paths, space), _shares(paths[:top], space)
    titles = (f'all {len(paths)} candidates', f'best {top}')
    for axes, share, title in zip(grid[0], (everywhere, among_best), titles, strict=True):
        axes.imshow(share, cmap='Greys', vmin=0, vmax=1, aspect='auto')
        axes.set(title=title, xticks=range(len(names)))
        axes.set_xticklabels([_in_two_lines(name) for name in names], fontsize=9)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(True)
        axes.hlines(
            [group.positions[0] - 0.5 for group in description.groups[1:]],
            -0.5,
            len(names) - 0.5,
            color='black',
            linewidth=0.8,
        )
        for (position, choice), value in np.ndenumerate(share):
            if choice < space.num_choices[position]:
                color = 'white' if value > 0.55 else 'black'
                axes.text(choice, position, f'{100 * value:.0f}', ha='center', va='center', color=color, fontsize=9)
    labels = description.positions
    grid[0, 0].set(yticks=range(len(labels)), yticklabels=labels)
    figure.suptitle('How often each operation is chosen (%)', x=0.01, ha='left', fontsize=10.5)
    row, column = np.unravel_index(np.argmax(among_best - everywhere), everywhere.shape)
    gain = f'the best ones differ most in choosing {names[column]} at {labels[row]}'
    return Picture(figure, f'Heat maps: share of each choice among all candidates and among the best {top}; {gain}.')


def _in_two_lines(name: str) -> str:
    """2s1x64d after its first letter, nor_conv_3x3 after its first words."""
    head, separator, tail = name.rpartition('_') if '_' in name else name.partition('s')
    return f'{head}{separator}\n{tail}' if tail else name


def _shares(paths: np.ndarray, space: Space) -> np.ndarray:
    """Share of each choice at each position, [L, m], among paths [N, L]."""
    return np.stack([(paths == choice).mean(axis=0) for choice in range(max(space.num_choices))], axis=1)


def _draw_retraining(record: RunRecord) -> Picture:
    figure, grid = _figure(4.2)
    axes, ends = grid[0, 0], []
    looks = iter(cycle(_OTHERS))
    for network in record.networks:
        if not network.metrics:
            continue
        epochs, accuracy, average = (_column(network.metrics, key) for key in ('epoch', 'accuracy', 'ema_accuracy'))
        look = dict(color=_BLUE, linewidth=2.4, zorder=3) if network.name == 'winner' else next(looks)
        size = 4 if len(epochs) <= 30 else 0
        axes.plot(epochs, accuracy, label=network.name, marker='o', markersize=size, **look)
        if not np.isnan(average).all():
            marks = dict(marker='x', markersize=5, markevery=max(1, len(epochs) // 15))
            axes.plot(epochs, average, label=f'{network.name}, averaged weights', **look | marks)
        ends.append(f'{network.name} {accuracy[-1]:.2%}')
    axes.set(xlabel='epoch', title='Training the networks on their own')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent_axis(axes.yaxis, 'top-1 accuracy')
    axes.legend(loc='lower right')
    return Picture(figure, f'Accuracy over epochs; at the end {", ".join(ends)}.')


def _draw_time(record: RunRecord) -> Picture:
    times = {stage.name: stage.seconds for stage in record.stages if stage.seconds}
    longest = max(times.values())
    unit, length = ('seconds', 1) if longest < 180 else ('minutes', 60) if longest < 10800 else ('hours', 3600)
    figure, grid = _figure(0.9 + 0.45 * len(times))
    axes = grid[0, 0]
    widths = [seconds / length for seconds in times.values()]
    bars = axes.barh(list(times), widths, color='#9dbfdd', edgecolor='#333333', height=0.6)
    axes.bar_label(bars, [duration(seconds) for seconds in times.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(right=1.25 * max(widths))  # room for the labels
    axes.grid(visible=False, axis='y')
    axes.set(xlabel=f'time ({unit})', title='Time per stage')
    return Picture(figure, 'Time: ' + ', '.join(f'{name} {duration(seconds)}' for name, seconds in times.items()) + '.')
