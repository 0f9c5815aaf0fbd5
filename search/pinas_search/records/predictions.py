"""Scores of networks as a table that grows while they are scored."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..scoring.tables import Table, read_table
from .rundir import drop_half_line

__all__ = ['Predictions']

KEY = 'arch'


class Predictions:
    """A CSV file with the columns ``arch``, ``score`` and further figures; a kill loses the rows under evaluation."""

    def __init__(self, file: Path) -> None:
        """Open the table, which need not exist yet.

        Raises:
            ValueError: If it is damaged; names the line.
        """
        self.file = file
        drop_half_line(file)
        self._known: set[str] = set()
        self._columns: tuple[str, ...] = ()
        if file.exists() and file.stat().st_size:
            with file.open(encoding='utf-8', newline='') as stream:
                rows = list(csv.reader(stream))
            self._columns = tuple(rows[0])
            self._known = set(self.table().keys) if len(rows) > 1 else set()

    def __contains__(self, arch: object) -> bool:
        return arch in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
        """Append networks and their figures, and wait until they are on the disk.

        Raises:
            ValueError: If the figures are others than those of the rows before.
        """
        columns = (KEY, *rows[0][1])
        if self._columns not in ((), columns):
            raise ValueError(
                f'{self.file} has the columns {", ".join(self._columns)}, the scores now are {", ".join(columns)}: '
                'delete it to score anew'
            )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open('a', encoding='utf-8', newline='') as stream:
            writer = csv.writer(stream, lineterminator='\n')
            if not self._columns:
                writer.writerow(columns)
            writer.writerows([arch, *map(repr, map(float, figures.values()))] for arch, figures in rows)
            stream.flush()
            os.fsync(stream.fileno())
        self._columns = columns
        self._known |= {arch for arch, _ in rows}

    def table(self) -> Table:
        """The rows so far.

        Raises:
            ValueError: If the file is damaged; names the line.
        """
        try:
            return read_table(self.file, KEY)
        except ValueError as error:
            raise ValueError(f'{error}; delete the line, or the file to score anew') from error
