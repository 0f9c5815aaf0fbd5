"""Read a checkpoint file without executing anything from it."""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch

from ..common.text import first_line

__all__ = ['load_checkpoint']

_LEGACY_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_ZIP_START = b'PK\x03\x04'
_LISTS = threading.Lock()  # torch has one list of harmless names for the process
_NOT_WEIGHTS = {  # first bytes of a file: what it is and what to do
    b'\x1f\x8b': 'a gzip archive; unpack it first',
    b'version https://git-lfs': 'a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    b'<!doctype html': 'a web page; the download was answered with a page instead of the file',
    b'<html': 'a web page; the download was answered with a page instead of the file',
    b'\x80': 'a Python pickle that torch.save did not write; only torch and safetensors files are read',
}
_NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')
_ASKED_FOR = re.compile(r'GLOBAL (.*?)(?: was not an allowed| whose module)', re.DOTALL)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint (``.pth``, ``.pth.tar``, ``.pt``, ``.bin``, ``.safetensors``; the content decides).

    Nothing in the file is executed: files of ``torch.save``, new and old (before torch 1.6), are read with
    ``torch.load(weights_only=True)``. Beside what torch takes for harmless (tensors of all types, dictionaries, lists,
    sets, text, numbers, ``torch.dtype``, ``torch.device``), they may hold NumPy numbers, as the authors' do, and
    ``argparse.Namespace``, as timm's training checkpoints do. What else the process has allowed torch to read is not
    read. The checksums of a zip are compared with its content.

    Args:
        path: File on disk.

    Returns:
        The file's dictionary: tensors on the CPU, plain Python containers, NumPy numbers as Python numbers, a namespace
        as a dictionary. What it contains is the file's own matter; ``convert_state_dict`` finds the weights in it.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be opened.
        ValueError: If it is no checkpoint, damaged, not a dictionary, or asks for anything beyond weights; then the
            message names what it asks for.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    if not path.is_file():
        raise ValueError(f'{path}: {"a folder" if path.is_dir() else "not a regular file"}; name a checkpoint file')
    with path.open('rb') as file:
        try:
            content = _read(file, os.fstat(file.fileno()).st_size)
            if not isinstance(content, dict):
                raise _RefusedError(f'it holds a {type(content).__name__}, not a dictionary of weights')
            return _plain(content, {})
        except _RefusedError as error:
            raise ValueError(f'{path}: {error}') from error
        # Whatever else a library raises, the bytes of the file caused it: zipfile, safetensors and torch's readers let
        # pass KeyError, TypeError, RuntimeError, MemoryError and more.
        except Exception as error:
            raise ValueError(f'{path}: {_explain(error)}') from error


class _RefusedError(ValueError):
    """The file is not one that is read; the message says why."""


def _explain(error: Exception) -> str:
    """One line of an error of torch, without its advice to switch the protection off."""
    text = str(error).rsplit('WeightsUnpickler error: ', 1)[-1]
    if isinstance(error, pickle.UnpicklingError) and (name := _ASKED_FOR.search(text)):
        return (
            f'reading it would use {name[1][:80]!r}, which is not among the harmless names that weights need; it was '
            'not read, and nothing in it was executed: ask whoever made it for the weights alone '
            '(torch.save(model.state_dict(), FILE), or safetensors)'
        )
    reason = first_line(text).partition('. Please use')[0][:200] if text.strip() else ''
    return f'cannot be read as a checkpoint ({type(error).__name__}{reason and ": "}{reason})'


def _read(file: BinaryIO, size: int) -> Any:
    head = file.read(512)
    file.seek(0)
    if head.startswith(_ZIP_START):
        _check_zip(file, size)
        return _torch_load(file)
    if head.startswith(_LEGACY_START):
        # In memory, because torch looks for a tar archive first in a file on disk and trusts its lengths.
        return _torch_load(io.BytesIO(file.read()))
    if head[8:9] == b'{':
        length = int.from_bytes(head[:8], 'little')
        if length > size - 8:
            raise _RefusedError(f'its safetensors header claims {length} bytes, but the file has only {size}')
        return safetensors.torch.load(file.read())
    if not head:
        raise _RefusedError('the file is empty')
    if head[257:262] == b'ustar':
        raise _RefusedError('a tar archive: unpack it first, or, if torch before 0.1.10 wrote it, save it again')
    kinds = (kind for start, kind in _NOT_WEIGHTS.items() if head.lstrip().lower().startswith(start))
    raise _RefusedError(next(kinds, 'neither a file of torch.save nor a safetensors file'))


