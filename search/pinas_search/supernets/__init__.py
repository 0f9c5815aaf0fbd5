"""Weight-sharing networks over a space."""

from .base import ChainSupernet, Supernet
from .nasbench201 import NASBench201Supernet
from .resnest import ResNeStSupernet

__all__ = ['ChainSupernet', 'NASBench201Supernet', 'ResNeStSupernet', 'Supernet']
