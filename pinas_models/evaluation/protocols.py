"""How an image becomes a network's input: the authors' evaluation, and timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision import transforms

from ..transforms import ECenterCrop

__all__ = ['PROTOCOLS', 'Protocol', 'data_config', 'make_protocol']

PROTOCOLS = ('authors', 'timm')


@dataclass(frozen=True)
class Protocol:
    """Resizing and cropping; normalisation is the network's and the same for all protocols.

    Attributes:
        name: One of ``PROTOCOLS``.
        transform: PIL image -> uint8 [channels, height, width].
        input_size: Channels, height, width of the result.
        crop_pct: Share of the short side that is kept.
        interpolation: Filter of the resizing.
    """

    name: str
    transform: Callable[[Image.Image], Tensor]
    input_size: tuple[int, int, int]
    crop_pct: float
    interpolation: str


def data_config(model: nn.Module, img_size: int | None = None, crop_pct: float | None = None) -> dict[str, Any]:
    """What timm says about a model's input, for the channels that the model really has.

    Args:
        model: A timm model.
        img_size: Width and height in pixels; None for the model's own.
        crop_pct: Share of the short side to keep; None for the model's own.

    Raises:
        ValueError: If the model's images have neither three channels nor one.
    """
    config = resolve_model_data_config(model, {'crop_pct': crop_pct} if crop_pct else None)
    channels = int(getattr(model, 'in_chans', config['input_size'][0]))
    if channels not in (1, 3):
        raise ValueError(f'the model takes images of {channels} channels; images have 3, or 1 in grey')
    size = (img_size, img_size) if img_size else tuple(config['input_size'][1:])
    config['input_size'] = (channels, *size)
    for key in ('mean', 'std'):
        values = tuple(float(value) for value in config[key])
        if len(values) != channels:  # as timm's loader: grey images get the average of the colours
            values = (sum(values) / len(values),) * channels
        config[key] = values
    return config


def make_protocol(name: str, model: nn.Module, img_size: int | None = None, crop_pct: float | None = None) -> Protocol:
    """Make the transform of a protocol for a model.

    ``authors``: the central square of size/(size + 32) of the short side, resized once (``ECenterCrop``).
    ``timm``: what the model's cfg says; for most, resize the short side to size/crop_pct, then take the centre.

    Args:
        name: One of ``PROTOCOLS``.
        model: A timm model.
        img_size: Width and height in pixels; None for the model's own.
        crop_pct: Share of the short side to keep, for ``timm``; None for the model's own.

    Raises:
        ValueError: If the protocol is unknown, or is not made for this model's input.
    """
    config = data_config(model, img_size, crop_pct)
    channels, height, width = config['input_size']
    if name == 'timm':
        transform = create_transform(**config, normalize=False)
        return Protocol(name, transform, (channels, height, width), config['crop_pct'], config['interpolation'])
    if name != 'authors':
        raise ValueError(f'protocol is {name!r}; allowed are {", ".join(map(repr, PROTOCOLS))}')
    if height != width:
        raise ValueError(f"the authors' protocol makes square images, the model takes {height}x{width}: use timm's")
    transform = transforms.Compose([ECenterCrop(height), transforms.PILToTensor()])
    return Protocol(name, transform, (channels, height, width), round(height / (height + 32), 4), 'bicubic')
