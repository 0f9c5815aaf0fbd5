"""Reading the checkpoints of mmengine without executing anything from them, and without overlooking a missing weight.

A checkpoint of mmengine's Runner holds more than weights: the optimizer, and histories of losses as objects with NumPy
arrays. mmengine allows these to be read, among them the function ``getattr`` with which a file can reach and change
any module; and if a file asks for still more, onedl-mmengine executes it. Here ``getattr`` is one that gives the four
statistics of a history and nothing else, and what asks for more is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from pinas_models.checkpoints import audit
from pinas_models.common.text import first_names

__all__ = ['check_weights', 'innermost', 'load_weights', 'read', 'secure', 'weights_of']

_NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')
_STATISTICS = ('min', 'max', 'current', 'mean')


def read(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Read a checkpoint of mmengine, or any file of ``torch.save`` or safetensors that holds weights.

    Args:
        file: Path or binary file.
        map_location: See ``torch.load``.
        weights_only: Ignored, it is always so; mmengine's function of this place has the argument.

    Returns:
        The content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or asks for more than weights and the records of a Runner.
    """
    name = str(file) if isinstance(file, (str, Path)) else 'the checkpoint'
    if isinstance(file, (str, Path)):
        file = Path(file).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f'{file}: no such file')
    try:
        if isinstance(file, Path) and file.suffix == '.safetensors':
            tensors = safetensors.torch.load_file(file)
            moves = isinstance(map_location, (str, torch.device))
            return {key: value.to(map_location) if moves else value for key, value in tensors.items()}
        with _allowing_records():
            return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # torch's readers let pass whatever the bytes of a file cause
        raise ValueError(f'{name}: {_refusal(error)}') from error


def _refusal(error: Exception) -> str:
    return f'cannot be read as a checkpoint, nothing in it was executed ({_reason(error)})'


def _reason(error: Exception) -> str:
    """One line of an error of torch, without its advice to switch the protection off."""
    lines = str(error).rsplit('WeightsUnpickler error: ', 1)[-1].strip().splitlines()
    named = [line for line in lines if 'GLOBAL' in line] or lines or ['']  # what the pickle asks for
    text = named[0].split(' was not an allowed global')[0][:200]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _allowing_records() -> AbstractContextManager[None]:
    """Let torch read what a Runner stores beside the weights."""
    present = torch.serialization.get_safe_globals()  # leaving the context would remove what others have added
    return torch.serialization.safe_globals([entry for entry in _harmless() if entry not in present])


def _harmless() -> list[Any]:
    """What a Runner's checkpoint may name beyond tensors; a pair is an object and the name it stands for."""
    from mmengine.logging import HistoryBuffer

    array, scalar = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]
    # The same function in the two places that NumPy 1 and NumPy 2 write.
    pairs = [(array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')]
    pairs += [(scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')]
    dtypes = {type(np.dtype(code)) for code in _NUMBERS}
    return [*pairs, (_statistic, 'builtins.getattr'), HistoryBuffer, np.ndarray, np.dtype, slice, *dtypes]


def _statistic(owner: Any, name: Any) -> Any:
    """Stands for ``getattr`` in a pickle, which a history needs for its table of statistics."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise ValueError(f'its pickle asks for the attribute {str(name)[:80]!r} of {type(owner).__name__}')
    return getattr(HistoryBuffer, name)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a file on disk; in the place of mmengine's loader."""
    return read(filename, map_location)


def load_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True) -> Any:
    """Load a file on the Web; in the place of mmengine's loader, which its model zoos use as well."""
    with _allowing_records():
        try:
            return torch.hub.load_state_dict_from_url(url, model_dir, map_location, progress, weights_only=True)
        except UnpicklingError as error:
            raise ValueError(f'{url}: {_refusal(error)}') from error


def secure(module: ModuleType) -> None:
    """Replace the functions with which ``mmengine.runner.checkpoint`` reads files and accepts what is missing.

    Args:
        module: That module.
    """
    module.CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    module._safe_torch_load = read  # type: ignore[attr-defined]  # the other schemes
    module.load_url = load_url  # type: ignore[attr-defined]
    lenient = module.load_state_dict

    def load_state_dict(
        module: nn.Module, state_dict: Mapping[str, Any], strict: bool = False, logger: Any = None
    ) -> None:
        """Do as mmengine, which warns of what is missing or does not fit; but our backbone must be whole."""
        _check_backbone(module, state_dict)
        # Without a logger mmengine prints, which the commands keep out of the console.
        lenient(module, state_dict, strict, logger or 'current')

    module.load_state_dict = load_state_dict  # type: ignore[attr-defined]


def _check_backbone(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Refuse weights that do not fill our backbone; mmengine would log it and go on with random values."""
    backbone = sys.modules.get('pinas_downstream.models.backbone')  # if it is not there, there is no such model
    if backbone is None:
        return
    for prefix, part in innermost(model).named_modules():
        if not isinstance(part, backbone.PiNAS):
            continue
        expected = {f'{prefix}.{name}' if prefix else name: tensor for name, tensor in part.state_dict().items()}
        found = {name: state_dict[name] for name in expected if name in state_dict}
        faults = audit.compare(found, (((name,), tensor.shape) for name, tensor in expected.items()))
        if text := audit.describe({kind: faults[kind] for kind in (audit.MISSING, audit.WRONG_SHAPES)}):
            raise ValueError(
                f'the checkpoint does not fill the backbone: {text}; it has {first_names(state_dict)}. '
                "If it is for the backbone alone, name it there: init_cfg=dict(type='Pretrained', checkpoint=...), "
                "with prefix='backbone.' if it is the checkpoint of a whole model"
            )


def innermost(model: nn.Module) -> nn.Module:
    """The model inside wrappers for distribution and test-time augmentation, whose names checkpoints do not have."""
    from mmengine.model import BaseTTAModel, is_model_wrapper

    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module  # type: ignore[assignment]
    return model


def weights_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    """The weights in what ``read`` returns: a state dict, or a dict that holds one under ``state_dict``.

    Raises:
        ValueError: If there are none.
    """
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not (isinstance(state_dict, Mapping) and state_dict and all(torch.is_tensor(v) for v in state_dict.values())):
        found = first_names(checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ValueError(f'the checkpoint holds no state dict of an OpenMMLab model; it has {found}')
    return {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}


def load_weights(model: nn.Module, path: str | Path, content: Any = None) -> None:
    """Load all weights of a model, none missing, none left over, all of the right shape.

    mmengine's own ways (``load_from``, ``init_detector``, ``init_model``) are strict for our backbone, and warn of the
    rest, so that a model can be fine-tuned for other classes or with other heads.

    Args:
        model: Detector or segmentor.
        path: Checkpoint of a Runner, or converted weights.
        content: What ``read`` has returned for it; None to read it now.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or does not fit.
    """
    weights = weights_of(read(path, map_location='cpu') if content is None else content)
    check_weights(model, weights, path)
    model = innermost(model)
    model.load_state_dict({**model.state_dict(), **weights})


def check_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], name: object) -> None:
    """Compare weights with a model: none missing, none left over, all of the right shape.

    Args:
        model: Detector or segmentor.
        weights: See ``weights_of``.
        name: What the message calls them.

    Raises:
        ValueError: If they do not fit.
    """
    expected = innermost(model).state_dict()
    faults = audit.compare(weights, (((name,), tensor.shape) for name, tensor in expected.items()))
    # A model may hold whole numbers: they are no fault here.
    text = audit.describe({kind: found for kind, found in faults.items() if kind != audit.NO_WEIGHTS})
    if text:
        raise ValueError(f'{name}: does not fit the model: {text}')
