"""Weight-sharing networks over a space."""

from .base import ChainSupernet, GatedSupernet, Gates, Supernet
from .graph import Call, Graph, Node
from .nasbench201 import NASBench201Supernet
from .resnest import ResNeStSupernet

__all__ = [
    'Call',
    'ChainSupernet',
    'GatedSupernet',
    'Gates',
    'Graph',
    'NASBench201Supernet',
    'Node',
    'ResNeStSupernet',
    'Supernet',
]
