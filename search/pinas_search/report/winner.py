"""The winner, drawn, and what the names of its operations mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pinas_models.inspect.drawing import Block, Column, draw_svg

from ..spaces import Description

__all__ = ['ChoiceMeaning', 'choice_meanings', 'describe_winner', 'draw_winner']

_FILLS = ('#ffffff', '#bcdff5', '#f3cf7a', '#d98a5f', '#8fb99a', '#b9a5cf')


@dataclass(frozen=True)
class ChoiceMeaning:
    """A row of the table below the drawing.

    Attributes:
        choice: Digit in a path.
        name: The paper's name.
        meaning: What it computes, in a sentence.
        count: How often the winner uses it.
    """

    choice: int
    name: str
    meaning: str
    count: int


def choice_meanings(path: Sequence[int], description: Description) -> list[ChoiceMeaning]:
    """Explain the choices of a space; empty if it has nothing to say about them."""
    return [
        ChoiceMeaning(i, choice.name, choice.meaning, list(path).count(i))
        for i, choice in enumerate(description.choices)
        if choice.meaning
    ]


def describe_winner(path: Sequence[int], description: Description) -> str:
    """Put the drawing into words, for readers who cannot see it."""
    groups = (
        f'{group.title}: ' + ', '.join(description.choices[path[p]].name for p in group.positions)
        for group in description.groups
    )
    return 'Operations of the winner. ' + '; '.join(groups) + '.'


def draw_winner(path: Sequence[int], description: Description) -> Figure | str:
    """Draw a path: a graph as a figure, columns of blocks as the text of an SVG file."""
    return _draw_graph(path, description) if description.edges else _draw_columns(path, description)


def _draw_columns(path: Sequence[int], description: Description) -> str:
    """One column per group of positions, read downwards: the drawing of ``pinas-models info``."""
    return draw_svg(
        [
            Column(group.title, [Block(path[p], description.choices[path[p]].name) for p in group.positions])
            for group in description.groups
        ]
    )


def _draw_graph(path: Sequence[int], description: Description) -> Figure:
    """Nodes on a circle's half, an arrow per position with the name of its operation."""
    nodes = sorted({node for edge in description.edges for node in edge})
    angles = {node: math.pi * (1 - index / (len(nodes) - 1)) for index, node in enumerate(nodes)}
    places = {node: (2.5 - 2.2 * math.cos(math.pi - angle), 2.2 * math.sin(angle)) for node, angle in angles.items()}
    figure = Figure(figsize=(5.0, 3.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.2, 5.2), ylim=(-0.5, 3.0))
    axes.axis('off')
    for position, (source, target) in enumerate(description.edges):
        start, end = places[source], places[target]
        _draw_arrow(axes, start, end)
        fill = _FILLS[path[position] % len(_FILLS)]
        x, y = (0.45 * a + 0.55 * b for a, b in zip(start, end, strict=True))
        label = {'facecolor': fill, 'edgecolor': '#333333', 'boxstyle': 'round,pad=0.25'}
        text = axes.text(x, y, description.choices[path[position]].name, fontsize=9.5, bbox=label, zorder=3)
        text.set(horizontalalignment='center', verticalalignment='center')
    for node, (x, y) in places.items():
        circle = {'facecolor': 'white', 'edgecolor': '#333333', 'boxstyle': 'circle,pad=0.35'}
        axes.text(x, y, str(node), fontsize=12, ha='center', va='center', bbox=circle, zorder=4)
    return figure


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {'arrowstyle': '-|>', 'color': '#444444', 'shrinkA': 0, 'shrinkB': 0}
    axes.annotate('', xy=end, xytext=start, arrowprops=look)
