"""Search spaces: what can be chosen, and what it costs."""

from .base import AdditiveSpace, Choice, ChoicePath, Cost, CostTable, Description, Group, Limits, Space
from .graph import Graph, line_graph
from .nasbench201 import NASBench201Space, nasbench201
from .resnest import ResNeStSpace, mini, resnest50

__all__ = [
    'AdditiveSpace',
    'Choice',
    'ChoicePath',
    'Cost',
    'CostTable',
    'Description',
    'Graph',
    'Group',
    'Limits',
    'NASBench201Space',
    'ResNeStSpace',
    'Space',
    'line_graph',
    'mini',
    'nasbench201',
    'resnest50',
]
