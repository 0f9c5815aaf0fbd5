"""How a supernet is trained: one module per method, all with the verbs of ``Method``."""

from .base import Method
from .loading import builtin_methods, create_method, load_method
from .pinas import SupernetPi
from .spos import Spos

__all__ = ['Method', 'Spos', 'SupernetPi', 'builtin_methods', 'create_method', 'load_method']
