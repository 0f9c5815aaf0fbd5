"""What the authors report about the networks of their Table 2."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..cards.published import load_facts

__all__ = ['DEFAULT_MODELS', 'DEFAULT_SIZES', 'REFERENCE', 'Reported', 'reported', 'table_title']

# The networks of Table 2 by timm's names. The paper's SENet-50 and SKNet-50 are those of the SKNet paper, built on
# ResNeXt-50 32x4d: their counts (27.7M, 4.25G; 27.5M, 4.47G) are those of the *next* models, not of seresnet50 and
# skresnet50 (28.1M, 4.12G; 25.8M, 4.13G).
_TITLES = {
    'resnet50': 'ResNet-50',
    'seresnext50_32x4d': 'SENet-50',
    'skresnext50_32x4d': 'SKNet-50',
    'efficientnet_b3': 'EfficientNet-B3',
    'resnest50d': 'ResNeSt-50',
    'pinas_cls': 'Π-NAS-cls',
}
DEFAULT_MODELS = (*_TITLES, 'pinas_trans')
DEFAULT_SIZES = {'efficientnet_b3': 300}  # as in the paper; the others run at the size that timm gives them
REFERENCE = 'resnest50d'
_SPEED = 2  # column of the images per second


@dataclass(frozen=True)
class Reported:
    """One row of the authors' table, as they print it; a dash where they have none.

    Attributes:
        title: Their name of the network.
        params: Parameters.
        flops: Multiply-accumulates by their rule, see ``costs``.
        speed: Images per second.
        memory: GPU memory.
        top1: Top-1 accuracy on ImageNet.
    """

    title: str
    params: str
    flops: str
    speed: str
    memory: str
    top1: str

    @property
    def ratio(self) -> float | None:
        """How many times as fast as ResNeSt-50 it was; None where no speed is reported."""
        if self.speed == '-':
            return None
        return float(self.speed) / float(_rows()['ResNeSt-50'][_SPEED])


def reported(model: str) -> Reported | None:
    """The authors' row of a model, with or without a tag; None where they have none."""
    title = _TITLES.get(model.partition('.')[0])
    return None if title is None else Reported(title, *_rows()[title])


def table_title() -> str:
    """What the authors' table shows, and under which conditions they measured."""
    return _table()['title'].partition('; *')[0]  # the mark is on none of the rows that are shown


@functools.cache
def _table() -> dict[str, Any]:
    return load_facts()['tables']['imagenet']


def _rows() -> dict[str, list[str]]:
    return _table()['rows']
