"""The winner, drawn block by block, and what the names of the blocks mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pinas_models import BLOCK_CHOICES
from pinas_models.choices import BlockChoice

from ..spaces import ResNeStSpace, Space

__all__ = ['BlockMeaning', 'block_meanings', 'choice_names', 'describe_winner', 'draw_winner', 'stages_of']

# Fill and hatch per choice: the fills differ in lightness, so that they and the hatches stay apart in grey.
_STYLES = (
    ('#ffffff', ''),
    ('#bcdff5', '///'),
    ('#f3cf7a', '...'),
    ('#d98a5f', 'xxx'),
    ('#8fb99a', '\\\\\\'),
    ('#b9a5cf', '+++'),
)
_BLOCK_HEIGHT = 0.66  # of a row, the rest is the arrow to the next block


@dataclass(frozen=True)
class BlockMeaning:
    """A row of the table below the drawing.

    Attributes:
        choice: Digit in a path.
        name: The paper's name.
        meaning: What the block computes, in a sentence.
        count: How often the winner uses it.
    """

    choice: int
    name: str
    meaning: str
    count: int


def choice_names(space: Space) -> list[str]:
    """Names of the choices of a space: the paper's, where the space is of its family."""
    if isinstance(space, ResNeStSpace):
        return [block.name for block in BLOCK_CHOICES]
    return [f'choice {choice}' for choice in range(max(space.num_choices))]


def stages_of(space: Space) -> list[range]:
    """Positions of each stage of the network; one stage for a space that has none."""
    depths = space.layers if isinstance(space, ResNeStSpace) else (space.num_positions,)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [range(start, start + depth) for start, depth in zip(starts, depths, strict=True)]


def block_meanings(path: Sequence[int], space: Space) -> list[BlockMeaning]:
    """Explain the choices of a space of the paper's family; empty for others."""
    if not isinstance(space, ResNeStSpace):
        return []
    return [BlockMeaning(i, block.name, _meaning(block), list(path).count(i)) for i, block in enumerate(BLOCK_CHOICES)]


def describe_winner(path: Sequence[int], space: Space) -> str:
    """Put the drawing into words, for readers who cannot see it."""
    names = choice_names(space)
    stages = (f'stage {s}: ' + ', '.join(names[path[p]] for p in stage) for s, stage in enumerate(stages_of(space), 1))
    return 'Blocks of the winner. ' + '; '.join(stages) + '.'


def draw_winner(path: Sequence[int], space: Space) -> Figure:
    """Draw a path: one column per stage, read downwards; every block has its digit, its name, a fill and a hatch."""
    names, stages = choice_names(space), stages_of(space)
    rows = max(map(len, stages))
    # Few columns with large letters stay legible on a phone, where the figure shrinks to 70 %.
    figure = Figure(figsize=(5.0, 0.7 * (rows + 0.8)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, max(len(stages), 3)), ylim=(rows, -0.8))
    axes.axis('off')
    for column, stage in enumerate(stages):
        axes.text(column + 0.5, -0.52, f'stage {column + 1}', ha='center', va='center', fontsize=12)
        digits = ''.join(str(path[position]) for position in stage)
        axes.text(column + 0.5, -0.2, digits, ha='center', va='center', fontsize=11, family='monospace')
        for row, position in enumerate(stage):
            _draw_block(axes, column, row, path[position], names[path[position]])
            if row + 1 < len(stage):
                _draw_arrow(axes, column + 0.5, row + _BLOCK_HEIGHT, row + 1.06)
    return figure


def _draw_block(axes: Axes, column: int, row: int, choice: int, name: str) -> None:
    fill, hatch = _STYLES[choice % len(_STYLES)]
    height = _BLOCK_HEIGHT - 0.06
    block = FancyBboxPatch((column + 0.05, row + 0.06), 0.9, height, boxstyle='round,pad=0,rounding_size=0.06')
    block.set(facecolor=fill, hatch=hatch, edgecolor='#333333', linewidth=1.1)
    axes.add_patch(block)
    label = {'facecolor': 'white', 'edgecolor': 'none', 'boxstyle': 'round,pad=0.22'}
    text = axes.text(column + 0.5, row + 0.06 + height / 2, name, fontsize=13, weight='bold', bbox=label)
    text.set(horizontalalignment='center', verticalalignment='center_baseline')


def _draw_arrow(axes: Axes, x: float, start: float, end: float) -> None:
    look = {'arrowstyle': '-|>', 'color': '#444444', 'shrinkA': 0, 'shrinkB': 0}
    axes.annotate('', xy=(x, end), xytext=(x, start), arrowprops=look)


def _meaning(block: BlockChoice) -> str:
    groups = 'one group' if block.cardinality == 1 else f'{block.cardinality} separate groups'
    if block.radix == 1:
        return f'One 3×3 convolution in {groups}; a gate (sigmoid) then weakens or keeps each of its channels.'
    return f'{block.radix} splits of a 3×3 convolution in {groups} each; attention mixes the splits channel by channel.'
