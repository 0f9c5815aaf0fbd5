"""A score that the method itself offers, such as the log-probability of a path under its architecture parameters."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Scorer, Tools

__all__ = ['NEEDS', 'Options', 'create']

NEEDS = frozenset({'supernet'})


@dataclass(frozen=True)
class Options:
    """Options of the scorer.

    Attributes:
        name: Which of the method's scores; the first one if empty.
    """

    name: str = ''


def create(tools: Tools, options: Options) -> Scorer:
    """Build the scorer.

    Raises:
        ValueError: If the method offers no such score.
    """
    scorers = tools.load_method().scorers(tools)
    name = options.name or next(iter(scorers), '')
    if name not in scorers:
        method, offers = tools.config.learn.method, ', '.join(scorers) or 'none'
        raise ValueError(f'search.scorer: the method {method} has no score {name!r} of its own (it has: {offers})')
    return scorers[name]
