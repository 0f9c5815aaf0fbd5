"""The folder of a trained network: weights, configuration and card."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from pinas_models.cards import searched_card
from pinas_models.common.files import write_json, write_text
from pinas_models.common.text import one_line

from ..records import save_tensors
from ..spaces import ChoicePath
from .run import Run

__all__ = ['save_network']

_USAGE = """from safetensors.torch import load_file
# SPACE is the space named above, PATH the digits in the title
model = SPACE.build(SPACE.decode(PATH), num_classes=len(LABELS))
model.load_state_dict(load_file('model.safetensors'))"""


def save_network(run: Run, model: nn.Module, path: ChoicePath, result: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that timm's ``local-dir:`` opens, if the network is a timm model; else weights and the path.

    Args:
        run: The run.
        model: The trained network.
        path: Its path.
        result: The record of the training.
        folder: Where to.
    """
    data, names = run.config.data, list(run.splits.class_names)
    model = model.cpu().to(memory_format=torch.contiguous_format)
    model_args = run.space.model_args(path)
    if model_args is None:
        save_tensors(model, folder / 'model.safetensors')
        rebuild = {'space': run.config.space, 'space_options': dict(run.config.space_options), 'path': result['path']}
        write_json(folder / 'config.json', {**rebuild, 'num_classes': len(names), 'label_names': names})
    else:
        config = {
            'num_classes': len(names),
            'label_names': names,
            'pretrained_cfg': {
                'tag': 'searched',
                'input_size': (3, data.image_size, data.image_size),
                'mean': data.mean,
                'std': data.std,
                'crop_pct': 1.0 if data.image_size < 64 else 0.875,
                'interpolation': 'bilinear',
                'num_classes': len(names),
            },
        }
        try:
            save_for_hf(model, str(folder), config, {**model_args, 'num_classes': len(names)}, True)
        except SafetensorError as error:  # its error for a full disk
            raise OSError(f'{folder} cannot be written ({one_line(error)})') from error
    write_text(folder / 'README.md', _card(run, path, result))


def _card(run: Run, path: ChoicePath, result: Mapping[str, Any]) -> str:
    """The model card: architecture, data, seed, measured accuracy, command."""
    space, description, config = run.space.name, run.space.describe(), run.config
    data = config.data.source if config.data.root is None else Path(config.data.root).name
    usage = None if run.space.model_args(path) is not None else _USAGE
    return searched_card(
        f'{space} {result["path"]}',
        origin=f'A network of the space `{space}`, trained as `{result["name"]}` of the run `{run.path.name}`.',
        rows=[
            (
                group.title,
                ' '.join(str(path[p]) for p in group.positions),
                ', '.join(description.choices[path[p]].name for p in group.positions),
            )
            for group in description.groups
        ],
        params=result['params'],
        macs=result['macs'],
        image_size=config.data.image_size,
        facts={
            'Data': f'{data}, image size {config.data.image_size}; seed {config.seed}, training {result["seed"]}',
            'Top-1, measured here': (f'{result["accuracy"]:.4f} on {result["images"]} {result["accuracy_on"]} images'),
            'Weights': (f'{result["epochs"]} epochs from {result["start"]}; supernet method `{config.learn.method}`'),
            'Command': f'`{" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])}`',
        },
        usage=usage,
    )
