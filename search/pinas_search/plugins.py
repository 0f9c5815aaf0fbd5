"""From the name of a space, supernet, method, strategy or scorer to its module: ``Options`` and ``create``.

Built in or not, all are found alike: by a name of ``BUILTIN``, or as any importable module, a file in the working
directory included. ``NAME:VALUE`` sets the first option, ``optuna:TPESampler`` is ``optuna`` with that sampler.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Literal, get_type_hints

from pinas_models.common.text import nearest, one_line

from .config import parse_options

__all__ = ['BUILTIN', 'Kind', 'Plugin', 'find_plugin', 'options_of']

Kind = Literal['space', 'supernet', 'method', 'strategy', 'scorer']

# Key of the configuration -> name -> module of this package, perhaps with the value of its first option.
BUILTIN: Mapping[Kind, Mapping[str, str]] = {
    'space': {
        'mini': 'spaces.resnest:mini',
        'nasbench201': 'spaces.nasbench201',
        'resnest50': 'spaces.resnest:resnest50',
    },
    'supernet': {
        'nasbench201': 'supernets.nasbench201',
        'resnest': 'supernets.resnest',
        'resnest_masked': 'supernets.resnest_masked',
    },
    'method': {
        'dna': 'methods.dna',
        'fairnas': 'methods.fairnas',
        'fbnetv2': 'methods.fbnetv2',
        'gdas': 'methods.gdas',
        'nsas': 'methods.nsas',
        'pinas': 'methods.pinas',
        'proxylessnas': 'methods.proxylessnas',
        'spos': 'methods.spos',
        'tunas': 'methods.tunas',
        'wpl': 'methods.wpl',
    },
    'strategy': {
        'arch2vec': 'strategies.arch2vec',
        'evolution': 'strategies.evolution',
        'lanas': 'strategies.lanas',
        'optuna': 'strategies.optuna',
        'pinas': 'strategies.pinas',
        'random': 'strategies.random',
    },
    'scorer': {
        'accuracy': 'scoring.accuracy',
        'arch2vec': 'scoring.arch2vec',
        'cost': 'scoring.cost',
        'method': 'scoring.method',
    },
}
_KEYS: Mapping[Kind, str] = {
    'space': 'space',
    'supernet': 'learn.supernet',
    'method': 'learn.method',
    'strategy': 'search.strategy',
    'scorer': 'search.scorer',
}
_OPTION_KEYS: Mapping[Kind, str] = {
    'space': 'space_options',
    'supernet': 'learn.supernet_options',
    'method': 'learn.options',
    'strategy': 'search.options',
    'scorer': 'search.scorer_options',
}


@dataclass(frozen=True)
class Plugin:
    """A module and its options.

    Attributes:
        module: A module, or a class, that has ``Options`` and ``create``.
        options: An instance of its ``Options``.
    """

    module: Any
    options: Any

    @property
    def create(self) -> Callable[..., Any]:
        """What makes the thing; its arguments belong to the kind."""
        return self.module.create


def find_plugin(kind: Kind, name: str, options: Mapping[str, Any]) -> Plugin:
    """Import a module and read its options.

    Args:
        kind: What it is.
        name: Built-in name or importable module, perhaps with ``:VALUE`` behind.
        options: Names and values, as in the configuration.

    Raises:
        ValueError: If there is no such module, it is no plug-in, or an option is unknown or wrong.
    """
    short, _, value = name.partition(':')
    target, _, preset = BUILTIN[kind].get(short, '').partition(':')
    full_name = f'{__package__}.{target}' if target else short
    module = _resolve(kind, short, full_name)
    missing = [attribute for attribute in ('Options', 'create') if not hasattr(module, attribute)]
    if missing:
        raise ValueError(
            f'{_KEYS[kind]}: the module {module.__name__} lacks {" and ".join(missing)}, so it is no {kind}'
        )
    given = dict(options)
    for first in filter(None, (preset, value)):
        names = [f.name for f in fields(module.Options)]
        if not names:
            raise ValueError(f'{_KEYS[kind]} is {name!r}, but {short} has no option to take {first!r}')
        given = {names[0]: first, **given}
    return Plugin(module, parse_options(module.Options, given, _OPTION_KEYS[kind]))


def _resolve(kind: Kind, name: str, full_name: str) -> Any:
    """Import a module, or a class of one that has what a module would have."""
    known = BUILTIN[kind]
    if os.getcwd() not in sys.path:
        # Behind everything else, so that no file here takes the place of an installed module.
        sys.path.append(os.getcwd())
    try:
        return pkgutil.resolve_name(full_name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = nearest(name, known, 0.4) or '.'
        raise ValueError(
            f'{_KEYS[kind]} is {name!r}, which cannot be imported ({one_line(error)}){hint} '
            f'Built in are {", ".join(known)}; any importable module with Options and create works as well'
        ) from error


def options_of(function: Callable[..., Any]) -> type:
    """Make the class of options that a function spells out: a field for each parameter that has a default.

    So that switches, their types and defaults stand once, at the function that takes them.
    """
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    parameters = inspect.signature(function).parameters.values()
    rows = [(p.name, hints[p.name], field(default=p.default)) for p in parameters if p.default is not p.empty]
    return make_dataclass('Options', rows, frozen=True)
