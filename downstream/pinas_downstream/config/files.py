"""The configurations that come with the package, and reading any configuration of mmdet or mmseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pinas_models.common.configs import find_file, packaged_configs

from .classes import complete_palettes, set_classes
from .options import apply_options

__all__ = ['builtin_configs', 'find_config', 'load_config', 'move_data_root']

# What each part of a configuration is, if it is there.
_KINDS: dict[str, tuple[type, ...]] = {
    **{f'{split}_dataloader': (dict,) for split in ('train', 'val', 'test')},
    **{f'{split}_cfg': (dict,) for split in ('train', 'val', 'test')},
    **{f'{split}_evaluator': (dict, list) for split in ('val', 'test')},
    'optim_wrapper': (dict,),
    'param_scheduler': (dict, list),
    'default_hooks': (dict,),
    'custom_hooks': (list,),
    'default_scope': (str,),
    'env_cfg': (dict,),
    'tta_model': (dict,),
    'tta_pipeline': (list,),
}


def builtin_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    return packaged_configs('pinas_downstream', 'mm*/*.py')


def find_config(name: str) -> Path:
    """Resolve a file or the name of a built-in configuration.

    Raises:
        FileNotFoundError: If there is neither.
    """
    return find_file(name, builtin_configs())


def load_config(
    name: str,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    classes: Sequence[str] | None = None,
) -> Config:
    """Read a configuration.

    Args:
        name: File, or name of a built-in configuration.
        options: Settings to change, dotted key -> value, as from ``--cfg-options``.
        data_root: Folder of the data; replaces the configuration's own ``data_root`` wherever it stands.
        classes: Names of the classes; replace the configuration's own in all data sets and heads.

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If it cannot be read or is no configuration of a model, an option names a setting that no
            configuration has, or it has no ``data_root`` to replace.
    """
    path = find_config(name)
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a configuration is Python code: whatever it raises is its author's to mend
        raise ValueError(f'{path}: cannot be read: {type(error).__name__}: {error}') from error
    _check_structure(config, 'the configuration has')
    if data_root is not None:
        move_data_root(config, data_root)
    if options:
        apply_options(config, options)
        _check_structure(config, '--cfg-options leave')
    if classes is not None:
        set_classes(config, classes)
    complete_palettes(config)
    return config


def _check_structure(config: Config, where: str) -> None:
    """Check that the parts of a configuration are what all code takes them for."""
    if not isinstance(config.get('model'), dict) or not config.model.get('type'):
        found = f'model = {config.model!r:.60}' if 'model' in config else 'no model'
        raise ValueError(f'{config.filename}: {where} {found}; it must be a dict with a type')
    faults = []
    for name, kinds in _KINDS.items():
        if config.get(name) is not None and not isinstance(config[name], kinds):
            words = ' or a '.join('text' if kind is str else kind.__name__ for kind in kinds)
            faults.append(f'{name} = {config[name]!r:.60}; it must be a {words}')
    for name in ('backbone', 'neck', 'decode_head'):
        part = config.model.get(name)
        if name in config.model and (part is not None or name == 'backbone') and not isinstance(part, (dict, list)):
            faults.append(f'model.{name} = {part!r:.60}; it must be a dict with a type')
    lists = {name: config.get(name) for name in ('param_scheduler', 'custom_hooks', 'val_evaluator', 'test_evaluator')}
    entries = [
        (name, key, entry)
        for name, value in lists.items()
        if isinstance(value, list)
        for key, entry in enumerate(value)
    ]
    entries += [
        ('default_hooks', key, hook) for key, hook in (config.get('default_hooks') or {}).items() if hook is not None
    ]
    for name, key, entry in entries:
        if not isinstance(entry, dict):
            faults.append(f'{name}.{key} = {entry!r:.60}; it must be a dict with a type')
    for split in ('train', 'val', 'test'):
        loader = config.get(f'{split}_dataloader')
        if isinstance(loader, dict) and not isinstance(loader.get('dataset'), dict):
            faults.append(f'{split}_dataloader.dataset = {loader.get("dataset")!r:.60}; it must be a dict with a type')
    if faults:
        raise ValueError(f'{config.filename}: {where} {"; and ".join(faults)}')


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
