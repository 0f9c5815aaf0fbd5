"""The weight-sharing network over a ResNeSt space: every position holds its four candidate blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pinas_models import PinasNet
from pinas_models.pinas import PinasBottleneck

from ..spaces import ChoicePath, ResNeStSpace, Space
from .base import ChainSupernet, GatedSupernet, Gates, weighted_sum
from .graph import Call, Graph

__all__ = ['Options', 'ResNeStSupernet', 'create']


@dataclass(frozen=True)
class Options:
    """Options of the supernet.

    Attributes:
        downsample_share: All candidates of a position share the module of the shortcut (paper Table 7, DS).
    """

    downsample_share: bool = True


class ResNeStSupernet(ChainSupernet, GatedSupernet):
    """All networks of a space in one (paper section 3.1; the authors' ``SuperResNet``).

    All paths share the stem and, with ``downsample_share``, the shortcut module of each stage. Everything else,
    every batch norm included, belongs to one candidate. Parameter names are the authors':
    ``layer{s}.{b}.{choice}.<name in the network>``. The authors list a shared shortcut once under each candidate;
    here the state dict has it once, under candidate 0, and loading takes both forms.
    """

    def __init__(self, space: ResNeStSpace, *, downsample_share: bool = True) -> None:
        """Draw fresh weights: Kaiming normal, and zero gammas in the last BN of every block (the authors' supernet).

        Args:
            space: The space.
            downsample_share: Share the shortcut module of a stage between its candidates (paper Table 7, DS).
        """
        super().__init__()
        self.space: ResNeStSpace = space
        self.downsample_share = downsample_share
        num_choices = space.num_choices[0]
        # The stand-alone networks supply the blocks, so a candidate cannot differ from the block it stands for.
        networks = [
            space.build((choice,) * space.num_positions, num_classes=0, zero_init_last=True)
            for choice in range(num_choices)
        ]
        self.conv1, self.bn1, self.act1 = networks[0].conv1, networks[0].bn1, networks[0].act1
        self.maxpool = networks[0].maxpool
        self.num_features = networks[0].num_features
        for stage in range(len(space.layers)):
            stages = [network.get_submodule(f'layer{stage + 1}') for network in networks]
            if downsample_share:
                for blocks in stages:
                    blocks[0].downsample = stages[0][0].downsample
            self.add_module(
                f'layer{stage + 1}', nn.ModuleList(nn.ModuleList(blocks) for blocks in zip(*stages, strict=True))
            )
        self._blocks: list[nn.ModuleList] = [
            self.get_submodule(name)  # type: ignore[misc]
            for name in space.block_names
        ]
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_expand_aliases)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Deep stem and pooling: images [N, 3, H, W] -> [N, 64, H / 4, W / 4] in the paper's space."""
        return self.maxpool(self.act1(self.bn1(self.conv1(x))))

    def run(self, x: torch.Tensor, path: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run the blocks of consecutive positions; ends with [N, 2048, H / 32, W / 32] in the paper's space."""
        for position in positions:
            x = self._blocks[position][path[position]](x)
        return x

    def lay_out(self, graph: Graph, path: Sequence[int]) -> int:
        """A node for every layer: with a shared shortcut, the first block of a stage computes it once for all choices.

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        node = graph.add_in_turn(_layers(*self.conv1, self.bn1, self.act1, self.maxpool), graph.images)
        for blocks, choice in zip(self._blocks, path, strict=True):
            node = _lay_out_block(graph, node, blocks[choice])  # type: ignore[arg-type]
        return node

    def forward_gated(self, x: torch.Tensor, gates: Gates) -> torch.Tensor:
        """Weigh the outputs of whole blocks, their shortcuts included; see ``GatedSupernet``."""
        self.check_gates(gates)
        x = self.stem(x)
        for blocks, weights in zip(self._blocks, gates, strict=True):
            x = weighted_sum((blocks[choice](x), gate) for choice, gate in weights.items())
        return x

    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """The modules that hold a path's weights: the stem, then its blocks (a stage's first with the shortcut)."""
        path = self.space.validate(path)
        return [self.conv1, self.bn1, *(blocks[c] for blocks, c in zip(self._blocks, path, strict=True))]

    def shared_modules(self) -> list[nn.Module]:
        """The modules that every path has: the stem and, when they are shared, the shortcuts."""
        stages = range(1, len(self.space.layers) + 1) if self.downsample_share else ()
        return [self.conv1, self.bn1, *(self.get_submodule(f'layer{stage}.0.0.downsample') for stage in stages)]

    def extract(self, path: Sequence[int], classifier: nn.Linear | None = None) -> PinasNet:
        """Build the stand-alone timm model of a path with the weights that it has here.

        Args:
            path: The path.
            classifier: Head to inherit; no head if None.

        Returns:
            A model whose feature maps equal the supernet's, bit for bit in eval mode.

        Raises:
            ValueError: If the path is not in the space.
        """
        path = self.space.validate(path)
        weight = self.bn1.weight
        model = self.space.build(
            path, num_classes=0 if classifier is None else classifier.out_features, device=weight.device
        )
        state = self._path_state(path)
        if classifier is not None:
            state |= {f'fc.{name}': tensor for name, tensor in classifier.state_dict().items()}
        model.to(weight.dtype).load_state_dict(state)
        return model.train(self.training)

    def _path_state(self, path: ChoicePath) -> dict[str, torch.Tensor]:
        """State dict of a path under the names of the stand-alone network."""
        modules = {'conv1': self.conv1, 'bn1': self.bn1}
        modules |= {
            name: blocks[choice]
            for name, blocks, choice in zip(self.space.block_names, self._blocks, path, strict=True)
        }
        return {f'{prefix}.{name}': t for prefix, module in modules.items() for name, t in module.state_dict().items()}


def create(space: Space, options: Options) -> ResNeStSupernet:
    """Build the supernet of a ResNeSt space.

    Raises:
        ValueError: If the space is another one.
    """
    if not isinstance(space, ResNeStSpace):
        raise ValueError(f'the supernet resnest holds networks of the ResNeSt spaces, not of {space.name}')
    return ResNeStSupernet(space, downsample_share=options.downsample_share)


def _layers(*modules: nn.Module) -> Iterator[Call]:
    """What modules compute one after another, without those that do nothing; a result is never changed in place."""
    return (F.relu if type(module) is nn.ReLU else module for module in modules if type(module) is not nn.Identity)


def _lay_out_block(graph: Graph, node: int, block: PinasBottleneck) -> int:
    """What ``PinasBottleneck.forward`` computes."""
    first = _layers(block.conv1, block.bn1, block.drop_block1, block.act1, block.conv2, block.avd)
    last = _layers(block.conv3, block.bn3, block.drop_block3, block.drop_path)
    shortcut = node if block.downsample is None else graph.add_in_turn(_layers(*block.downsample.children()), node)
    result = graph.add_in_turn(last, graph.add_in_turn(first, node))
    return graph.add(F.relu, graph.add(torch.add, result, shortcut))


def _aliases(supernet: ResNeStSupernet, prefix: str) -> dict[str, str]:
    """Further names of the shared shortcuts -> the name of candidate 0, both with ``prefix``."""
    if not supernet.downsample_share:
        return {}
    aliases: dict[str, str] = {}
    for stage in range(len(supernet.space.layers)):
        first = f'{prefix}layer{stage + 1}.0.'
        # Entries of the shared module, found by name: a module's own state_dict() would run the hooks again.
        names = [n for n, _ in supernet.get_submodule(f'layer{stage + 1}.0.0.downsample').named_parameters()]
        names += [n for n, _ in supernet.get_submodule(f'layer{stage + 1}.0.0.downsample').named_buffers()]
        for choice in range(1, supernet.space.num_choices[0]):
            aliases |= {f'{first}{choice}.downsample.{name}': f'{first}0.downsample.{name}' for name in names}
    return aliases


def _drop_aliases(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    """State-dict hook: store what is shared once (safetensors refuses shared tensors)."""
    if isinstance(module, ResNeStSupernet):
        for alias in _aliases(module, prefix):
            state_dict.pop(alias, None)


def _expand_aliases(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Load hook: accept the shared shortcuts under one name or under all of them, if the values agree."""
    if not isinstance(module, ResNeStSupernet):
        return
    for alias, name in _aliases(module, prefix).items():
        if name not in state_dict:
            continue
        if alias not in state_dict:
            state_dict[alias] = state_dict[name]
        elif not torch.equal(state_dict[alias], state_dict[name]):
            error_msgs.append(
                f'{alias} and {name} are one shared tensor here but differ in the checkpoint: '
                'it was trained without sharing the shortcuts, build the supernet with downsample_share=False'
            )
