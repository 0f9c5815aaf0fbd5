"""How a supernet is trained: one module per method, all with the verbs of ``Method``."""

from .base import Method, PathMethod, Step, Stream, decay_no_norms, sgd
from .pinas import SupernetPi
from .spos import Spos

__all__ = ['Method', 'PathMethod', 'Spos', 'Step', 'Stream', 'SupernetPi', 'decay_no_norms', 'sgd']
