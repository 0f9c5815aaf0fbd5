"""Changing settings of a configuration from a command line.

mmengine takes any name and creates what it does not find: a mistyped setting would change nothing, without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config

from pinas_models.common.text import first_names, nearest

__all__ = ['apply_options']

# What mmengine's Runner and the commands read at the top; the other names there are variables of the file.
_SETTINGS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_hooks', 'data_preprocessor', 'default_hooks',
    'default_scope', 'efficient_conv_bn_eval', 'env_cfg', 'experiment_name', 'find_unused_parameters', 'launcher',
    'load_from', 'log_level', 'log_processor', 'model', 'model_wrapper_cfg', 'optim_wrapper', 'param_scheduler',
    'randomness', 'resume', 'runner_type', 'sync_bn', 'test_cfg', 'test_dataloader', 'test_evaluator', 'train_cfg',
    'train_dataloader', 'tta_model', 'tta_pipeline', 'val_cfg', 'val_dataloader', 'val_evaluator', 'visualizer',
    'work_dir',
}  # fmt: skip
_HINT = 0.6  # difflib's usual measure of likeness
_ALIKE = 0.85  # max_iter and max_iters, outchannels and out_channels; not out_channels and conv_out_channels


def apply_options(config: Config, options: Mapping[str, Any]) -> None:
    """Change settings.

    A new name is taken where a constructor or other code may know it, so in any dict that is there; and with all that
    hangs on it in the dict of a constructor (a dict with ``type``), which complains itself about what it does not know.

    Args:
        config: Changed in place.
        options: Dotted key -> value, as from ``--cfg-options``.

    Raises:
        ValueError: If the configuration has no such place, a name is much like one that is there, or changing it would
            have no effect.
    """
    faults = []
    for key, value in options.items():
        try:
            _check(config, key, value)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError('; '.join(faults))
    try:
        config.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f'--cfg-options {" ".join(options)}: does not fit the configuration: {error}') from error


def _check(config: Config, key: str, value: Any) -> None:
    parts = key.split('.')
    _check_top(config, parts[0])
    here: Any = config._cfg_dict
    for depth, name in enumerate(parts):
        place = '.'.join(parts[:depth])
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                raise ValueError(f'--cfg-options {key}: {place} is a list; name an entry, 0..{len(here) - 1}')
            here = here[int(name)]
        elif not isinstance(here, dict):
            raise ValueError(f'--cfg-options {key}: {place} is {here!r:.60}, which has no settings')
        elif name not in here:
            if depth:
                _check_new(here, key, place, name, last=depth == len(parts) - 1)
            return
        else:
            if here[name] is None and depth < len(parts) - 1:  # init_cfg=None gets its type and so on
                here[name] = {}
            here = here[name]
    if value is not None and _has_settings(here) and not _has_settings(value):
        raise ValueError(f'--cfg-options {key}: has settings of its own; change one of them, {key}.NAME=VALUE')


def _has_settings(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))


def _check_top(config: Config, name: str) -> None:
    if name in _SETTINGS:
        return
    if name not in config:
        raise ValueError(f'--cfg-options {name}: there is no such setting{nearest(name, _SETTINGS)}')
    if name == 'data_root':
        raise ValueError('--cfg-options data_root: would change the variable alone; write --data-root DIR')
    uses = [place for place in _places(config._cfg_dict, config[name]) if place.split('.')[0] in _SETTINGS]
    where = first_names(uses)
    raise ValueError(
        f'--cfg-options {name}: this is a variable of the file, which has used it already; change the settings '
        f'themselves{f", its value stands in {where}" if uses else ""}'
    )


def _check_new(here: Mapping[str, Any], key: str, place: str, name: str, last: bool) -> None:
    known_below = last or 'type' in here
    hint = nearest(name, here, _ALIKE if known_below else _HINT)
    if hint or not known_below:
        names = ', '.join(entry for entry in here if not entry.startswith('_')) or 'nothing'
        raise ValueError(f'--cfg-options {key}: {place} has no {name}{hint or f"; it has {names}"}')


def _places(here: Any, value: Any, place: str = '') -> Iterator[str]:
    """Dotted keys whose value is the given one."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(here, dict):
        children = here.items()
    elif isinstance(here, list):
        children = enumerate(here)
    for name, child in children:
        key = f'{place}.{name}' if place else str(name)
        if type(child) is type(value) and child == value:
            yield key
        else:
            yield from _places(child, value, key)
