"""Configuration files that come with a package, found by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from .text import nearest

__all__ = ['find_file', 'packaged_configs']


def packaged_configs(package: str, pattern: str) -> dict[str, Path]:
    """Name -> file of the configurations that come with a package.

    Args:
        package: Name of the package.
        pattern: Of the files, below its folder ``configs``.
    """
    folder = Path(str(files(package))) / 'configs'
    if not folder.is_dir():  # a development install: the folder lies beside the package instead of in it
        folder = folder.parents[1] / 'configs'
    return {path.stem: path for path in sorted(folder.glob(pattern))}


def find_file(name: str, packaged: Mapping[str, Path]) -> Path:
    """Resolve a path or the name of a configuration that comes with a package.

    Args:
        name: What a user has written.
        packaged: What ``packaged_configs`` returns.

    Raises:
        FileNotFoundError: If there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name not in packaged:
        raise FileNotFoundError(
            f'{name}: no such file, and no built-in configuration of this name{nearest(name, packaged, 0.5)} '
            f'(built in are {", ".join(packaged)})'
        )
    return packaged[name]
