"""Weight-sharing networks over a space."""

from .base import ChainSupernet, GatedSupernet, Gates, Supernet
from .nasbench201 import NASBench201Supernet
from .resnest import ResNeStSupernet

__all__ = ['ChainSupernet', 'GatedSupernet', 'Gates', 'NASBench201Supernet', 'ResNeStSupernet', 'Supernet']
