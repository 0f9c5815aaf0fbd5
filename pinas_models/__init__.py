"""The Π-NAS backbones as timm models: ``import timm, pinas_models`` registers them, then use ``timm.create_model``."""

from .choices import BLOCK_CHOICES, PINAS_CLS, PINAS_MINI, PINAS_TRANS, RESNEST50, parse_choices
from .deploy.fuse import fuse
from .pinas import PinasBottleneck, PinasNet

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
]
__version__ = '0.1.0'
