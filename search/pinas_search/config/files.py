"""Reading, checking, comparing and writing a configuration; jsonargparse does the parsing and the types."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from pinas_models.common.configs import find_file, packaged_configs
from pinas_models.common.files import write_text
from pinas_models.common.text import nearest, one_line

from .. import STAGES
from .fields import Config

__all__ = [
    'Settings',
    'builtin_configs',
    'check_run_dir',
    'differences',
    'parse_config',
    'parse_options',
    'read_run_config',
    'read_yaml',
    'to_yaml',
    'write_config',
]

T = TypeVar('T')

# What a run may change without becoming another run: where it is executed.
_PLACE = ('device', 'threads', 'rank_timeout', 'compare_ranks', 'data.root', 'data.workers')

# Options belong to the name beside which they were written.
_OPTIONS_OF = {
    'space': 'space_options',
    'learn.supernet': 'learn.supernet_options',
    'learn.method': 'learn.options',
    'search.strategy': 'search.options',
    'search.scorer': 'search.scorer_options',
}

# Words for jsonargparse's conditions, less how large a number may be.
_BOUNDS = {'v>0': 'must be above 0', 'v>=0': 'must be 0 or more', 'v>=0 and v<=1': 'must lie in 0..1'}
_LIMIT = re.compile(r' and v<=(3e\+38|9223372036854775807)')
_MOST_VALUES = 100_000  # of a configuration; aliases of YAML can stand for more than fit into memory


class Settings(NamedTuple):
    """Settings that are no configuration file of their own.

    Attributes:
        where: Where they stand, for messages.
        values: Keys, dotted or nested, and values.
    """

    where: str
    values: Mapping[str, Any]


def builtin_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with the package."""
    return packaged_configs('pinas_search', '*.yaml')


def parse_config(sources: Sequence[str | Settings], overrides: Sequence[str]) -> Config:
    """Read a configuration.

    Args:
        sources: Files or names of built-in configurations, or settings; later ones win.
        overrides: ``key=value`` with dotted keys; values are YAML.

    Returns:
        The checked configuration.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: For an unknown key (names the nearest known one) or a wrong value.
    """
    arguments: list[str] = []
    names = {key: _flatten(asdict(Config())).get(key) for key in _OPTIONS_OF}

    def forget_options(given: Mapping[str, Any]) -> None:
        """Options of another strategy, method, ... than the one that is named now do not apply."""
        for key, options in _OPTIONS_OF.items():
            if key in given and given[key] != names[key]:
                names[key] = given[key]
                arguments.append(f'--{options}={{}}')

    for source in sources:
        if isinstance(source, Settings):
            content = _flatten(source.values)
            _check(content, source.where)
            forget_options(content)
            arguments += [
                f'--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}'
                for key, value in content.items()
            ]
            continue
        path = find_file(source, builtin_configs())
        content = _flatten(read_yaml(path))
        _check(content, str(path))
        forget_options(content)
        if content:
            arguments.append(f'--config={path}')
    given = {}
    for override in overrides:
        key, separator, value = override.partition('=')
        if not separator or not key:
            raise ValueError(f'{override!r} is no override: write key=value, for example learn.epochs=2')
        _check({key: _yaml_value(value)}, 'the command line')
        given[key] = value
    forget_options(given)
    arguments += [f'--{override}' for override in overrides]
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument('--config', action='config')
    parser.add_class_arguments(Config, None)
    values = _parse(parser, arguments)
    return _unbound(Config(**{field.name: values[field.name] for field in fields(Config)}))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty one.

    Raises:
        ValueError: If it is not one, or refers to its own parts without an end.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of the encoding, dates, numbers
        raise ValueError(f'{path} is not valid YAML: {one_line(error)}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold keys and values, not a {type(content).__name__}')
    if _count(content, {}) > _MOST_VALUES:
        raise ValueError(f'{path} stands for more than {_MOST_VALUES:,} values: an alias contains itself, or too much')
    return content


