"""timm's table of results."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import write_text

__all__ = ['RESULT_COLUMNS', 'merge_results', 'read_results']

# The header of timm's results/*.csv, so that its tools read the table; further columns stand behind these.
TIMM_COLUMNS = (
    'model',
    'img_size',
    'top1',
    'top1_err',
    'top5',
    'top5_err',
    'param_count',
    'crop_pct',
    'interpolation',
)
RESULT_COLUMNS = (
    *TIMM_COLUMNS,
    'protocol',
    'data',
    'images',
    'skipped',
    'top1_low',
    'top1_high',
    'top5_low',
    'top5_high',
    'real_images',
    'real_top1',
    'real_top5',
    'dtype',
    'samples_per_sec',
)
KEY = ('model', 'img_size', 'crop_pct', 'interpolation', 'protocol', 'data', 'dtype')


def read_results(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table of results.

    Args:
        path: CSV file with the columns of timm's tables, in any order, and possibly others; need not exist.

    Returns:
        Names of the columns, and the rows.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is another kind of file.
    """
    if not path.exists():
        return [], []
    try:
        with path.open(encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path} is no CSV file ({error}): give another name for the results') from error
    missing = [name for name in TIMM_COLUMNS if name not in columns]
    if columns and missing:
        raise ValueError(f'{path} is no table of results, it has no column {missing[0]}: give another name')
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f'{path} is damaged, a row has another number of columns than the header: repair it')
    return columns, rows


def merge_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table of results; a row of the same model, input, data and precision is replaced.

    Args:
        path: CSV file, made if it does not exist.
        rows: Values of ``RESULT_COLUMNS``.

    Raises:
        OSError: If it cannot be read or written.
        ValueError: If it is another kind of file.
    """
    columns, kept = read_results(path)
    columns = columns + [name for name in RESULT_COLUMNS if name not in columns]
    new = [{name: str(row.get(name, '')) for name in columns} for row in rows]
    replaced = {tuple(row[name] for name in KEY) for row in new}
    kept = [row for row in kept if tuple(row.get(name, '') for name in KEY) not in replaced]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows([*kept, *new])
    write_text(path, text.getvalue())
