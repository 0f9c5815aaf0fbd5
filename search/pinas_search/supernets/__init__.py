"""Weight-sharing networks over a space."""

from .base import ChainSupernet, Supernet
from .resnest import ResNeStSupernet

__all__ = ['ChainSupernet', 'ResNeStSupernet', 'Supernet']
