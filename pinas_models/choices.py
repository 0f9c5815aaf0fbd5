"""The four block choices of the Π-NAS space, the published paths, and the validation of a path.

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
    'BlockChoice',
    'Path',
    'parse_choices',
]

Path = tuple[int, ...]


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

PINAS_CLS: Path = (3, 0, 1, 3, 2, 3, 1, 2, 0, 3, 2, 1, 3, 0, 3, 2)
PINAS_TRANS: Path = (3, 3, 3, 3, 1, 1, 3, 3, 3, 0, 0, 1, 1, 0, 2, 1)
RESNEST50: Path = (1,) * 16
PINAS_MINI: Path = (1, 2, 0, 2, 1, 1, 0, 2)  # 2-2-2-2 blocks, found on CIFAR-10 (search/README.md)


def parse_choices(choices: str | Sequence[int], num_positions: int, num_choices: int = len(BLOCK_CHOICES)) -> Path:
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
