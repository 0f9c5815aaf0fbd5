"""The report: what a run directory holds, as one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..spaces import Space

if TYPE_CHECKING:
    from .collect import RunRecord
    from .summary import Summary

__all__ = ['render_page', 'write_report']


def write_report(run_dir: Path, space: Space) -> Path:
    """Write ``report/index.html`` and, beside it, every figure as PNG and SVG in ``report/figures/``.

    Stages that have not run are named on the page, those that are under way are shown as far as they are. The same run
    directory gives the same page, byte by byte.

    Args:
        run_dir: The run directory.
        space: The space of the run.

    Returns:
        The page.

    Raises:
        ValueError: If no stage has begun, or a file is damaged or of another space.
    """
    # Only this command needs matplotlib and scipy.
    from pinas_models.common.files import write_text

    from .collect import collect
    from .figures import draw_pictures, save_pictures
    from .summary import summarize

    record = collect(run_dir, space)
    summary, index = summarize(record, space), run_dir / 'report' / 'index.html'
    pictures = save_pictures(draw_pictures(record, summary, space), index.parent / 'figures')
    write_text(index, render_page(record, summary, space, pictures, index))
    return index


def render_page(record: RunRecord, summary: Summary, space: Space, pictures: Mapping[str, str], index: Path) -> str:
    """The page as text; nothing is written.

    Args:
        record: What the run directory holds.
        summary: What the page says first.
        space: The space of the run.
        pictures: ``<svg>`` elements by name; the page leaves out those that are not there.
        index: Where the page will be, for its links.
    """
    import jinja2
    from markupsafe import Markup

    from ..data import CAVEATS
    from .figures import duration, top_count
    from .summary import standard_error
    from .winner import choice_meanings

    description = space.describe()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {'percent': _percent, 'points': _points, 'signed': _signed, 'si': _si, 'duration': duration}
    template = environment.from_string((files(__package__) / 'template.html.j2').read_text(encoding='utf-8'))
    return template.render(
        record=record,
        caveat=CAVEATS.get(record.setting('data.source'), ''),
        results=_measured_results(index),
        summary=summary,
        space=space,
        pictures={name: Markup(svg) for name, svg in pictures.items()},
        description=description,
        blocks=choice_meanings(space.decode(summary.path), description) if summary.path else [],
        standard_error=standard_error,
        top_count=top_count(len(record.candidates)),
    )


def _measured_results(index: Path) -> str:
    """The way from the page to the documented results; empty for an installed package, which has no documents."""
    file = Path(__file__).resolve().parents[3] / 'docs' / 'results.md'
    return Path(os.path.relpath(file, index.parent.resolve())).as_posix() if file.exists() else ''


def _percent(fraction: float) -> str:
    return f'{100 * fraction:.2f}%'


def _points(fraction: float) -> str:
    """A difference of accuracies in percentage points."""
    return f'{100 * fraction:.2f}'


def _signed(value: float) -> str:
    return f'{value:+.2f}'.replace('-', '\N{MINUS SIGN}')


def _si(count: int) -> str:
    """A count with a prefix: 26.22 M; no-break space, so that a unit does not go to the next line."""
    for scale, prefix in ((10**9, 'G'), (10**6, 'M'), (10**3, 'k')):
        if count >= scale:
            return f'{count / scale:.2f}\N{NO-BREAK SPACE}{prefix}'
    return str(count)
