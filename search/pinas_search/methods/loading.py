"""From the name of a method to the method: a module with ``Options`` and ``create``."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from pinas_models.common.text import nearest

from ..config import LearnConfig
from ..configuration import parse_options
from ..supernets import ResNeStSupernet
from .base import Method

__all__ = ['builtin_methods', 'create_method', 'load_method']

_NOT_METHODS = {'base', 'loading'}


def builtin_methods() -> list[str]:
    """Names of the methods that come with the package."""
    package = importlib.import_module(__package__)
    return [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _NOT_METHODS]


def load_method(name: str) -> ModuleType:
    """Import the module of a method.

    Args:
        name: A module of ``pinas_search.methods``, or the full name of any other importable module.

    Raises:
        ValueError: If there is no such module, or it is no method.
    """
    known = builtin_methods()
    full_name = f'{__package__}.{name}' if name in known else name
    try:
        module = importlib.import_module(full_name)
    except ImportError as error:
        raise ValueError(
            f'learn.method is {name!r}, which cannot be imported ({error}){nearest(name, known)} '
            f'Built in are {", ".join(known)}; any importable module with Options and create works as well'
        ) from error
    missing = [attribute for attribute in ('Options', 'create') if not hasattr(module, attribute)]
    if missing:
        raise ValueError(f'learn.method: the module {full_name} lacks {" and ".join(missing)}, so it is no method')
    return module


def create_method(config: LearnConfig, supernet: ResNeStSupernet, num_classes: int) -> Method:
    """Build the method that the configuration names.

    Args:
        config: Name and options.
        supernet: The supernet to train.
        num_classes: Classes of the data.

    Raises:
        ValueError: For an unknown method or option.
    """
    module = load_method(config.method)
    return module.create(supernet, parse_options(module.Options, config.options, 'learn.options'), num_classes)
