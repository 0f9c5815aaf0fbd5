"""Follow a checkpoint's pickle without running it: what it calls, with which arguments, over which storages.

A pickle is a program. ``torch.load(weights_only=True)`` runs it against an allow-list, which alone is not enough here:
the list is wider than a state dict needs (constructors that allocate any size, sparse, nested and quantised tensors),
any package can widen it for the whole process, a call's arguments are not looked at, and the interpreter itself had
memory errors (CVE-2026-24747, fixed in torch 2.10: items set on tensors, storages larger than their data). So every
pickle is first followed here on stand-ins, and only a program that consists of the few steps below reaches torch.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ['NUMPY_DTYPES', 'NUMPY_SCALARS', 'PickleError', 'Storage', 'follow']

NUMPY_DTYPES = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')
NUMPY_SCALARS = ('numpy.core.multiarray scalar', 'numpy._core.multiarray scalar')  # as NumPy 1 and NumPy 2 write it

_ITEM_SIZES = {
    'torch DoubleStorage': 8,
    'torch FloatStorage': 4,
    'torch HalfStorage': 2,
    'torch BFloat16Storage': 2,
    'torch LongStorage': 8,
    'torch IntStorage': 4,
    'torch ShortStorage': 2,
    'torch CharStorage': 1,
    'torch ByteStorage': 1,
    'torch BoolStorage': 1,
}


class PickleError(ValueError):
    """The pickle is damaged, or it does something that reading weights does not need; the message says what."""


@dataclass(frozen=True)
class Storage:
    """The memory behind tensors, as the pickle declares it."""

    key: str
    kind: str  # global that names the type of its elements
    numel: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return _ITEM_SIZES[self.kind] * self.numel


@dataclass(frozen=True)
class _Name:
    """A global, as 'module name'; it is never imported."""

    text: str


@dataclass(frozen=True)
class _Dtype:
    """A NumPy dtype of a number."""

    itemsize: int  # bytes


@dataclass(frozen=True)
class _Result:
    """What an allowed call would return."""

    kind: str


def follow(stream: io.BytesIO, *, legacy: bool = False) -> tuple[Any, dict[str, Storage]]:
    """Follow one pickle from the stream's position to its end.

    Args:
        stream: In memory, because a length in the pickle may claim any number of bytes.
        legacy: Whether storages are declared as in files older than torch 1.6.

    Returns:
        The result, in which containers, numbers and text are real and everything else is a stand-in, and the storages
        by key.

    Raises:
        PickleError: If the pickle is damaged or contains any other step than those of a state dict.
    """
    try:
        return _follow(stream, legacy)
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError) as error:  # bytes that end early, an empty stack, a missing argument
        raise PickleError(f'its pickle is damaged ({str(error)[:200]})') from error


def _follow(stream: io.BytesIO, legacy: bool) -> tuple[Any, dict[str, Storage]]:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under the open marks
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case 'BINUNICODE' | 'BININT' | 'BININT1' | 'BININT2' | 'BINFLOAT' | 'LONG1':
                stack.append(argument)
            case 'NONE' | 'NEWTRUE' | 'NEWFALSE':
                stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[opcode.name])
            case 'EMPTY_TUPLE':
                stack.append(())
            case 'EMPTY_LIST':
                stack.append([])
            case 'EMPTY_DICT':
                stack.append({})
            case 'MARK':
                below.append(stack)
                stack = []
            case 'TUPLE':
                items, stack = tuple(stack), below.pop()
                stack.append(items)
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                items = tuple(stack.pop() for _ in range(int(opcode.name[-1])))[::-1]
                stack.append(items)
            case 'BINPUT' | 'LONG_BINPUT':
                memo[argument] = stack[-1]
            case 'BINGET' | 'LONG_BINGET':
                stack.append(memo[argument])
            case 'APPEND':
                item = stack.pop()
                _check_list(stack[-1]).append(item)
            case 'APPENDS':
                appended, stack = stack, below.pop()
                _check_list(stack[-1]).extend(appended)
            case 'SETITEM':
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case 'SETITEMS':
                pairs, stack = stack, below.pop()
                _set_items(stack[-1], pairs)
            case 'GLOBAL':
                stack.append(_check_name(argument))
            case 'REDUCE':
                arguments, callee = stack.pop(), stack.pop()
                if not (isinstance(callee, _Name) and callee.text in _CALLS and type(arguments) is tuple):
                    raise PickleError(f'its pickle calls {_short(callee)}, which is not a function known here')
                stack.append(_CALLS[callee.text](*arguments))
            case 'BUILD':
                state = stack.pop()
                _check_state(stack[-1], state)
            case 'BINPERSID':
                storage = _storage(stack.pop(), legacy)
                if storages.setdefault(storage.key, storage) != storage:
                    raise PickleError(f'its pickle declares storage {_short(storage.key)} twice, differently')
                stack.append(storage)
            case 'PROTO':
                if argument != 2:
                    raise PickleError(f'its pickle has protocol {argument}; torch.save writes 2 unless told otherwise')
            case 'STOP':
                return stack.pop(), storages
            case _:
                raise PickleError(f'its pickle has the instruction {opcode.name}, which torch.save does not write')
    raise PickleError('its pickle has no end')


def _short(value: object) -> str:
    """A value of the file in a message: one line, not too long; not a container's content, which may have no end."""
    if isinstance(value, _Name):
        return repr(value.text[:80].replace(' ', '.'))
    if type(value) is tuple and all(type(item) is int for item in value):
        return repr(value[:8])
    if isinstance(value, (str, bytes)):
        return repr(value[:80])
    return repr(value) if isinstance(value, (int, float)) else f'a {type(value).__name__.strip("_")}'


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise PickleError(f'its pickle appends to {_short(value)}, which is not a list')
    return value


