"""Channel masks on one widest convolution, for the ResNeSt spaces (FBNetV2, Wan et al., CVPR 2020).

At each position there is one bottleneck, whose 3×3 convolution has as many output channels as the widest choice. Choice
j keeps the first c_j of them, c_j being the outputs of its own 3×3 convolution, its splits together: at 64 planes 64,
128, 84 and 160. So one run serves all choices, with the mask Σ g_j M_j.

That is an approximation. The choices of these spaces differ in their splits and groups, and a mask can only tell apart
how many channels they compute; attention and groups are left out. (Channels of one split would not tell the first two
choices apart.) The weights therefore fit no network of the space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pinas_models.pinas import PinasBottleneck

from ..spaces import ResNeStSpace, Space
from .base import ChainSupernet, GatedSupernet, Gates

__all__ = ['MaskedBlock', 'MaskedResNeStSupernet', 'Options', 'create']


@dataclass(frozen=True)
class Options:
    """The supernet has no options."""


class MaskedBlock(nn.Module):
    """A bottleneck that is as wide as the widest of its candidates; a mask makes it as narrow as another.

    Attributes:
        widths: Channels c_j that each choice keeps.
    """

    masks: torch.Tensor

    def __init__(self, candidates: Sequence[PinasBottleneck]) -> None:
        """Take shapes, pooling and shortcut from the candidates, and draw fresh weights.

        Args:
            candidates: The blocks of the space at this position, one per choice.
        """
        super().__init__()
        first = candidates[0]
        self.widths = tuple(int(block.conv2.conv.out_channels) for block in candidates)
        inner, width = max(block.conv1.out_channels for block in candidates), max(self.widths)
        self.conv1 = nn.Conv2d(first.conv1.in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.avd = first.avd
        self.conv3 = nn.Conv2d(width, first.conv3.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(first.conv3.out_channels)
        self.downsample = first.downsample
        self.act = nn.ReLU()
        for convolution in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(convolution.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.bn3.weight)
        masks = torch.arange(width) < torch.tensor(self.widths)[:, None]
        self.register_buffer('masks', masks.float(), persistent=False)

    def forward(self, x: torch.Tensor, gates: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Run the block once under the mask Σ g_j M_j: [N, C, H, W] -> [N, C', H / stride, W / stride].

        The mask comes behind batch norm and ReLU: a channel that is masked is as good as not there.
        """
        mask = torch.stack([gate * self.masks[choice] for choice, gate in gates.items()]).sum(0)
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x))) * mask.to(x.dtype)[:, None, None]
        x = self.bn3(self.conv3(self.avd(x)))
        return self.act(x + shortcut)


class MaskedResNeStSupernet(ChainSupernet, GatedSupernet):
    """One widest network for all paths of a ResNeSt space; paths differ in their channel masks alone.

    Parameter names: ``conv1`` and ``bn1`` of the stem, ``layer{s}.{b}.<name in the block>``.
    """

    def __init__(self, space: ResNeStSpace) -> None:
        """Draw fresh weights: Kaiming normal, and zero gammas in the last BN of every block.

        Args:
            space: The space.
        """
        super().__init__()
        self.space: ResNeStSpace = space
        networks = [space.build((c,) * space.num_positions, num_classes=0) for c in range(space.num_choices[0])]
        self.conv1, self.bn1, self.act1 = networks[0].conv1, networks[0].bn1, networks[0].act1
        self.maxpool = networks[0].maxpool
        self.num_features = networks[0].num_features
        for stage, depth in enumerate(space.layers, start=1):
            names = [f'layer{stage}.{block}' for block in range(depth)]
            candidates = [[network.get_submodule(name) for network in networks] for name in names]
            blocks = [MaskedBlock(row) for row in candidates]
            self.add_module(f'layer{stage}', nn.ModuleList(blocks))
        self._blocks: list[nn.Module] = [self.get_submodule(name) for name in space.block_names]

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Deep stem and pooling: images [N, 3, H, W] -> [N, 64, H / 4, W / 4] in the paper's space."""
        return self.maxpool(self.act1(self.bn1(self.conv1(x))))

    def run(self, x: torch.Tensor, path: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run consecutive positions under the masks of a path."""
        one = x.new_ones(())
        for position in positions:
            x = self._blocks[position](x, {path[position]: one})
        return x

    def forward_gated(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        """One run under weighted masks, however many choices have a gate; see ``GatedSupernet``."""
        self.check_gates(gates)
        x = self.stem(x)
        for block, weights in zip(self._blocks, gates, strict=True):
            x = block(x, weights)
        return x

    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """All modules with weights: every path has them."""
        self.space.validate(path)
        return self.shared_modules()

    def shared_modules(self) -> list[nn.Module]:
        """All modules with weights."""
        return [self.conv1, self.bn1, *self._blocks]

    def extract(self, path: Sequence[int], classifier: nn.Linear | None = None) -> nn.Module:
        """There is nothing to take out: the networks of the space have split attention and groups.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f'the masked supernet holds no weights that fit the networks of {self.space.name}: '
            'set retrain.start=scratch'
        )


def create(space: Space, options: Options) -> MaskedResNeStSupernet:
    """Build the masked supernet of a ResNeSt space.

    Raises:
        ValueError: If the space has no widths to mask.
    """
    if not isinstance(space, ResNeStSpace):
        raise ValueError(
            f'channel masks (fbnetv2) need one widest convolution at each position, which {space.name} does not have: '
            'take another method or a ResNeSt space'
        )
    return MaskedResNeStSupernet(space)
