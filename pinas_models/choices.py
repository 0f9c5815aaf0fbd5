"""The four block choices of the Π-NAS space, the published paths, the registered variants, validation of a path.

A *path* names one network of a space: one choice (0..3) per position. Source: Π-NAS paper, section 4.1 and Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    'BLOCK_CHOICES',
    'PINAS_CLS',
    'PINAS_MINI',
    'PINAS_TRANS',
    'RESNEST50',
    'VARIANTS',
    'BlockChoice',
    'Choices',
    'Variant',
    'parse_choices',
    'variant_name',
]

Choices = tuple[int, ...]


@dataclass(frozen=True)
class BlockChoice:
    """One candidate bottleneck: a split-attention block in the notation of ResNeSt.

    Attributes:
        name: The paper's name, ``<radix>s<cardinality>x<base width>d``.
        radix: Number of splits that the attention weighs against each other; 1 means a sigmoid gate.
        cardinality: Number of groups within a split.
        base_width: Width of a group at 64 planes, in channels.
    """

    name: str
    radix: int
    cardinality: int
    base_width: int

    @property
    def meaning(self) -> str:
        """What the block computes, in words."""
        groups = 'one group' if self.cardinality == 1 else f'{self.cardinality} groups'
        if self.radix == 1:
            return f'one 3x3 convolution in {groups}; a sigmoid gate weakens or keeps each channel'
        return (
            f'{self.radix} splits of a 3x3 convolution in {groups} each; attention mixes the splits channel by channel'
        )

    def group_width(self, planes: int) -> int:
        """Channels of the 3x3 convolution's output per split, for a stage of ``planes`` planes."""
        return int(planes * self.base_width / 64) * self.cardinality

    def attention_channels(self, planes: int) -> int:
        """Channels of the attention's bottleneck. Not rounded to a multiple of 8, unlike timm's ``SplitAttn``."""
        return max(self.group_width(planes) * self.radix // 4, 32)


BLOCK_CHOICES = (
    BlockChoice('1s1x64d', radix=1, cardinality=1, base_width=64),
    BlockChoice('2s1x64d', radix=2, cardinality=1, base_width=64),
    BlockChoice('1s2x42d', radix=1, cardinality=2, base_width=42),
    BlockChoice('2s2x40d', radix=2, cardinality=2, base_width=40),
)

PINAS_CLS: Choices = (3, 0, 1, 3, 2, 3, 1, 2, 0, 3, 2, 1, 3, 0, 3, 2)
PINAS_TRANS: Choices = (3, 3, 3, 3, 1, 1, 3, 3, 3, 0, 0, 1, 1, 0, 2, 1)
RESNEST50: Choices = (1,) * 16
PINAS_MINI: Choices = (1, 2, 0, 2, 1, 1, 0, 2)  # 2-2-2-2 blocks, found on CIFAR-10 (search/README.md)


@dataclass(frozen=True)
class Variant:
    """What a registered name stands for.

    Attributes:
        layers: Blocks per stage.
        choices: The path; None if the caller must give one.
        any_path: Whether the caller may give another: the name stands for a whole space.
    """

    layers: tuple[int, ...]
    choices: Choices | None
    any_path: bool = False


_RESNET50, _MINI = (3, 4, 6, 3), (2, 2, 2, 2)

# Registered name -> what it stands for.
VARIANTS = {
    'pinas_cls': Variant(_RESNET50, PINAS_CLS),
    'pinas_trans': Variant(_RESNET50, PINAS_TRANS),
    'pinas_resnest50': Variant(_RESNET50, RESNEST50),
    'pinas_subnet': Variant(_RESNET50, None, any_path=True),
    'pinas_mini': Variant(_MINI, PINAS_MINI, any_path=True),
}


def variant_name(layers: Sequence[int], choices: Sequence[int] | None = None) -> str:
    """The registered name of a network: the published one of a path, else that of the space it lies in.

    Args:
        layers: Blocks per stage.
        choices: The path; None for the space.

    Raises:
        ValueError: If there is none.
    """
    of_shape = {name: variant for name, variant in VARIANTS.items() if variant.layers == tuple(layers)}
    for name, variant in of_shape.items():
        if not variant.any_path and choices is not None and variant.choices == tuple(choices):
            return name
    if not of_shape:
        raise ValueError(f'no registered model has {"-".join(map(str, layers))} blocks')
    return next(name for name, variant in of_shape.items() if variant.any_path)


def parse_choices(choices: str | Sequence[int], num_positions: int, num_choices: int = len(BLOCK_CHOICES)) -> Choices:
    """Validate a path and return it as a tuple of ints.

    Args:
        choices: A string of digits (``'3013231203213032'``) or a sequence of integers, one per position.
        num_positions: Length that the network needs.
        num_choices: Number of choices per position; 0..num_choices-1 are allowed.

    Returns:
        The path, ``num_positions`` integers.

    Raises:
        ValueError: If the type, the length or a choice is wrong; the message names the position and what is allowed.
    """
    allowed = f'a choice is an integer 0..{num_choices - 1}'
    expected = f'a string of {num_positions} digits or a sequence of {num_positions} integers'
    items: object = choices
    if isinstance(choices, str):
        items = [int(c) if c.isascii() and c.isdigit() else c for c in choices]
    elif hasattr(choices, 'tolist'):  # a numpy array or torch tensor
        items = choices.tolist()
    # An iterator can be read only once and a set has no order: neither can be recorded with the model.
    if not isinstance(items, Sequence):
        raise ValueError(f'choices must be {expected}, got {type(choices).__name__} {choices!r}')
    path = []
    for position, item in enumerate(items):
        # numpy and torch integers count as integers; bool and float do not, because they are nearly always a mistake.
        value = item.tolist() if hasattr(item, 'tolist') else item
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f'choices[{position}] is {item!r}; {allowed} ({expected})')
        if not 0 <= value < num_choices:
            raise ValueError(f'choices[{position}] is {value}; {allowed} ({expected})')
        path.append(value)
    if len(path) != num_positions:
        raise ValueError(f'choices has {len(path)} positions, this network has {num_positions}: pass {expected}')
    return tuple(path)
