"""A network drawn block by block, as text and as an SVG picture, from plain data: columns of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from .costs import StageCosts

__all__ = ['Block', 'Column', 'draw_svg', 'draw_text', 'network_columns', 'short_number']


class Block(NamedTuple):
    """One block of a drawing.

    Attributes:
        choice: Digit in a path; it decides fill and hatch.
        label: Name of the block.
        note: Smaller words below the name, in the picture only.
    """

    choice: int
    label: str
    note: str = ''


class Column(NamedTuple):
    """Blocks below each other.

    Attributes:
        title: Heading.
        blocks: The blocks, from the first to the last.
        above: Lines between heading and blocks.
        below: Lines below the blocks.
    """

    title: str
    blocks: Sequence[Block]
    above: Sequence[str] = ()
    below: Sequence[str] = ()


def network_columns(stages: Iterable[StageCosts]) -> list[Column]:
    """A column per stage of a network of the Π-NAS space, with shapes and costs."""
    return [
        Column(
            title=stage.name,
            blocks=[
                Block(
                    choice, block.name + (f' d{dilation}' if dilation > 1 else ''), f'{short_number(block_macs)} MACs'
                )
                for choice, block, dilation, block_macs in zip(
                    stage.choices, stage.blocks, stage.dilations, stage.block_macs, strict=True
                )
            ],
            above=[' x '.join(map(str, stage.output_shape)), f'stride {stage.stride}'],
            below=[f'{short_number(stage.params)} params', f'{short_number(stage.macs)} MACs'],
        )
        for stage in stages
    ]


def short_number(number: float) -> str:
    """Write 27,046,278 as ``27.0 M``."""
    for limit, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if number >= limit:
            return f'{number / limit:.{2 if number < 10 * limit else 1}f} {unit}'
    return f'{number:.0f}'


def draw_text(columns: Sequence[Column], unicode: bool = True) -> str:
    """Draw columns of blocks side by side.

    Args:
        columns: The columns.
        unicode: Use box-drawing characters rather than plain ASCII.

    Returns:
        Lines of at most 80 characters for four columns.
    """
    rows, above = (max(len(column[i]) for column in columns) for i in (1, 2))
    drawn = [_text_column(column, rows, above, unicode) for column in columns]
    return '\n'.join('  '.join(cells).rstrip() for cells in zip(*drawn, strict=True))


def _text_column(column: Column, rows: int, above: int, unicode: bool) -> list[str]:
    width = 16  # with the frame: four columns fit a terminal of 80
    corner = '┌┐├┤└┘─│' if unicode else '++++++-|'
    rule = corner[6] * (width - 2)
    lines = [column.title, *column.above, *[''] * (above - len(column.above)), corner[0] + rule + corner[1]]
    for i, block in enumerate(column.blocks):
        if i:
            lines.append(corner[2] + rule + corner[3])
        lines.append(corner[7] + f' {block.choice}  {block.label}'.ljust(width - 2) + corner[7])
    lines.append(corner[4] + rule + corner[5])
    lines += [''] * 2 * (rows - len(column.blocks))
    return [line.ljust(width) for line in [*lines, *column.below]]


# Fill and hatch per choice: the fills differ in lightness, so that they and the hatches stay apart in grey.
_STYLES = (
    ('#ffffff', ''),
    ('#bcdff5', 'M0,8 L8,0'),
    ('#f3cf7a', 'M4,3.4 L4,4.6 M3.4,4 L4.6,4'),
    ('#d98a5f', 'M0,0 L8,8 M0,8 L8,0'),
    ('#8fb99a', 'M0,0 L8,8'),
    ('#b9a5cf', 'M0,4 L8,4 M4,0 L4,8'),
)
_COLUMN, _ROW, _MARGIN, _LINE = 172, 52, 24, 18  # pixels


def draw_svg(
    columns: Sequence[Column], *, title: str = '', facts: Sequence[str] = (), legend: Mapping[int, str] | None = None
) -> str:
    """Draw a network as an SVG picture: columns of blocks, each read downwards, then to the right.

    Every block has its digit, its name, a fill and a hatch, so that the picture can be read in grey.

    Args:
        columns: The columns.
        title: Heading.
        facts: Lines below it.
        legend: Choice -> what it means; the choices that occur are explained below the columns.

    Returns:
        The text of an SVG file that needs nothing else.
    """
    used = sorted({block.choice for column in columns for block in column.blocks})
    explained = [choice for choice in used if choice in (legend or {})]
    above, below = (max(len(column[i]) for column in columns) for i in (2, 3))
    start = (58 if title else _MARGIN + 12) + _LINE * len(facts)
    top = start + (30 if title else 0) + _LINE * above + 12
    bottom = top + max(len(column.blocks) for column in columns) * _ROW
    legend_top = bottom + _LINE * below + 12
    width = max(2 * _MARGIN + _COLUMN * len(columns), 640 if title or explained else 0)
    height = legend_top + 24 * len(explained) + (_MARGIN if explained else 0)
    size = {'viewBox': f'0 0 {width} {height}', 'width': str(width), 'height': str(height), 'role': 'img'}
    svg = ElementTree.Element('svg', {'xmlns': 'http://www.w3.org/2000/svg', **size, 'fill': '#222222'})
    svg.set('font-family', 'Helvetica, Arial, sans-serif')
    ElementTree.SubElement(svg, 'title').text = title or 'Blocks of a network'
    ElementTree.SubElement(svg, 'desc').text = _in_words(columns)
    _add_patterns(svg, used)
    _rectangle(svg, 0, 0, width, height, '#ffffff', radius=0, stroke='none')
    if title:
        _text(svg, _MARGIN, 36, title, size=20, bold=True)
    for i, fact in enumerate(facts):
        _text(svg, _MARGIN, 58 + _LINE * i, fact, size=13)
    for i, column in enumerate(columns):
        _draw_column(svg, _MARGIN + i * _COLUMN, top, bottom, column, last=i + 1 == len(columns))
    for i, choice in enumerate(explained):
        y = legend_top + 24 * i
        _rectangle(svg, _MARGIN, y, 26, 16, f'url(#choice{choice})', radius=3)
        _text(svg, _MARGIN + 36, y + 13, f'{choice}  {(legend or {})[choice]}', size=12)
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding='unicode') + '\n'


def _in_words(columns: Iterable[Column]) -> str:
    """The drawing for readers who cannot see it."""
    return '; '.join(f'{column.title}: {", ".join(block.label for block in column.blocks)}' for column in columns) + '.'


def _draw_column(svg: ElementTree.Element, x: int, top: int, bottom: int, column: Column, last: bool) -> None:
    width, head = _COLUMN - 22, top - 12 - _LINE * len(column.above)
    _text(svg, x, head, column.title, size=15, bold=True)
    if not last:
        _arrow(svg, x + width - 14, head - 5, x + width + 12)
    for i, line in enumerate(column.above):
        _text(svg, x, head + _LINE * (i + 1), line, size=12)
    for row, block in enumerate(column.blocks):
        y = top + row * _ROW
        _rectangle(svg, x, y, width, _ROW - 10, f'url(#choice{block.choice})', radius=6)
        # The text stands on a plate of its own, or the hatch would make it hard to read.
        _rectangle(svg, x + 8, y + 5, width - 16, _ROW - 20, '#ffffff', radius=4, stroke='none')
        label_y = y + (19 if block.note else 26)
        _text(svg, x + width / 2, label_y, f'{block.choice}   {block.label}', size=14, bold=True, anchor='middle')
        if block.note:
            _text(svg, x + width / 2, y + 33, block.note, size=11, anchor='middle')
    for i, line in enumerate(column.below):
        _text(svg, x, bottom + 14 + _LINE * i, line, size=12)


def _add_patterns(svg: ElementTree.Element, choices: Iterable[int]) -> None:
    definitions = ElementTree.SubElement(svg, 'defs')
    for choice in choices:
        pattern = ElementTree.SubElement(
            definitions, 'pattern', id=f'choice{choice}', width='8', height='8', patternUnits='userSpaceOnUse'
        )
        fill, hatch = _STYLES[choice % len(_STYLES)]
        ElementTree.SubElement(pattern, 'rect', width='8', height='8', fill=fill)
        if hatch:
            ElementTree.SubElement(pattern, 'path', d=hatch, stroke='#555555')


def _rectangle(
    parent: ElementTree.Element,
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    radius: int,
    stroke: str = '#333333',
) -> None:
    attributes = {'x': x, 'y': y, 'width': width, 'height': height, 'rx': radius, 'fill': fill, 'stroke': stroke}
    ElementTree.SubElement(parent, 'rect', {name: str(value) for name, value in attributes.items()})


def _text(
    parent: ElementTree.Element, x: float, y: float, text: str, size: int, bold: bool = False, anchor: str = 'start'
) -> None:
    attributes = {'x': f'{x:g}', 'y': f'{y:g}', 'font-size': str(size), 'text-anchor': anchor}
    if bold:
        attributes['font-weight'] = 'bold'
    ElementTree.SubElement(parent, 'text', attributes).text = text


def _arrow(parent: ElementTree.Element, x: float, y: float, end: float) -> None:
    line = f'M{x},{y} L{end},{y} M{end - 5},{y - 4} L{end},{y} L{end - 5},{y + 4}'
    ElementTree.SubElement(parent, 'path', d=line, stroke='#444444', fill='none')
