"""How the messages of this package list names."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

__all__ = ['first_names']

_SHOWN = 3
_LONGEST = 120


def first_names(names: Iterable[object]) -> str:
    """The first few of many names, each cut where it is very long."""
    shown = [str(name)[:_LONGEST] for name in islice(iter(names), _SHOWN + 1)]
    return ', '.join(shown[:_SHOWN]) + (', ...' if len(shown) > _SHOWN else '')
