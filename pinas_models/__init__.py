"""The Π-NAS backbones as timm models: ``import timm, pinas_models`` registers them, then use ``timm.create_model``."""

from .choices import BLOCK_CHOICES, PINAS_CLS, PINAS_MINI, PINAS_TRANS, RESNEST50, parse_choices
from .deploy.fuse import fuse
from .pinas import (
    PinasBottleneck,
    PinasNet,
    pinas_cls,
    pinas_mini,
    pinas_resnest50,
    pinas_subnet,
    pinas_trans,
)

__all__ = [
    'BLOCK_CHOICES',
    'PINAS_CLS',
    'PINAS_MINI',
    'PINAS_TRANS',
    'RESNEST50',
    'PinasBottleneck',
    'PinasNet',
    'fuse',
    'parse_choices',
    'pinas_cls',
    'pinas_mini',
    'pinas_resnest50',
    'pinas_subnet',
    'pinas_trans',
]
__version__ = '0.2.0'
