"""Tables of networks: CSV files with a column that names the network and columns of numbers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ['Joined', 'Table', 'join', 'read_table', 'unmatched']

_NAMED = 3  # networks without a partner that are named


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        path: The file.
        keys: The network of each row.
        lines: Line of the file that each row ends on, from 1.
        cells: Column name -> text of each row.
        checksum: SHA-256 of the file, unpacked, in hex.
    """

    path: Path
    keys: tuple[str, ...]
    lines: tuple[int, ...]
    cells: dict[str, list[str]]
    checksum: str

    def numbers(self, column: str) -> np.ndarray:
        """The numbers of a column, [N].

        Raises:
            ValueError: If there is no such column, or something in it is no finite number; names the line.
        """
        if column not in self.cells:
            raise ValueError(f'{self.path} has no column {column!r}; its columns are {", ".join(self.cells)}')
        values = np.empty(len(self.keys))
        for row, (text, line) in enumerate(zip(self.cells[column], self.lines, strict=True)):
            try:
                values[row] = float(text)
            except ValueError:
                values[row] = math.nan
            if not math.isfinite(values[row]):
                raise ValueError(f'{self.path}, line {line}: {column} is {text!r}, a finite number is expected')
        return values


@dataclass(frozen=True)
class Joined:
    """The networks that two tables share.

    Attributes:
        keys: The networks, in the order of the second table.
        left: Row of each in the first table, [N].
        right: Row of each in the second table, [N].
        only_left: Networks of the first table that the second lacks.
        only_right: Networks of the second table that the first lacks.
    """

    keys: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]


def read_table(path: Path, key: str, normalize: Callable[[str], str] | None = None) -> Table:
    """Read a CSV file with a header; ``.gz`` is unpacked.

    Args:
        path: The file.
        key: The column that names the network.
        normalize: Makes one name of all spellings of a network; raises ``ValueError`` for what is none.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is no such table, names no network or one twice; gives the line.
    """
    content = _read(path)
    try:
        reader = csv.reader(io.StringIO(content.decode('utf-8-sig'), newline=''), strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise ValueError(f'{path}, line 1: the column {twice!r} is there twice')
        if key not in header:
            raise ValueError(f'{path} has no column {key!r}; its first line is {", ".join(header)[:200] or "empty"}')
        rows, lines = [], []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f'{path}, line {reader.line_num}: {len(row)} fields, the first line has {len(header)} columns'
                )
            rows.append(row)
            lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path} is no CSV file: {error}') from error
    if not rows:
        raise ValueError(f'{path} has no rows')
    cells = {name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}
    keys: dict[str, int] = {}
    for text, line in zip(cells[key], lines, strict=True):
        try:
            name = text if normalize is None else normalize(text)
        except ValueError as error:
            raise ValueError(f'{path}, line {line}: {error}') from error
        if name in keys:
            raise ValueError(f'{path}, line {line}: {text!r} is in line {keys[name]} already')
        keys[name] = line
    return Table(path, tuple(keys), tuple(lines), cells, hashlib.sha256(content).hexdigest())


def join(left: tuple[str, ...], right: tuple[str, ...]) -> Joined:
    """Find the networks that two lists of different networks share, in the order of the second."""
    rows = {key: row for row, key in enumerate(left)}
    shared = [(rows[key], row) for row, key in enumerate(right) if key in rows]
    pairs = np.array(shared, dtype=np.int64).reshape(-1, 2)
    known = set(right)
    return Joined(
        keys=tuple(right[row] for _, row in shared),
        left=pairs[:, 0],
        right=pairs[:, 1],
        only_left=tuple(key for key in left if key not in known),
        only_right=tuple(key for key in right if key not in rows),
    )


def unmatched(keys: tuple[str, ...]) -> str:
    """Count networks that have no partner, and name the first of them."""
    named = ', '.join(keys[:_NAMED])
    return f'{len(keys)}: {named}{", ..." if len(keys) > _NAMED else ""}' if keys else '0'


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing' if not path.exists() else f'{path} is no file')
    if path.suffix != '.gz':
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} cannot be unpacked: {error}') from error
