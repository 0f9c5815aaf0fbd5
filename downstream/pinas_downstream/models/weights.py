"""Weights of a backbone from wherever a config may say they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pinas_models.checkpoints import convert_checkpoint, load_checkpoint
from pinas_models.loading import open_model

__all__ = ['missing_file', 'read_backbone']

_SUFFIXES = ('.bin', '.pt', '.pth', '.safetensors', '.tar')


def read_backbone(
    checkpoint: str, choices: Sequence[int], layers: Sequence[int], prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """Read the weights of a backbone.

    Args:
        checkpoint: A file of our models or of the authors (classification, segmentation, detector, supernet); a URL or
            another scheme of mmengine; or a name that ``pinas_models.loading.open_model`` knows.
        choices: The path that they must be of, or that is taken out of a supernet.
        layers: Blocks per stage.
        prefix: What stands before the backbone's names in the checkpoint of a whole OpenMMLab model.

    Returns:
        The weights under our names.

    Raises:
        OSError: If the file or the weights cannot be had.
        ValueError: If they cannot be read, are not those of such a network, or are incomplete.
    """
    content = _content(checkpoint, prefix is not None)
    if prefix is not None:
        content = _part(content, checkpoint, prefix)
    try:
        return convert_checkpoint(content, choices, layers=layers).state_dict
    except ValueError as error:
        hint = '' if prefix is not None else "; the checkpoint of a whole OpenMMLab model needs prefix='backbone.'"
        raise ValueError(f'{checkpoint}: {error}{hint}') from error


def missing_file(checkpoint: object) -> bool:
    """Whether this names a file, not a URL or a model, and there is none."""
    if not isinstance(checkpoint, str) or '://' in checkpoint:
        return False
    path = Path(checkpoint).expanduser()
    return path.suffix in _SUFFIXES and not path.is_file()


def _content(checkpoint: str, of_openmmlab: bool) -> Any:
    if '://' in checkpoint:
        from mmengine.runner import CheckpointLoader

        return CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    path = Path(checkpoint).expanduser()
    if path.suffix in _SUFFIXES or path.is_file():
        if of_openmmlab:
            from ..patches.checkpoints import read

            return read(path, map_location='cpu')
        try:
            return load_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}; if it is the checkpoint of a Runner, add prefix='backbone.'") from error
    return open_model(checkpoint, pretrained=True, num_classes=0).state_dict()


def _part(content: Any, checkpoint: str, prefix: str) -> dict[str, torch.Tensor]:
    from ..patches.checkpoints import weights_of

    weights = weights_of(content)
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    part = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not part:
        raise ValueError(f'{checkpoint}: no name begins with {prefix!r}; the first are {", ".join([*weights][:3])}')
    return part
