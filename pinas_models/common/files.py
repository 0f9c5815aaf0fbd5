"""Files that are whole or not there: a kill leaves the old one or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ['atomic_path', 'write_json', 'write_text']


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file to write to; at the end it becomes the file, on the disk before in name.

    The folder is made. After an error nothing is left of what was written, and an old file is as it was.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        # The system does not say where a disk is full.
        if error.filename is None or str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == 'posix':  # elsewhere a folder cannot be opened
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically; line ends stay as they are.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8', newline='')


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON, atomically.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + '\n')


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
