"""The configurations that come with the package, and reading any configuration of mmdet or mmseg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pinas_models.common.configs import find_file, packaged_configs

from .options import apply_options

__all__ = ['builtin_configs', 'find_config', 'load_config', 'move_data_root']


def builtin_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    return packaged_configs('pinas_downstream', 'mm*/*.py')


def find_config(name: str) -> Path:
    """Resolve a file or the name of a built-in configuration.

    Raises:
        FileNotFoundError: If there is neither.
    """
    return find_file(name, builtin_configs())


def load_config(name: str, options: Mapping[str, Any] | None = None, data_root: str | None = None) -> Config:
    """Read a configuration.

    Args:
        name: File, or name of a built-in configuration.
        options: Settings to change, dotted key -> value, as from ``--cfg-options``.
        data_root: Folder of the data; replaces the configuration's own ``data_root`` wherever it stands.

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If it cannot be read, an option names a setting that no configuration has, or it has no
            ``data_root`` to replace.
    """
    path = find_config(name)
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a configuration is Python code: whatever it raises is its author's to mend
        raise ValueError(f'{path}: cannot be read: {type(error).__name__}: {error}') from error
    if data_root is not None:
        move_data_root(config, data_root)
    if options:
        apply_options(config, options)
    return config


def move_data_root(config: Config, data_root: str) -> None:
    """Replace the configuration's ``data_root`` in every path that begins with it.

    A changed variable alone does not reach the places where the file has already used it.

    Raises:
        ValueError: If the configuration has no ``data_root``.
    """
    old = config.get('data_root')
    if not isinstance(old, str) or not old:
        raise ValueError(
            'the configuration has no top-level data_root that --data-root could replace: name the folders by '
            '--cfg-options train_dataloader.dataset.data_root=... and so on'
        )
    new = data_root.rstrip('/') + '/' if old.endswith('/') else data_root

    def visit(value: Any) -> Any:
        if isinstance(value, str):
            return new + value.removeprefix(old) if value.startswith(old) else value
        if isinstance(value, dict):
            for key in value:
                value[key] = visit(value[key])
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(visit(item) for item in value)
        return value

    visit(config._cfg_dict)
