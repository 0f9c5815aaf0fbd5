"""Open a model by name, from a folder, from the Hub or with a checkpoint file: what every command does first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import nn

from .checkpoints import convert_checkpoint, load_checkpoint
from .checkpoints.convert import unwrap
from .choices import VARIANTS
from .common.hub import explain_weights
from .common.text import nearest, one_line
from .pinas import PinasNet

__all__ = ['open_model', 'resolve_name']

# What torch raises for weights that do not fit or are damaged (timm as well, for an unknown name in a configuration).
_WRONG_WEIGHTS = (RuntimeError, SafetensorError, UnpicklingError)
_LONGEST = 400  # characters of a library's message


def open_model(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool | None = None,
    choices: str | Sequence[int] | None = None,
    num_classes: int | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Open a model for use.

    Args:
        name: A name of timm with or without a tag (``pinas_cls``, ``pinas_trans.coco``, ``resnet50``),
            ``local-dir:FOLDER``, a folder, or ``hf-hub:ORG/name``.
        checkpoint: File of weights to load instead of the name's own: ours, timm's or one of the authors'.
        pretrained: Load the weights that the name stands for. None: if it has some and there is no ``checkpoint``.
        choices: The path, for names that stand for many (``pinas_subnet``, ``pinas_mini``) and to take it out of a
            supernet's checkpoint; None takes the name's own, or that of the checkpoint.
        num_classes: Classes of the head; None takes those of the weights. Another number gives a fresh head.
        model_args: Further arguments of the model (``in_chans``, ``output_stride``, ``features_only``, ...).

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        OSError: If a file, a folder or the weights on the Hub are missing.
        ValueError: If there is no such model, or name, weights and arguments do not fit together.
    """
    if checkpoint is not None and pretrained:
        raise ValueError('give either pretrained or a checkpoint: both are weights of the same model')
    source = resolve_name(name)
    args = {**(model_args or {}), 'choices': choices, 'num_classes': num_classes}
    args = {key: value for key, value in args.items() if value is not None}
    if checkpoint is not None:
        return _open_with_checkpoint(source, Path(checkpoint), args).eval()
    if source.partition('.')[0] == 'pinas_subnet' and choices is None:
        raise ValueError('pinas_subnet stands for all networks of the space: choices must name one by 16 digits 0..3')
    has_weights = ':' in source or bool(timm.get_pretrained_cfg(source).has_weights)
    if pretrained and not has_weights:
        raise ValueError(
            f'no weights are published for {source}: give a checkpoint file, or local-dir:FOLDER or hf-hub:ORG/name'
        )
    return _create(source, pretrained=has_weights if pretrained is None else pretrained, **args).eval()


def resolve_name(name: str | Path) -> str:
    """Turn what a user types into a name that ``timm.create_model`` takes.

    Args:
        name: See ``open_model``.

    Raises:
        FileNotFoundError: If a folder is missing or holds no model.
        ValueError: If there is no such model; the message names the nearest ones.
    """
    text = str(name)
    scheme, colon, rest = text.partition(':')
    if colon and scheme in ('hf-hub', 'hf_hub'):
        if not rest:
            raise ValueError(f'{text} has no model id: write hf-hub:ORG/name')
        return f'hf-hub:{rest}'
    if colon and scheme == 'local-dir':
        return f'local-dir:{_model_folder(rest)}'
    architecture, dot, tag = text.partition('.')
    # A name of timm is never a folder, or what happens to lie in the working directory would change what it means.
    if isinstance(name, str) and timm.is_model(architecture):
        tags = [tagged.partition('.')[2] for tagged in timm.list_models(f'{architecture}.*', include_tags=True)]
        if dot and tag not in tags:
            raise ValueError(f'{architecture} has no tag {tag!r}; it has {", ".join(filter(None, tags)) or "none"}')
        return text
    if text and (isinstance(name, Path) or '/' in text or '\\' in text or Path(text).is_dir()):
        hint = f' (if it is a repository of the Hub, write hf-hub:{text})' if text.count('/') == 1 else ''
        return f'local-dir:{_model_folder(text, hint)}'
    hint = nearest(architecture, timm.list_models(), most=3)
    raise ValueError(
        f'there is no model {text!r}{hint} (pinas-models list shows the names; local-dir:FOLDER and hf-hub:ORG/name '
        'work as well)'
    )