def _count(value: Any, known: dict[int, float]) -> float:
    """Values in a tree, aliases counted wherever they stand; infinitely many if one contains itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until it is counted
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def _yaml_value(text: str) -> Any:
    """The value of an override; the text itself where it is no YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def parse_options(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """Build the options of a method from a mapping.

    Args:
        cls: A dataclass.
        options: Field names and values.
        where: Dotted key of the mapping, for messages.

    Raises:
        ValueError: For an unknown key (names the nearest known one) or a wrong value.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            raise ValueError(
                f'unknown key {where}.{key}{nearest(key, known, 0.5)}; known are {", ".join(known) or "none"}'
            )
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(cls, where)
    values = _parse(parser, {where: dict(options)})
    for part in where.split('.'):
        values = values[part]
    return _unbound(values)


def write_config(config: Config, path: Path) -> None:
    """Write the fully resolved configuration as YAML."""
    write_text(path, to_yaml(config))


def to_yaml(config: Config) -> str:
    """The fully resolved configuration as YAML, which ``parse_config`` reads back."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def check_run_dir(config: Config, run_dir: Path) -> None:
    """Make sure that a run directory was made by this configuration; begin one if it is new.

    Settings of a stage that has not begun may change, and so may where the run is executed.

    Raises:
        ValueError: If another configuration made it; names the differences.
    """
    path = run_dir / 'config.yaml'
    if path.exists():
        # A setting that the file lacks is newer than the run, which did what its default does.
        before = _flatten(read_run_config(path))
        inside = {key[: dot.start()] for key in before for dot in re.finditer(r'\.', key)}
        defaults = _flatten(_plain(asdict(Config())))
        before |= {key: value for key, value in defaults.items() if key not in before and key not in inside}
        now = _flatten(_plain(asdict(config)))
        begun = {stage for stage in STAGES if (run_dir / stage).exists()}
        if 'truth' in begun and config.truth.trained_here:
            begun.add('retrain')  # its recipe
        waiting = tuple(f'{stage}.' for stage in STAGES if stage not in begun)
        differences = [
            f'{key}: {before.get(key)} there, {now.get(key)} here'
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key) and key not in _PLACE and not key.startswith(waiting)
            if not key.endswith('.checkpoint_seconds')
            # A search may be made longer, whether it has finished or not.
            if not (key == 'search.candidates' and now[key] > before.get(key, 0))
        ]
        if differences:
            raise ValueError(
                f'{run_dir} was made by another configuration ({"; ".join(differences)}): '
                'choose another --out, or delete the folders of the stages to run anew'
            )
    write_config(config, path)


def differences(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> value of the first and of the second configuration, where they differ; None where it has none."""
    first, second = (_flatten(_plain(asdict(c))) for c in (config, other))
    # An empty mapping of options is no setting beside those of the other one.
    return {
        key: (first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key) and {} not in (first.get(key), second.get(key))
    }


def read_run_config(path: Path) -> dict[str, Any]:
    """Read the configuration that a run has written.

    Raises:
        ValueError: If the file is damaged: all settings are written, ``retrain`` the last.
    """
    content = read_yaml(path)
    names = [field.name for field in fields(Config)]
    if not {names[0], names[-1]} <= content.keys():  # others may be newer than the run
        missing = [name for name in names if name not in content]
        raise ValueError(
            f'{path} is damaged, it lacks {", ".join(missing)}: delete it and give the command that began the run, '
            'with all its settings'
        )
    return content


def _parse(parser: ArgumentParser, arguments: list[str] | dict[str, Any]) -> Any:
    try:
        if isinstance(arguments, dict):
            return parser.instantiate(parser.parse_object(arguments))
        return parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        message = one_line(str(error).replace('Parser key ', ''))
        key = re.search(r'"([\w.]+)"', message)
        bound = re.search(r'(\S*) does not conform to restriction (v[^\n]*?)(?= - |$)', message)
        limit = _LIMIT.search(bound[2]) if bound else None
        words = _BOUNDS.get(_LIMIT.sub('', bound[2]).strip()) if bound else None
        if key and bound and words:
            most = f' and at most {limit[1]}' if limit else ''
            message = f'{key[1]} is {bound[1].removeprefix(":") or "no number"}; it {words}{most}'
        raise ValueError(f'wrong value: {message}') from error


class _Key(NamedTuple):
    """What may stand at a key: null, a mapping of settings, a mapping of anything."""

    nullable: bool
    section: bool
    free: bool


def _keys(cls: type, prefix: str = '') -> dict[str, _Key]:
    """Dotted keys of a configuration class."""
    hints, keys = get_type_hints(cls), {}
    for field in fields(cls):
        name, hint = f'{prefix}{field.name}', hints[field.name]
        nested = [t for t in (hint, *get_args(hint)) if is_dataclass(t)]
        keys[name] = _Key(type(None) in get_args(hint), bool(nested), get_origin(hint) is dict)
        for t in nested:
            keys |= _keys(t, f'{name}.')  # type: ignore[arg-type]
    return keys


def _check(content: Mapping[str, Any], where: str) -> None:
    """Refuse unknown keys, and what jsonargparse takes for settings that are not given, or stumbles over."""
    known = _keys(Config)
    for key, value in content.items():
        found = known.get(key)
        if found is None:
            if not any(rule.free and key.startswith(f'{name}.') for name, rule in known.items()):
                raise ValueError(f'unknown key {key} in {where}{nearest(key, known, 0.5)}')
        elif value is None and not found.nullable:
            raise ValueError(f'{key} is null in {where}: leave it out, or give it a value')
        elif found.section and value is not None and not isinstance(value, Mapping):
            raise ValueError(
                f'{key} is {str(value)[:80]!r} in {where}: it holds settings, such as {_first(known, key)}'
            )


def _first(known: Iterable[str], section: str) -> str:
    return next(name for name in known if name.startswith(f'{section}.'))


def _flatten(mapping: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unbound(value: Any) -> Any:
    """Numbers of jsonargparse's types with bounds as ordinary ones: YAML and checkpoints know no others."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _unbound(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, Mapping):
        return {key: _unbound(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_unbound(item) for item in value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
