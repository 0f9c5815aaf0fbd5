"""From the shapes of weights to the network they belong to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import timm

from ..choices import BLOCK_CHOICES, VARIANTS

__all__ = ['Architecture', 'Shape', 'block_of', 'candidate_shapes', 'infer_architecture']

Shape = tuple[int, ...]

# Blocks per stage of the registered networks, the smallest first.
KNOWN_LAYERS = sorted({variant.layers for variant in VARIANTS.values()})

_BLOCK = re.compile(r'(layer([1-4])\.(\d+))\..+')
_OUTPUT = re.compile(r'layer([1-4])\.\d+\.(?:conv3\.weight|bn3\.(?:weight|bias|running_mean|running_var))')
_STEM_WIDTH = re.compile(r'conv1\.(?:[03]\.weight|[14]\.(?:weight|bias|running_mean|running_var))')


@dataclass(frozen=True)
class Architecture:
    """What the networks of a space have in common.

    Attributes:
        layers: Blocks per stage.
        channels: Planes per stage.
        stem_width: Channels of the stem's first convolution.
        in_chans: Input channels.
    """

    layers: tuple[int, ...]
    channels: tuple[int, ...]
    stem_width: int
    in_chans: int

    @property
    def block_names(self) -> list[str]:
        """Module name of the block at each position."""
        return [f'layer{s + 1}.{b}' for s, depth in enumerate(self.layers) for b in range(depth)]


def block_of(name: str) -> str | None:
    """Module name of the block that a name of ours lies in; None for stem and classifier."""
    match = _BLOCK.fullmatch(name)
    return match[1] if match else None


def infer_architecture(shapes: Iterable[tuple[str, Shape]], layers: Sequence[int] | None = None) -> Architecture:
    """Find the architecture that most of the weights agree on, so that a wrong one can be told from the rest.

    Args:
        shapes: Pairs of our name and a shape; a name may occur more than once.
        layers: Blocks per stage that it should have; None takes the smallest registered network that has room.

    Raises:
        ValueError: If the stages are not as deep as ``layers`` says.
    """
    depths, planes, widths = [0, 0, 0, 0], [Counter[int]() for _ in range(4)], Counter[int]()
    in_chans = 3
    for name, shape in shapes:
        if match := _BLOCK.fullmatch(name):
            stage, index = int(match[2]) - 1, int(match[3])
            depths[stage] = max(depths[stage], index + 1)
        if (match := _OUTPUT.fullmatch(name)) and shape and shape[0] >= 4:
            planes[int(match[1]) - 1][shape[0] // 4] += 1
        if _STEM_WIDTH.fullmatch(name) and shape and shape[0] > 0:
            widths[shape[0]] += 1
        if name == 'conv1.0.weight' and len(shape) == 4 and shape[1] > 0:
            in_chans = shape[1]
    if layers is not None and list(layers) != depths:
        raise ValueError(f'its stages have {_join(depths)} blocks, but those of the network have {_join(layers)}')
    if layers is None:
        large_enough = (known for known in KNOWN_LAYERS if all(d <= k for d, k in zip(depths, known, strict=True)))
        layers = next(large_enough, KNOWN_LAYERS[-1])
    return Architecture(
        layers=tuple(layers),
        channels=tuple(c.most_common(1)[0][0] if c else 64 * 2**stage for stage, c in enumerate(planes)),
        stem_width=widths.most_common(1)[0][0] if widths else 32,
        in_chans=in_chans,
    )


@lru_cache(maxsize=8)  # four networks are built for it
def candidate_shapes(architecture: Architecture) -> tuple[Mapping[str, Shape], ...]:
    """Names and shapes of the network that has the same choice everywhere, one per choice, without classifier.

    A block's shapes depend on its own choice only, so these four hold the shapes of all networks.

    Raises:
        ValueError: If no network has such widths.
    """
    try:
        networks = [
            timm.create_model(
                'pinas_subnet',
                choices=(choice,) * sum(architecture.layers),
                layers=architecture.layers,
                channels=architecture.channels,
                stem_width=architecture.stem_width,
                in_chans=architecture.in_chans,
                num_classes=0,
                device='meta',
            )
            for choice in range(len(BLOCK_CHOICES))
        ]
    except ValueError as error:
        raise ValueError(
            f'no network of the space has stages of {", ".join(map(str, architecture.channels))} planes ({error})'
        ) from error
    return tuple({name: tuple(t.shape) for name, t in network.state_dict().items()} for network in networks)


def _join(depths: Iterable[int]) -> str:
    return '-'.join(map(str, depths))
