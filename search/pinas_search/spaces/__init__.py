"""Search spaces: what can be chosen, and what it costs."""

from .base import Cost, CostTable, Limits, Path, Space
from .resnest import ResNeStSpace, mini, resnest50

__all__ = ['Cost', 'CostTable', 'Limits', 'Path', 'ResNeStSpace', 'Space', 'mini', 'resnest50']