def _torch_load(file: BinaryIO | io.BytesIO) -> Any:
    file.seek(0)
    with _harmless_names():
        return torch.load(file, map_location='cpu', weights_only=True, mmap=False)


@contextmanager
def _harmless_names() -> Iterator[None]:
    """Let torch read what checkpoints hold beside weights, and nothing that other packages have allowed.

    mmengine, for example, allows ``getattr`` for the whole process.
    """
    # The same function in the two places that NumPy 1 and NumPy 2 write.
    names: list[Any] = [(_number, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')]
    names += [(_Dtype, 'numpy.dtype'), (_Namespace, 'argparse.Namespace')]
    with _LISTS:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(names)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


class _Namespace:
    """Stands for ``argparse.Namespace``: holds its values and has none of its own attributes set."""

    values: dict[str, Any]

    def __new__(cls) -> _Namespace:  # a pickle makes objects without __init__
        namespace = super().__new__(cls)
        namespace.values = {}
        return namespace

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise _RefusedError('its argparse.Namespace does not hold a dictionary')
        self.values = state


class _Dtype:
    """Stands for ``numpy.dtype``, whose own state could be altered for the whole process; of plain numbers only."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if type(code) is not str or code not in _NUMBERS:
            raise _RefusedError(
                f'its pickle has the NumPy dtype {str(code)[:80]!r}, which is not that of a plain number'
            )
        self.code, self.order = code, '<'

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, no sub-array, no names, no fields, sizes of the dtype, no flags.
        ordinary = type(state) is tuple and len(state) == 8 and state[0] == 3 and state[1] in ('<', '>', '|', '=')
        if not (ordinary and state[2:] == (None, None, None, -1, -1, 0)):
            raise _RefusedError('its pickle alters a NumPy dtype')
        self.order = state[1]


def _number(dtype: Any, data: Any) -> bool | int | float:
    """Stands for the function of NumPy that makes a number of its bytes."""
    plain = np.dtype(dtype.order + dtype.code) if type(dtype) is _Dtype else None
    if plain is None or type(data) is not bytes or len(data) != plain.itemsize:
        raise _RefusedError('its pickle has a NumPy number whose bytes do not fit its dtype')
    return np.frombuffer(data, plain)[0].item()


def _check_zip(file: BinaryIO, size: int) -> None:
    """Compare the table of contents and the checksums of a file of torch >= 1.6 with its content.

    Raises:
        _RefusedError: If they differ, or the zip is another than torch.save writes.
        zipfile.BadZipFile: If a member is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        root = next((member.filename for member in members), '').split('/')[0]
        if f'{root}/constants.pkl' in names:
            raise _RefusedError('a TorchScript archive, which holds code; save the state_dict of the model instead')
        if f'{root}/data.pkl' not in names:
            raise _RefusedError('a zip archive, but not one that torch.save wrote')
        # torch ignores the case of names, and finds the table its own way if anything stands before or after the zip.
        unique = len({name.lower() for name in names}) == len(members)
        alone = not archive.comment and min(member.header_offset for member in members) == 0
        # Stored, not compressed, and together no larger than the file: what is read cannot outgrow it.
        stored = all(m.compress_type == zipfile.ZIP_STORED and m.compress_size == m.file_size for m in members)
        if not (unique and alone and stored and sum(member.file_size for member in members) <= size):
            raise _RefusedError('a zip archive whose table of contents is not as torch.save writes it')
        for member in members:
            if member.CRC:  # torch.save can be told to leave checksums out
                with archive.open(member) as content:  # zipfile compares at the end
                    while content.read(1 << 20):
                        pass


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Copy of containers as plain dict, list and tuple, namespaces as dict; tensors are not copied.

    Args:
        value: Part of a checkpoint.
        seen: Copies made so far by ``id``: a crafted file can refer to one part so often that copying each reference
            would never end, or to itself.
    """
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type != 'cpu' or value.is_nested or value.is_quantized:
            raise _RefusedError(
                f'it holds a tensor that is sparse, nested, quantised or empty of values ({value.layout})'
            )
        return value
    if isinstance(value, _Namespace):
        value = value.values
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        copy: Any = seen.setdefault(id(value), {})
        copy.update((key, _plain(item, seen)) for key, item in dict.items(value))  # its own: a file can set attributes
    elif isinstance(value, list):
        copy = seen.setdefault(id(value), [])
        copy.extend(_plain(item, seen) for item in value)
    else:
        copy = seen[id(value)] = tuple(_plain(item, seen) for item in value)
    return copy
