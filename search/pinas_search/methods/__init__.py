"""How a supernet is trained: one module per method, all with the verbs of ``Method``."""

from .base import Method
from .pinas import SupernetPi
from .spos import Spos

__all__ = ['Method', 'Spos', 'SupernetPi']
