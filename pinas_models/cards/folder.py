"""The least that a card can say: what the code alone knows of a model."""

from __future__ import annotations

from huggingface_hub import ModelCardData
from timm.models import get_model_input_config
from torch import nn

from ..inspect.costs import measure_costs, network_stages
from ..pinas import PinasNet
from .rendering import render

__all__ = ['folder_card']


def folder_card(model: nn.Module, name: str, *, license: str | None = None, origin: str | None = None) -> str:
    """Write a card for a model folder that has none. It passes ``check_card`` and claims no accuracy.

    Args:
        model: A timm model.
        name: Hub name the model will be loaded by, ``ORG/name``.
        license: Licence identifier of the Hub; left out if None.
        origin: A sentence that says where the weights come from.

    Returns:
        Markdown with the Hub's front matter.
    """
    num_classes = int(getattr(model, 'num_classes', 0))
    config = getattr(model, 'pretrained_cfg', None) or {}
    task = 'image-classification' if num_classes else 'image-feature-extraction'
    costs = measure_costs(model, tuple(get_model_input_config(model)['input_size']))
    front_matter = ModelCardData(
        tags=[task, 'timm', 'neural-architecture-search'] if isinstance(model, PinasNet) else [task, 'timm'],
        pipeline_tag=task,
        library_name='timm',
        license=license,
    )
    values = {
        'name': name,
        'architecture': config.get('architecture', type(model).__name__),
        'num_classes': num_classes,
        'origin': origin,
        'costs': costs,
        'stages': network_stages(model, costs) if isinstance(model, PinasNet) else [],
    }
    return render('folder.md.j2', front_matter, values)
