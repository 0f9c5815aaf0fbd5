"""Convert state dicts of our models to what the authors' programs load."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .convert import convert_checkpoint
from .families import detectron2_name

__all__ = ['to_authors', 'to_detectron2']


def to_authors(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert to the names of the authors' classification network.

    They are our own; what this does is to make sure that the weights are those of a network of the space. The authors'
    files hold them under ``state_dict``.

    Args:
        state_dict: Weights of one of our models.

    Returns:
        The weights, 476 entries for the published networks (474 without a classifier).

    Raises:
        ValueError: If they are not such weights; see ``convert_checkpoint``.
    """
    conversion = convert_checkpoint(state_dict)
    if conversion.family != 'classification':
        raise ValueError(
            f'these are not weights of one of our models but a {conversion.family} checkpoint: convert it first'
        )
    return conversion.state_dict


def to_detectron2(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert to the names of the backbone of the authors' Detectron2 model.

    Args:
        state_dict: Weights of one of our models. A classifier is left out, because the detector has no place for it.

    Returns:
        The weights under ``backbone.bottom_up.``, 474 entries for the published networks. Detectron2's files hold them
        under ``model``.

    Raises:
        ValueError: If they are not such weights; see ``convert_checkpoint``.
    """
    return {
        f'backbone.bottom_up.{detectron2_name(name)}': tensor
        for name, tensor in to_authors(state_dict).items()
        if not name.startswith('fc.')
    }
