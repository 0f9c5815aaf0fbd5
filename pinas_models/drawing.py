"""A network of the Π-NAS space, drawn block by block: as text and as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from .choices import BLOCK_CHOICES, BlockChoice
from .stages import Stage

__all__ = ['block_meaning', 'draw_svg', 'draw_text', 'short_number']


def short_number(number: float) -> str:
    """Write 27,046,278 as ``27.0 M``."""
    for limit, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if number >= limit:
            return f'{number / limit:.{2 if number < 10 * limit else 1}f} {unit}'
    return f'{number:.0f}'


def block_meaning(block: BlockChoice) -> str:
    """What a block computes, in a sentence."""
    groups = 'one group' if block.cardinality == 1 else f'{block.cardinality} groups'
    if block.radix == 1:
        return f'one 3x3 convolution in {groups}; a sigmoid gate weakens or keeps each channel'
    return f'{block.radix} splits of a 3x3 convolution in {groups} each; attention mixes the splits channel by channel'


def draw_text(stages: Sequence[Stage], unicode: bool = True) -> str:
    """Draw a column of blocks per stage, side by side.

    Args:
        stages: The stages.
        unicode: Use box-drawing characters rather than plain ASCII.

    Returns:
        Lines of at most 80 characters for four stages.
    """
    columns = [_text_column(stage, max(len(s.choices) for s in stages), unicode) for stage in stages]
    return '\n'.join('  '.join(cells).rstrip() for cells in zip(*columns, strict=True))


def _text_column(stage: Stage, rows: int, unicode: bool) -> list[str]:
    width = 16  # with the frame: four columns fit a terminal of 80
    corner = '┌┐├┤└┘─│' if unicode else '++++++-|'
    rule = corner[6] * (width - 2)
    lines = [stage.name, ' x '.join(map(str, stage.output_shape)), f'stride {stage.stride}']
    lines.append(corner[0] + rule + corner[1])
    for i, (choice, block, dilation) in enumerate(zip(stage.choices, stage.blocks, stage.dilations, strict=True)):
        if i:
            lines.append(corner[2] + rule + corner[3])
        label = f' {choice}  {block.name}' + (f' d{dilation}' if dilation > 1 else '')
        lines.append(corner[7] + label.ljust(width - 2) + corner[7])
    lines.append(corner[4] + rule + corner[5])
    lines += [''] * 2 * (rows - len(stage.choices))
    lines += [f'{short_number(stage.params)} params', f'{short_number(stage.macs)} MACs']
    return [line.ljust(width) for line in lines]


# Fill and hatch per choice: the fills differ in lightness, so that they and the hatches stay apart in grey.
_FILLS = ('#ffffff', '#bcdff5', '#f3cf7a', '#d98a5f')
_HATCHES = ('', 'M0,8 L8,0', 'M4,3.4 L4,4.6 M3.4,4 L4.6,4', 'M0,0 L8,8 M0,8 L8,0')
_COLUMN, _ROW, _MARGIN, _HEAD = 172, 52, 24, 128  # pixels


def draw_svg(title: str, facts: Sequence[str], stages: Sequence[Stage]) -> str:
    """Draw the network as an SVG picture: a column of blocks per stage, read downwards, then to the right.

    Args:
        title: Heading.
        facts: Lines below it.
        stages: The stages.

    Returns:
        The text of an SVG file that needs nothing else.
    """
    rows = max(len(stage.choices) for stage in stages)
    used = sorted({choice for stage in stages for choice in stage.choices})
    top = _HEAD + 18 * len(facts)
    below = top + rows * _ROW
    width, height = max(2 * _MARGIN + _COLUMN * len(stages), 640), below + 62 + 24 * len(used) + _MARGIN
    svg = ElementTree.Element(
        'svg',
        xmlns='http://www.w3.org/2000/svg',
        viewBox=f'0 0 {width} {height}',
        width=str(width),
        height=str(height),
        role='img',
    )
    svg.set('font-family', 'Helvetica, Arial, sans-serif')
    svg.set('fill', '#222222')
    ElementTree.SubElement(svg, 'title').text = title
    ElementTree.SubElement(svg, 'desc').text = _in_words(stages)
    _add_patterns(svg, used)
    _rectangle(svg, 0, 0, width, height, '#ffffff', radius=0, stroke='none')
    _text(svg, _MARGIN, 36, title, size=20, bold=True)
    for i, fact in enumerate(facts):
        _text(svg, _MARGIN, 58 + 18 * i, fact, size=13)
    for column, stage in enumerate(stages):
        _draw_stage(svg, _MARGIN + column * _COLUMN, top, below, stage, last=column + 1 == len(stages))
    for i, choice in enumerate(used):
        y = below + 62 + 24 * i
        _rectangle(svg, _MARGIN, y, 26, 16, f'url(#choice{choice})', radius=3)
        block = BLOCK_CHOICES[choice]
        _text(svg, _MARGIN + 36, y + 13, f'{choice}  {block.name}: {block_meaning(block)}', size=12)
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding='unicode') + '\n'


def _in_words(stages: Sequence[Stage]) -> str:
    """The drawing for readers who cannot see it."""
    return '; '.join(f'{stage.name}: {", ".join(block.name for block in stage.blocks)}' for stage in stages) + '.'


def _draw_stage(svg: ElementTree.Element, x: int, top: int, below: int, stage: Stage, last: bool) -> None:
    width = _COLUMN - 22
    _text(svg, x, top - 46, stage.name, size=15, bold=True)
    _text(svg, x, top - 28, ' x '.join(map(str, stage.output_shape)), size=12)
    _text(svg, x, top - 12, f'stride {stage.stride}', size=12)
    if not last:
        _arrow(svg, x + width - 14, top - 51, x + width + 12)
    blocks = zip(stage.choices, stage.blocks, stage.dilations, stage.block_macs, strict=True)
    for row, (choice, block, dilation, macs) in enumerate(blocks):
        y = top + row * _ROW
        _rectangle(svg, x, y, width, _ROW - 10, f'url(#choice{choice})', radius=6)
        # The text stands on a plate of its own, or the hatch would make it hard to read.
        _rectangle(svg, x + 8, y + 5, width - 16, _ROW - 20, '#ffffff', radius=4, stroke='none')
        _text(svg, x + width / 2, y + 19, f'{choice}   {block.name}', size=14, bold=True, anchor='middle')
        note = f'{short_number(macs)} MACs' + (f', dilation {dilation}' if dilation > 1 else '')
        _text(svg, x + width / 2, y + 33, note, size=11, anchor='middle')
    _text(svg, x, below + 14, f'{short_number(stage.params)} parameters', size=12)
    _text(svg, x, below + 32, f'{short_number(stage.macs)} MACs', size=12)


def _add_patterns(svg: ElementTree.Element, choices: Sequence[int]) -> None:
    definitions = ElementTree.SubElement(svg, 'defs')
    for choice in choices:
        pattern = ElementTree.SubElement(
            definitions, 'pattern', id=f'choice{choice}', width='8', height='8', patternUnits='userSpaceOnUse'
        )
        ElementTree.SubElement(pattern, 'rect', width='8', height='8', fill=_FILLS[choice])
        if _HATCHES[choice]:
            ElementTree.SubElement(pattern, 'path', {'d': _HATCHES[choice], 'stroke': '#555555', 'stroke-width': '1'})


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
