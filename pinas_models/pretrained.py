"""Weights for timm's ``pretrained=True``: from files that timm cannot read, and from the Hub with errors that help."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from timm.models.resnet import ResNet

from .checkpoints import convert_checkpoint, load_checkpoint
from .checkpoints.convert import count_classes, unwrap
from .checkpoints.families import recognise
from .common.hub import explain_weights

__all__ = ['build_pretrained', 'fit_weights', 'translate_names']

_logger = logging.getLogger(__name__)


def build_pretrained(
    model_cls: type[ResNet],
    variant: str,
    filter_fn: Callable[..., Mapping[str, torch.Tensor]],
    model_args: MutableMapping[str, Any],
) -> ResNet:
    """Build a model with weights, as timm's builder does, from a file of the authors as well.

    timm reads a cfg's ``file`` without the NumPy numbers that the authors' checkpoints hold, so it is read here. The
    cfg's ``num_classes`` then becomes that of the file, unless the caller's overlay states it.

    Args:
        model_cls: Class of the model.
        variant: Registered name.
        filter_fn: What converts state dicts from other sources.
        model_args: Arguments of the entry function; ``choices`` among them.

    Raises:
        OSError: If the weights cannot be had: the file is missing, or the Hub does not have or give them.
        ValueError: If they do not fit the model.
    """
    model_args = dict(model_args)
    overlay = dict(model_args.pop('pretrained_cfg_overlay', None) or {})
    cfg = resolve_pretrained_cfg(variant, model_args.get('pretrained_cfg'), overlay)
    if cfg.file and not (cfg.state_dict or cfg.source or cfg.custom_load):
        tensors, _ = unwrap(load_checkpoint(cfg.file))
        num_classes = overlay.setdefault('num_classes', count_classes(tensors))
        if num_classes != cfg.num_classes:  # the names are those of other classes
            overlay = {'label_names': None, 'label_descriptions': None, **overlay}
        # Stands for the weights, which timm would copy twice.
        overlay['state_dict'] = {'file': cfg.file}
        filter_fn = partial(_replace_weights, tensors)
    with explain_weights(cfg.hf_hub_id or variant):
        model = build_model_with_cfg(
            model_cls, variant, True, pretrained_cfg_overlay=overlay, pretrained_filter_fn=filter_fn, **model_args
        )
    model.pretrained_cfg.pop('state_dict', None)
    return model


def _replace_weights(
    tensors: Mapping[str, torch.Tensor], _: Mapping[str, Any], model: ResNet
) -> dict[str, torch.Tensor]:
    """A filter for timm that gives other weights than it was given."""
    return fit_weights(tensors, model)


def fit_weights(state_dict: Mapping[str, Any], model: ResNet) -> dict[str, torch.Tensor]:
    """Convert weights to the names of a model, if they are not spelled so.

    Args:
        state_dict: A state dict or checkpoint.
        model: The model. Its classifier and input channels may differ: timm adapts those.

    Raises:
        ValueError: If the weights are no known checkpoint, are damaged, or are those of another path.
    """
    tensors, _ = unwrap(state_dict)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if _essence(tensors) == _essence(expected) and all(
        tuple(tensor.shape) == expected[name]
        for name, tensor in tensors.items()
        if name in expected and not name.startswith(('fc.', 'conv1.0.'))
    ):
        return tensors  # among them models with other norm layers, which no checkpoint of the authors has
    layers = [len(model.get_submodule(f'layer{stage}')) for stage in range(1, 5)]
    conversion = convert_checkpoint(tensors, model.choices, layers=layers)
    if conversion.left_out:
        _logger.info(f'Left out of the {conversion.family} checkpoint: {", ".join(conversion.left_out)}')
    return conversion.state_dict


def translate_names(state_dict: Mapping[str, Any], model: ResNet) -> Mapping[str, Any]:
    """Convert a state dict of one of the authors' larger models; what is not recognised as such stays as it is.

    Args:
        state_dict: Tensors by name.
        model: The model to load into.

    Raises:
        ValueError: If it is recognised and does not fit.
    """
    try:
        family = recognise(unwrap(state_dict)[0])
    except ValueError:
        return state_dict
    return state_dict if family.name == 'classification' else fit_weights(state_dict, model)


def _essence(names: Mapping[str, Any]) -> set[str]:
    """The names that weights for a model must have: counters may be absent, the classifier may be another."""
    return {name for name in names if not name.startswith('fc.') and not name.endswith('num_batches_tracked')}