def _model_folder(text: str, hint: str = '') -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}{hint}')
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{folder} is no model folder: it has no config.json (pinas-models convert --folder makes a model folder)'
        )
    return folder


def _check_config(folder: Path) -> None:
    """Make sure that timm finds in ``config.json`` what it looks for."""
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    except ValueError as error:  # of JSON or of the encoding
        raise ValueError(f'cannot open local-dir:{folder}: its config.json is no JSON ({one_line(error)})') from error
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise ValueError(f'cannot open local-dir:{folder}: its config.json does not name an architecture')


def _create(source: str, **args: Any) -> nn.Module:
    """Create a model; what the libraries raise for wrong weights and arguments becomes one sentence."""
    scheme, _, repository = source.partition(':')
    if scheme == 'local-dir':
        _check_config(Path(repository))
    try:
        if scheme != 'hf-hub':
            return timm.create_model(source, **args)
        with explain_weights(repository):
            return timm.create_model(source, **args)
    except _WRONG_WEIGHTS as error:
        damaged = scheme == 'hf-hub' and isinstance(error, SafetensorError)
        remedy = f'; "pinas-models verify {repository}" gets a damaged file again' if damaged else ''
        raise ValueError(f'cannot open {source}: {one_line(error, _LONGEST)}{remedy}') from error
    except TypeError as error:
        if 'unexpected keyword argument' not in str(error):
            raise
        raise ValueError(f'cannot open {source}: {one_line(error, _LONGEST)}') from error


def _open_with_checkpoint(source: str, checkpoint: Path, args: Mapping[str, Any]) -> nn.Module:
    content = load_checkpoint(checkpoint)
    skeleton = _skeleton(source, args)
    try:
        tensors, _ = unwrap(content)
        if skeleton is None or isinstance(skeleton, PinasNet):
            path = args.get('choices')
            variant = VARIANTS.get(source.partition('.')[0])
            if path is None and skeleton is not None and not (variant and variant.any_path):
                path = skeleton.choices
            layers = None if skeleton is None else [len(skeleton.get_submodule(f'layer{s}')) for s in range(1, 5)]
            conversion = convert_checkpoint(tensors, path, layers=layers)
            tensors, num_classes = conversion.state_dict, conversion.num_classes
            args = {**args, 'choices': conversion.choices}
        else:
            num_classes = _count_classes(tensors, skeleton)
        overlay = {'state_dict': tensors, 'source': None, 'custom_load': False, 'num_classes': num_classes}
        if skeleton is not None and num_classes != skeleton.num_classes:  # the names are those of other classes
            overlay |= {'label_names': None, 'label_descriptions': None}
        args = {'num_classes': num_classes, **args}
        model = _create(source, pretrained=True, pretrained_cfg_overlay=overlay, **args)
    except ValueError as error:
        raise ValueError(f'{checkpoint}: {error}') from error
    model.pretrained_cfg.pop('state_dict', None)  # type: ignore[union-attr, operator]  # timm keeps a copy of all weights
    return model


def _skeleton(source: str, args: Mapping[str, Any]) -> nn.Module | None:
    """The model without values; None if only the checkpoint can say what its path is."""
    if source.partition('.')[0] == 'pinas_subnet' and 'choices' not in args:
        return None
    return _create(source, device='meta', **{key: args[key] for key in ('choices', 'layers') if key in args})


def _count_classes(tensors: Mapping[str, torch.Tensor], model: nn.Module) -> int:
    """Classes in a checkpoint of a model that is not ours."""
    cfg: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    bias = tensors.get(f'{cfg.get("classifier")}.bias')
    return int(model.num_classes) if bias is None else len(bias)  # type: ignore[arg-type]
