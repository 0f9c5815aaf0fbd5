"""Read a checkpoint file without executing anything from it."""

from __future__ import annotations

import io
import os
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch

from .pickles import NUMPY_DTYPES, NUMPY_SCALARS, PickleError, follow

__all__ = ['load_checkpoint']

_LEGACY_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_ZIP_START = b'PK\x03\x04'
_ALLOW_LIST = threading.Lock()  # torch has one for the process: two threads would take their additions from each other
_NOT_WEIGHTS = {  # first bytes of a file: what it is and what to do
    b'\x1f\x8b': 'a gzip archive; unpack it first',
    b'version https://git-lfs': 'a Git LFS pointer, not the file it stands for; run "git lfs pull"',
    b'<!doctype html': 'a web page; the download was answered with a page instead of the file',
    b'<html': 'a web page; the download was answered with a page instead of the file',
    b'\x80': 'a Python pickle that torch.save did not write; only torch and safetensors files are read',
}


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint (``.pth``, ``.pth.tar``, ``.pt``, ``.bin``, ``.safetensors``; the content decides).

    Nothing in the file is executed. Files of ``torch.save``, new and old (before torch 1.6), may hold tensors,
    dictionaries, lists, tuples, text, numbers and NumPy numbers; their pickle is followed on stand-ins first
    (``pickles.py``) and then read with ``torch.load(weights_only=True)``. All sizes that the file declares are checked
    against the file before memory is reserved for them.

    Args:
        path: File on disk.

    Returns:
        The file's dictionary: tensors on the CPU, plain Python containers, NumPy numbers as Python numbers. What it
        contains is the file's own matter; ``convert_state_dict`` finds the weights in it.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be opened.
        ValueError: If it is no checkpoint, damaged, not a dictionary, or asks for anything beyond weights; then the
            message names the global and the way out.
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
                raise PickleError(f'it holds a {type(content).__name__}, not a dictionary of weights')
            return _plain(content, {})
        except PickleError as error:
            raise ValueError(f'{path}: {error}') from error
        # Whatever else a library raises, the bytes of the file caused it: zipfile, safetensors and torch's readers let
        # pass KeyError, TypeError, RuntimeError, MemoryError and more.
        except Exception as error:
            raise ValueError(f'{path}: cannot be read as a checkpoint ({_reason(error)})') from error


def _reason(error: Exception) -> str:
    """One line of an error of torch, without its advice to switch the protection off."""
    text = str(error).rsplit('WeightsUnpickler error: ', 1)[-1].strip()
    return f'{type(error).__name__}: {text.splitlines()[0][:200]}' if text else type(error).__name__


def _read(file: BinaryIO, size: int) -> Any:
    head = file.read(512)
    file.seek(0)
    if head.startswith(_ZIP_START):
        _check_zip(file, size)
        return _torch_load(file)
    if head.startswith(_LEGACY_START):
        # In memory, because torch looks for a tar archive first in a file on disk and trusts its lengths.
        data = io.BytesIO(file.read())
        _check_legacy(data, size)
        return _torch_load(data)
    if head[8:9] == b'{':
        length = int.from_bytes(head[:8], 'little')
        if length > size - 8:
            raise PickleError(f'its safetensors header claims {length} bytes, but the file has only {size}')
        return safetensors.torch.load(file.read())
    if not head:
        raise PickleError('the file is empty')
    if head[257:262] == b'ustar':
        raise PickleError('a tar archive: unpack it first, or, if torch before 0.1.10 wrote it, save it again')
    kinds = (kind for start, kind in _NOT_WEIGHTS.items() if head.lstrip().lower().startswith(start))
    raise PickleError(next(kinds, 'neither a file of torch.save nor a safetensors file'))


def _torch_load(file: BinaryIO) -> Any:
    """Read a file that was checked, with the NumPy numbers added to torch's allow-list for the time of the call."""
    scalar = np.float64().__reduce__()[0]
    allowed: list[Any] = [(scalar, name.replace(' ', '.')) for name in NUMPY_SCALARS]  # one function under two names
    allowed += [np.dtype, *{type(np.dtype(code)) for code in NUMPY_DTYPES}]
    file.seek(0)
    with _ALLOW_LIST:
        present = torch.serialization.get_safe_globals()  # leaving the context would remove what others have added
        with torch.serialization.safe_globals([entry for entry in allowed if entry not in present]):
            return torch.load(file, map_location='cpu', weights_only=True, mmap=False)


def _check_zip(file: BinaryIO, size: int) -> None:
    """Compare what a file of torch >= 1.6 declares with what it has.

    Raises:
        PickleError: If they differ or the pickle is refused.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # torch ignores the case of names, and finds the table its own way if anything stands before or after the zip.
        unique = len({name.lower() for name in members}) == len(archive.infolist())
        alone = not archive.comment and min((member.header_offset for member in members.values()), default=0) == 0
    root = next(iter(members), '').split('/')[0]
    if f'{root}/constants.pkl' in members:
        raise PickleError('a TorchScript archive, which holds code; save the state_dict of the model instead')
    if f'{root}/data.pkl' not in members:
        raise PickleError('a zip archive, but not one that torch.save wrote')
    # Stored, not compressed, and together no larger than the file: what is read cannot outgrow it.
    sizes = {name: member.file_size for name, member in members.items()}
    stored = all(m.compress_type == zipfile.ZIP_STORED and m.compress_size == m.file_size for m in members.values())
    if not (unique and alone and stored and sum(sizes.values()) <= size):
        raise PickleError('a zip archive whose table of contents is not as torch.save writes it')
    _, storages = follow(io.BytesIO(_member(file, members[f'{root}/data.pkl'])))
    for storage in storages.values():
        there = sizes.get(f'{root}/data/{storage.key}', 0)
        if storage.nbytes != there:
            raise PickleError(f'its storage {storage.key!r:.80} should have {storage.nbytes} bytes, but has {there}')


def _member(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a stored member; not by zipfile, which insists on checksums that torch.save can leave out."""
    file.seek(member.header_offset)
    header = file.read(30)
    names = int.from_bytes(header[26:28], 'little') + int.from_bytes(header[28:30], 'little')
    file.seek(member.header_offset + len(header) + names)
    return file.read(member.file_size)


def _check_legacy(data: io.BytesIO, size: int) -> None:
    """Compare what a file of torch < 1.6 declares with what it has: five pickles, then a count and bytes per storage.

    Raises:
        PickleError: If they differ or a pickle is refused.
    """
    for _ in ('magic number', 'protocol version', 'system'):
        follow(data)
    _, storages = follow(data, legacy=True)
    keys, _ = follow(data)
    # A storage that is not listed would never be filled and show whatever the memory held.
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise PickleError('its list of storages does not name those that its tensors use')
    expected = sum(8 + storage.nbytes for storage in storages.values())
    if expected != size - data.tell():
        raise PickleError(f'its storages should have {expected} bytes, but {size - data.tell()} are there')


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Copy of containers as plain dict, list and tuple, NumPy numbers as Python numbers; tensors are not copied.

    Args:
        value: Part of a checkpoint.
        seen: Copies made so far by ``id``: a crafted file can refer to one part so often that copying each reference
            would never end, or to itself.
    """
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        copy: Any = seen.setdefault(id(value), {})
        copy.update((key, _plain(item, seen)) for key, item in value.items())
    elif isinstance(value, list):
        copy = seen.setdefault(id(value), [])
        copy.extend(_plain(item, seen) for item in value)
    else:
        copy = seen[id(value)] = tuple(_plain(item, seen) for item in value)
    return copy