def _set_items(target: Any, pairs: list[Any]) -> None:
    if type(target) not in (dict, OrderedDict):
        raise PickleError(f'its pickle sets items of {_short(target)}, which is not a dictionary')
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Not tuples: hashing one that holds another twice, which holds a third twice, and so on, never ends.
        if not isinstance(key, (str, int)):
            raise PickleError(f'its pickle has a dictionary key that is neither text nor an integer: {_short(key)}')
        target[key] = value


def _check_name(text: str) -> _Name:
    if text not in _CALLS and text not in _ITEM_SIZES:
        raise PickleError(
            f'reading it would use {_short(_Name(text))}, which is not among the harmless names that weights need. '
            'If you trust where the file comes from, load it once with torch.load(..., weights_only=False) on a '
            'machine where it may run any code, save its state_dict alone with torch.save, and use that file'
        )
    return _Name(text)


def _check_state(target: Any, state: Any) -> None:
    if isinstance(target, _Dtype):
        # Version, byte order, no sub-array, no names, no fields, sizes of the dtype, no flags.
        ordinary = type(state) is tuple and len(state) == 8 and state[0] == 3 and state[1] in ('<', '>', '|', '=')
        if not (ordinary and state[2:] == (None, None, None, -1, -1, 0)):
            raise PickleError('its pickle alters a NumPy dtype')
    # torch stores the version of each module in this attribute of a state dict.
    elif not (type(target) is OrderedDict and type(state) is dict and state.keys() == {'_metadata'}):
        raise PickleError(f'its pickle sets attributes of {_short(target)}')


def _storage(identity: Any, legacy: bool) -> Storage:
    match identity:
        case ('storage', _Name(text), str(key), str(), numel, *view) if text in _ITEM_SIZES and _is_count(numel):
            if view == ([None] if legacy else []):
                return Storage(key, text, numel)
    raise PickleError(f'its pickle refers to a storage in an unknown way: {_short(identity)}')


def _ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _counter(counts: Any) -> dict[Any, Any]:
    if type(counts) is not dict:
        raise PickleError('its pickle makes a Counter of something else than a dictionary')
    return dict(counts)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> _Result:
    shapes = (size, stride)
    if not (isinstance(storage, Storage) and all(type(shape) is tuple for shape in shapes)):
        raise PickleError('its pickle builds a tensor from something else than a storage, a size and a stride')
    if len(size) != len(stride) or not all(map(_is_count, (offset, *size, *stride))):
        raise PickleError(f'its pickle builds a tensor of size {_short(size)}, stride {_short(stride)}')
    numel = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if numel else 0
    if max(numel, end) > storage.numel or math.prod(n or 1 for n in size) >= 2**63:
        raise PickleError(
            f'its tensor of size {_short(size)}, stride {_short(stride)} and offset {offset} '
            f'does not fit its storage of {storage.numel} elements'
        )
    _check_grad(requires_grad, hooks)
    return _Result('tensor')


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> _Result:
    if data != _Result('tensor'):
        raise PickleError('its pickle makes a parameter of something else than a tensor')
    _check_grad(requires_grad, hooks)
    return _Result('tensor')


def _check_grad(requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or type(hooks) is not OrderedDict or hooks:
        raise PickleError('its pickle attaches something to a tensor')


def _size(lengths: Any) -> _Result:
    if type(lengths) is not tuple or not all(map(_is_count, lengths)):
        raise PickleError(f'its pickle has a size of {_short(lengths)}')
    return _Result('size')


def _bytes(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != 'latin1':
        raise PickleError(f'its pickle encodes {_short(text)} as {_short(encoding)}')
    return text.encode('latin1')


def _dtype(code: Any, align: Any, copy: Any) -> _Dtype:
    # copy=True, or the state that follows would be set on the dtype that the whole process shares.
    if code not in NUMPY_DTYPES or align or copy not in (True, 1):
        raise PickleError(f'its pickle has the NumPy dtype {_short(code)}, which is not that of a plain number')
    return _Dtype(int(code[1:]))


def _scalar(dtype: Any, data: Any) -> _Result:
    if not isinstance(dtype, _Dtype) or type(data) is not bytes or len(data) != dtype.itemsize:
        raise PickleError('its pickle has a NumPy number whose bytes do not fit its dtype')
    return _Result('number')


# Every function that a checkpoint may call, and nothing more: an optimizer's and a scheduler's state need no other.
_CALLS: dict[str, Callable[..., Any]] = {
    'collections OrderedDict': _ordered_dict,
    'collections Counter': _counter,
    'torch._utils _rebuild_tensor_v2': _tensor,
    'torch._utils _rebuild_parameter': _parameter,
    'torch Size': _size,
    '_codecs encode': _bytes,
    'numpy dtype': _dtype,
    **dict.fromkeys(NUMPY_SCALARS, _scalar),
}
