"""A score that the method itself offers, such as the log-probability of a path under its architecture parameters."""

from __future__ import annotations

from dataclasses import dataclass

from .base import OffersScorers, Scorer, Tools

__all__ = ['NEEDS', 'Options', 'check', 'create']

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
    return _find(tools.load_method(), tools, options)


def check(tools: Tools, options: Options) -> None:
    """Make sure before the learning that the method will offer the score.

    Raises:
        ValueError: If it does not.
    """
    _find(tools.build_method(), tools, options)


def _find(method: OffersScorers, tools: Tools, options: Options) -> Scorer:
    scorers = method.scorers(tools)
    name = options.name or next(iter(scorers), '')
    if name not in scorers:
        known, offers = tools.config.learn.method, ', '.join(scorers) or 'none'
        raise ValueError(f'search.scorer: the method {known} has no score {name!r} of its own (it has: {offers})')
    return scorers[name]
