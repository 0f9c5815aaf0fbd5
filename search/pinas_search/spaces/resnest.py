"""The Π-NAS spaces: a ResNet with one of four split-attention blocks at each position (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pinas_models import BLOCK_CHOICES, PinasNet
from pinas_models.choices import BlockChoice

from .base import AdditiveSpace, Choice, CostTable, Description, Group
from .graph import Graph, line_graph

__all__ = ['Options', 'ResNeStSpace', 'create', 'mini', 'resnest50']

_NOTE = (
    '2s1x64d reads: 2 splits (s), 1 group (x), 64 channels per group (d) in a stage of 64 planes; wider stages scale '
    'that. Every block has a 1×1 convolution before and after, and a shortcut around all of it; the first block of '
    'stages 2 and later halves the resolution. ResNeSt-50 uses 2s1x64d everywhere.'
)


@dataclass(frozen=True)
class Options:
    """Options of the space.

    Attributes:
        shape: The paper's ResNet-50 with 16 positions, or ``mini`` with 8 for laptops.
    """

    shape: Literal['resnest50', 'mini'] = 'resnest50'


@dataclass(frozen=True)
class ResNeStSpace(AdditiveSpace):
    """A ResNet shape of which every block is one of the four candidates.

    Attributes:
        name: Short name.
        architecture: timm name of the networks; takes ``choices``.
        layers: Blocks per stage.
        image_size: Side of the square images that costs are counted for, in pixels.
        num_classes: Classes of the head that costs are counted with.
    """

    name: str
    architecture: str
    layers: tuple[int, ...]
    image_size: int
    num_classes: int
    supernet = 'resnest'

    @property
    def num_choices(self) -> tuple[int, ...]:  # type: ignore[override]
        """Number of choices at each position: four everywhere."""
        return (len(BLOCK_CHOICES),) * sum(self.layers)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Module name of the block at each position, ``layer1.0`` and so on."""
        return tuple(f'layer{s + 1}.{b}' for s, depth in enumerate(self.layers) for b in range(depth))

    def build(
        self,
        path: Sequence[int],
        *,
        num_classes: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
        device: torch.device | str | None = None,
    ) -> PinasNet:
        """Build the timm model of a path; see ``Space``. No head if ``num_classes`` is 0.

        Args of its own: ``zero_init_last`` zeros the last BN of every block.
        """
        return timm.create_model(
            self.architecture,
            choices=self.validate(path),
            num_classes=self.num_classes if num_classes is None else num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            zero_init_last=zero_init_last,
            device=device,
        )

    def model_args(self, path: Sequence[int]) -> Mapping[str, Any]:
        """The path, which the name of the architecture does not imply."""
        return {'choices': list(self.validate(path))}

    def describe(self) -> Description:
        """The stages as columns, and the blocks in the paper's notation."""
        starts = [sum(self.layers[:i]) for i in range(len(self.layers))]
        groups = [
            Group(f'stage {number}', tuple(range(start, start + depth)))
            for number, (start, depth) in enumerate(zip(starts, self.layers, strict=True), start=1)
        ]
        return Description(
            positions=self.block_names,
            groups=tuple(groups),
            choices=tuple(Choice(block.name, _meaning(block)) for block in BLOCK_CHOICES),
            note=_NOTE,
        )

    def graph(self, path: Sequence[int]) -> Graph:
        """The blocks of a path as a chain.

        Raises:
            ValueError: If the path is not in the space.
        """
        return line_graph(self.describe(), self.validate(path))

    def _measure_costs(self) -> CostTable:
        # One network per choice holds every (position, choice) once; costs add up because a block's output shape
        # does not depend on its choice. The meta device counts without computing.
        params = np.zeros((self.num_positions, len(BLOCK_CHOICES)), dtype=np.int64)
        macs = np.zeros_like(params)
        for choice in range(len(BLOCK_CHOICES)):
            model = self.build((choice,) * self.num_positions, device='meta').eval()
            counter = FlopCounterMode(display=False)
            with counter:
                model(torch.empty(1, 3, self.image_size, self.image_size, device='meta'))
            counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
            for position, name in enumerate(self.block_names):
                params[position, choice] = _count_params(model.get_submodule(name))
                macs[position, choice] = counts[f'{type(model).__name__}.{name}']
        fixed = {
            'params': _count_params(model) - int(params[:, choice].sum()),
            'macs': counts['Global'] - int(macs[:, choice].sum()),
        }
        return CostTable(fixed, {'params': params, 'macs': macs})


def _count_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def resnest50(image_size: int = 224, num_classes: int = 1000) -> ResNeStSpace:
    """The paper's space: ResNet-50's 16 blocks, 4^16 = 4,294,967,296 networks.

    Args:
        image_size: Side of the images that costs are counted for, in pixels.
        num_classes: Classes of the head that costs are counted with.
    """
    return ResNeStSpace('resnest50', 'pinas_subnet', (3, 4, 6, 3), image_size, num_classes)


def mini(image_size: int = 32, num_classes: int = 10) -> ResNeStSpace:
    """A space for laptops: ``pinas_mini``, 8 blocks, 4^8 = 65,536 networks for 32-pixel images.

    Args:
        image_size: Side of the images that costs are counted for, in pixels.
        num_classes: Classes of the head that costs are counted with.
    """
    return ResNeStSpace('mini', 'pinas_mini', (2, 2, 2, 2), image_size, num_classes)


def create(options: Options, *, image_size: int, num_classes: int) -> ResNeStSpace:
    """Build the space for images of ``image_size`` pixels and ``num_classes`` classes."""
    return {'resnest50': resnest50, 'mini': mini}[options.shape](image_size, num_classes)


def _meaning(block: BlockChoice) -> str:
    groups = 'one group' if block.cardinality == 1 else f'{block.cardinality} separate groups'
    if block.radix == 1:
        return f'One 3×3 convolution in {groups}; a gate (sigmoid) then weakens or keeps each of its channels.'
    return f'{block.radix} splits of a 3×3 convolution in {groups} each; attention mixes the splits channel by channel.'
