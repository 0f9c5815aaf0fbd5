"""Errors that a configuration or the data cause inside the OpenMMLab packages, in one line.

What is not known to be a user's mistake keeps its traceback: it may be a bug.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import FrameType
from typing import Any

from pinas_models.common.images import MAX_PIXELS
from pinas_models.common.text import nearest

__all__ = ['explaining', 'known_names']

# Texts of errors, and what they mean.
_MEANINGS = {
    r'need at least one array to concatenate': (
        'a dataset is empty: no image is left after its filter_cfg and indices, or none was found'
    ),
    r'Expected more than 1 value per channel when training': (
        'a batch of one image: BN cannot learn from that; set train_dataloader.batch_size to 2 or more, and '
        'drop_last=True in the dataloader or its batch_sampler'
    ),
    r'failed to load image: (?P<file>.*)': '{file}: cannot be read as an image',
    r'pixels <= CV_IO_MAX_IMAGE_PIXELS': f'an image has more than {MAX_PIXELS:,} pixels',
    r"No such file or directory: '(?P<file>[^']*)'": '{file}: no such file',
}
_UNKNOWN_OPTION = re.compile(r"(?P<callee>[\w.]+)\(\) got an unexpected keyword argument '(?P<name>\w+)'")
_MISSING_OPTION = re.compile(r'[\w.]+\(\) missing \d+ required')
_RUNNER = 'mmengine.runner.runner'
_OURS = ('pinas_downstream', 'pinas_models')
_THEIRS = ('mmcv', 'mmdet', 'mmengine', 'mmseg', 'torch')


@contextmanager
def explaining() -> Iterator[None]:
    """Turn the user's mistakes among the errors inside into ``ValueError`` with one line.

    Raises:
        OSError: If there was one.
        ValueError: For any other mistake of the user.
        RuntimeError: For a ``ValueError`` that is none, so that nobody takes it for one.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and '\n' not in str(error):
            raise
        text = _explain(error)  # also of a worker process's OSError, whose text has its traceback
        if text is not None:
            raise ValueError(text) from error
        if isinstance(error, ValueError):
            raise RuntimeError(f'unexpected {type(error).__name__}: {error}') from error
        raise


def _explain(error: Exception) -> str | None:
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    text = str(error.args[0]) if error.args else ''
    if 'in DataLoader worker process' in text:  # then comes the traceback there, whose source lines are no messages
        text = text.strip().splitlines()[-1]
    for pattern, meaning in _MEANINGS.items():
        match = re.search(pattern, text)
        if match:
            return meaning.format(**match.groupdict())
    inner = _module(frames[-1])
    if inner == _RUNNER and isinstance(error, (RuntimeError, TypeError)):
        return _unknown_option(error, None) or text  # what the Runner misses, or a dataloader does not know
    for frame in frames:  # an optimizer is looked up, not found, and used all the same
        in_constructor = _module(frame) == 'mmengine.optim.optimizer.default_constructor'
        if in_constructor and frame.f_locals.get('optimizer_cls', 0) is None:
            return f'there is no optimizer of type {frame.f_locals["optimizer_cfg"]["type"]!r}'
    building = [frame for frame in frames if frame.f_code.co_name == 'build_from_cfg']
    if building:
        return _explain_building(error, text, building[-1], frames[-1])
    preparing = any(_module(frame) == _RUNNER and frame.f_code.co_name.startswith('build_') for frame in frames)
    if isinstance(error, ValueError) and (preparing or inner.split('.')[0] in (*_OURS, 'mmengine')):
        return text
    return None


def _explain_building(error: Exception, text: str, builder: FrameType, inner: FrameType) -> str | None:
    """What is wrong with the settings of an object.

    Args:
        error: Raised while mmengine built it.
        text: Its text.
        builder: mmengine's function that builds from a dict.
        inner: Where it was raised.
    """
    local = builder.f_locals
    kind = local.get('obj_type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', None)
    if name is None:  # no dict, or one without a proper type
        return text if isinstance(error, (KeyError, TypeError, AssertionError)) else None
    if isinstance(error, KeyError) and inner is builder:
        registry = local['registry']
        return f'there is no {registry.name} of type {name!r}{nearest(name, known_names(registry))}'
    if isinstance(error, TypeError):
        if _module(inner).split('.')[0] in _OURS or _MISSING_OPTION.match(text):
            return f'{name}: {text}'
        unknown = _unknown_option(error, local.get('obj_cls'), name)
        if unknown:
            return unknown
    if isinstance(error, (TypeError, AttributeError, LookupError)) and _module(inner).split('.')[0] in _THEIRS:
        return f'the settings of {name} do not fit: {type(error).__name__}: {text}'
    if isinstance(error, AssertionError):
        line = linecache.getline(inner.f_code.co_filename, inner.f_lineno).strip()
        return f'the settings of {name} do not fit: {text or line}'
    if isinstance(error, ValueError):
        return text if _module(inner).split('.')[0] in _OURS else f'{name}: {text}'
    return None


def _unknown_option(error: Exception, cls: Any, name: str = '') -> str | None:
    match = _UNKNOWN_OPTION.match(str(error))
    if not match:
        return None
    known = inspect.signature(cls).parameters if cls is not None else ()
    name = name or match['callee'].removesuffix('.__init__')
    return f'{name} has no option {match["name"]}{nearest(match["name"], known)}'


def known_names(registry: Any) -> list[str]:
    """What is registered in a registry, those above it, and those below the topmost."""
    top = registry
    while top.parent is not None:
        top = top.parent
    return [name for part in (top, *top.children.values()) for name in part.module_dict]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get('__name__', ''))
