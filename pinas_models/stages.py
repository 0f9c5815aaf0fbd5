"""The stages of a network of the Π-NAS space: which blocks they have, what comes out of them, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import BLOCK_CHOICES, BlockChoice
from .costs import Costs
from .pinas import PinasNet

__all__ = ['Stage', 'network_stages']


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: Module name, ``layer1`` and so on.
        choices: Choice of each block.
        stride: Pixels of the image per step of the stage's output.
        dilations: Dilation of the 3x3 convolution of each block.
        output_shape: Shape of the output for one image, [C, H, W].
        params: Parameters.
        macs: Multiply-accumulates for one image.
        block_macs: The same for each block.
    """

    name: str
    choices: tuple[int, ...]
    stride: int
    dilations: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    macs: int
    block_macs: tuple[int, ...]

    @property
    def blocks(self) -> tuple[BlockChoice, ...]:
        """What the choices mean."""
        return tuple(BLOCK_CHOICES[choice] for choice in self.choices)


def network_stages(model: PinasNet, costs: Costs) -> list[Stage]:
    """Describe the stages of a network.

    Args:
        model: The network.
        costs: What ``measure_costs`` counted on this network.
    """
    stages, start = [], 0
    for info in model.feature_info[1:]:  # the first is the stem
        name = info['module']
        blocks = list(model.get_submodule(name))
        cost, parts = costs.parts[name], [costs.parts[f'{name}.{i}'] for i in range(len(blocks))]
        stages.append(
            Stage(
                name=name,
                choices=model.choices[start : start + len(blocks)],
                stride=info['reduction'],
                dilations=tuple(block.conv2.conv.dilation[0] for block in blocks),
                output_shape=cost.output_shape or (),
                params=cost.params,
                macs=cost.macs,
                block_macs=tuple(part.macs for part in parts),
            )
        )
        start += len(blocks)
    return stages
