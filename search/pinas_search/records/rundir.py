"""The files of a run. Stages meet only here, so any of them can be rerun, resumed or moved to another machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from pinas_models.common.files import atomic_path, write_json, write_text
from pinas_models.common.text import first_line, one_line

__all__ = ['StageDir', 'done_record', 'drop_half_line', 'load_tensors', 'read_json', 'save_tensors']


def save_tensors(module: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors))  # safetensors' own error for a full disk is no OSError


def load_tensors(module: nn.Module, path: Path, stage: str) -> None:
    """Load what ``save_tensors`` wrote.

    Raises:
        FileNotFoundError: If the file is missing; names the stage that writes it.
        ValueError: If it does not fit the module or is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing: run the stage {stage} first (pinas-search {stage} ...)')
    try:
        module.load_state_dict(load_file(path))
    except Exception as error:  # safetensors raises its own error type for damaged files, torch RuntimeError for others
        raise ValueError(
            f'{path} cannot be loaded ({first_line(error)}): delete it and run the stage {stage} again'
        ) from error


def done_record(stage: str, seconds: float, device: torch.device, precision: str) -> dict[str, Any]:
    """What a finished stage says about itself: time, machine, versions, command."""
    names = ('torch', 'timm', 'optuna', 'numpy', 'pinas-models')
    return {
        'stage': stage,
        'seconds': round(seconds, 3),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'precision': precision,
        'threads': torch.get_num_threads(),
        'finished': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': ' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        'machine': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
        'versions': {'python': platform.python_version(), **{name: version(name) for name in names}},
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file is damaged; names it and says what to do.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is damaged ({one_line(error)}): delete it and run the stage again') from error
    if not isinstance(record, dict):
        raise ValueError(
            f'{path} must hold a JSON object, not a {type(record).__name__}: delete it and run the stage again'
        )
    return record


def drop_half_line(file: Path) -> None:
    """Remove what a kill left of a last line: appended to, it would become an unreadable line in the middle."""
    if not file.exists():
        return
    content = file.read_bytes()
    if content and not content.endswith(b'\n'):
        with file.open('r+b') as stream:
            stream.truncate(content.rfind(b'\n') + 1)


_NO_RESULTS = ('done.json', 'checkpoint.pt', 'metrics.jsonl')


class StageDir:
    """Folder of one stage (or of one network in the retraining): metrics, checkpoint, mark of completion."""

    def __init__(self, path: Path) -> None:
        """Open the folder, which need not exist yet."""
        self.path = path

    @property
    def done(self) -> dict[str, Any] | None:
        """The record of a finished stage, None before, and if a file is missing that it had written."""
        path = self.path / 'done.json'
        record = read_json(path) if path.exists() else None
        if record is None or any(not (self.path / name).exists() for name in record.get('files', [])):
            return None
        return record

    def finish(self, record: Mapping[str, Any]) -> None:
        """Mark the stage as finished and drop the checkpoint, which is of no use any more."""
        files = [f.name for f in self.path.glob('[!.]*') if f.is_file() and f.name not in _NO_RESULTS]
        results = sorted(name for name in files if not name.endswith(('.lock', '.tmp')))
        write_json(self.path / 'done.json', {**record, 'files': results})
        (self.path / 'checkpoint.pt').unlink(missing_ok=True)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state that the stage can go on from, atomically."""
        # Through a file of Python's, which reports a full disk as what it is; torch's own writer does not.
        with atomic_path(self.path / 'checkpoint.pt') as temporary, temporary.open('wb') as file:
            try:
                torch.save(dict(state), file)
            except RuntimeError as error:  # how torch ends its file after a write has failed
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the last checkpoint onto the CPU; None if there is none.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path / 'checkpoint.pt'
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises nearly anything for a damaged file
            raise ValueError(f'{path} is damaged: delete it to begin the stage anew') from error

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / 'metrics.jsonl').open('a', encoding='utf-8') as file:
            file.write(json.dumps(record) + '\n')

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the lines after ``last_step``, and a line that a kill left half written."""
        path = self.path / 'metrics.jsonl'
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                if json.loads(line)['step'] > last_step:
                    break
            except (json.JSONDecodeError, KeyError, TypeError):
                break
            kept.append(line + '\n')
        write_text(path, ''.join(kept))
