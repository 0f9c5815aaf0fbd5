"""Search spaces: what can be chosen, and what it costs."""

from .base import AdditiveSpace, Choice, ChoicePath, Cost, CostTable, Description, Group, Limits, Space
from .resnest import ResNeStSpace, mini, resnest50

__all__ = [
    'AdditiveSpace',
    'Choice',
    'ChoicePath',
    'Cost',
    'CostTable',
    'Description',
    'Group',
    'Limits',
    'ResNeStSpace',
    'Space',
    'mini',
    'resnest50',
]
