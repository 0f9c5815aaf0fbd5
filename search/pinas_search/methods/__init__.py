"""How a supernet is trained: one module per method, all with the verbs of ``Method``."""

from .architecture import ArchitectureMethod, ArchitectureParameters
from .base import Method, PathMethod, Step, Stream, apply_update, decay_no_norms, sgd
from .fairnas import FairNas
from .pinas import SupernetPi
from .spos import Spos
from .supervised import SupervisedMethod

__all__ = [
    'ArchitectureMethod',
    'ArchitectureParameters',
    'FairNas',
    'Method',
    'PathMethod',
    'Spos',
    'Step',
    'Stream',
    'SupernetPi',
    'SupervisedMethod',
    'apply_update',
    'decay_no_norms',
    'sgd',
]
