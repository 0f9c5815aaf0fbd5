"""Write converted weights to a file or a model folder, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf

from ..choices import VARIANTS, variant_name
from ..common.files import atomic_path
from ..common.text import one_line
from .convert import Conversion

__all__ = ['check_free', 'check_suffix', 'check_targets', 'sha256', 'write_file', 'write_folder']

_TORCH_SUFFIXES = ('.pth', '.pth.tar', '.pt')


def check_free(path: Path, force: bool) -> None:
    """Make sure that something can be written at a path; done before the work.

    Raises:
        FileExistsError: If it exists and ``force`` is not set.
        FileNotFoundError: If the folder it belongs into does not exist.
    """
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f'there is no folder {path.absolute().parent}')
    if not force and (path.exists() or path.is_symlink()):
        raise FileExistsError(f'{path} exists already; take another name or --force')


def check_targets(source: Path, target: Path, report: Path | None, force: bool) -> None:
    """Make sure that a conversion and its report can be written, and over nothing that is needed.

    Args:
        source: File to convert.
        target: File or folder to write.
        report: Another file to write.
        force: Replace what exists.

    Raises:
        OSError: See ``check_free``.
        ValueError: If two of them are the same file.
    """
    if report is not None and report.absolute() == target.absolute():
        raise ValueError(f'{target} cannot be OUT and --report at once')
    for path in filter(None, (target, report)):
        check_free(path, force)
        if path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f'{path} is the file to convert; write to another')


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_suffix(path: Path) -> None:
    """Make sure that the name of a file says its format.

    Raises:
        ValueError: If it does not.
    """
    if not path.name.endswith(('.safetensors', *_TORCH_SUFFIXES)):
        raise ValueError(f'{path}: the name must end with .safetensors, {", ".join(_TORCH_SUFFIXES)}, or be a --folder')


def write_file(
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    *,
    wrapper: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights to one file, in the format that its suffix names; an existing one is replaced.

    Args:
        tensors: Weights by name.
        path: A file ``.safetensors``, or ``.pth``, ``.pth.tar``, ``.pt`` for ``torch.save``.
        wrapper: Key to put the weights under in a file of ``torch.save``.
        metadata: Text to store in a safetensors file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the suffix names no format.
    """
    # A tensor of a checkpoint can be a view of a larger one, or share its memory with others.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    check_suffix(path)
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; a model folder is written with --folder')
    with atomic_path(path) as part:
        if path.suffix == '.safetensors':
            # As bytes, because safetensors' own files are readable by their owner only.
            data = safetensors.torch.save(tensors, {'format': 'pt', **(metadata or {})})
        else:
            stream = io.BytesIO()  # torch.save's own error for a full disk does not say so
            torch.save(tensors if wrapper is None else {wrapper: tensors}, stream)
            data = stream.getvalue()
        part.write_bytes(data)


def write_folder(conversion: Conversion, path: Path, name: str | None = None) -> None:
    """Write a model folder that ``timm.create_model('local-dir:FOLDER', pretrained=True)`` opens.

    An existing folder of that name is replaced.

    Args:
        conversion: The weights.
        path: The folder.
        name: Registered name, with a tag if the weights are the published ones; None finds the name by the path.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the weights are not those of ``name``.
    """
    name = name or variant_name(conversion.layers, conversion.choices)
    architecture, _, tag = name.partition('.')
    args: dict[str, object] = {'num_classes': conversion.num_classes}
    if VARIANTS[architecture].any_path:
        args['choices'] = list(conversion.choices)  # the name does not imply them
    # Without a tag nothing is known of the classes and of where the weights come from.
    overlay = {} if tag else {'tag': 'converted', 'label_names': None, 'origin_url': None, 'license': None}
    model = timm.create_model(name, in_chans=_in_chans(conversion), pretrained_cfg_overlay=overlay, **args)
    weights = {n: t.clone(memory_format=torch.contiguous_format) for n, t in conversion.state_dict.items()}
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f'the weights are not those of {name}: {one_line(error, 300)}') from error
    _check_replaceable(path)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f'.{path.name}.') as folder:
        new = Path(folder) / path.name
        new.mkdir()
        save_config_for_hf(model, str(new / 'config.json'), model_args=args)
        write_file(model.state_dict(), new / 'model.safetensors')
        if path.exists():
            os.replace(path, Path(folder) / 'old')
        os.replace(new, path)


def _check_replaceable(path: Path) -> None:
    """Make sure that replacing a folder loses nothing but a converted model."""
    if not path.exists():
        return
    if not path.is_dir():
        raise NotADirectoryError(f'{path} is a file, not a folder')
    others = sorted({file.name for file in path.iterdir()} - {'config.json', 'model.safetensors'})
    if others:
        raise FileExistsError(f'{path} holds more than a converted model ({", ".join(others[:3])}): remove it first')


def _in_chans(conversion: Conversion) -> int:
    return conversion.state_dict['conv1.0.weight'].shape[1]
