"""Which candidate next: one module per strategy, each proposes a path from what is known."""

<<<<<<< HEAD
from .base import Observation, Proposal, Proposer, Seen, SpaceExhaustedError, Strategy
from .lanas import LaNAS
from .random import RandomStrategy

__all__ = ['LaNAS', 'Observation', 'Proposal', 'Proposer', 'RandomStrategy', 'Seen', 'SpaceExhaustedError', 'Strategy']
=======
``OptunaStrategy`` is in ``pinas_search.strategies.optuna_sampler``; it stays there so that Optuna is imported on use
only.
"""

from __future__ import annotations

from pinas_models.common.text import nearest

from ..spaces import Limits, Space
from .base import SpaceExhaustedError, Strategy
from .lanas import LaNAS, LaNASOptions
from .random import RandomStrategy

__all__ = ['LaNAS', 'LaNASOptions', 'RandomStrategy', 'SpaceExhaustedError', 'Strategy', 'create_strategy']


def create_strategy(
    name: str, space: Space, *, seed: int, limits: Limits | None = None, lanas: LaNASOptions | None = None
) -> Strategy:
    """Build a strategy by name.

    Args:
        name: ``lanas``, ``random``, or ``optuna:NAME`` with a class of ``optuna.samplers``.
        space: The space.
        seed: Seed of everything random in the strategy.
        limits: Largest allowed cost; no limit if None.
        lanas: Options of ``lanas``; the others ignore them.

    Raises:
        ValueError: If the name is unknown or no path can satisfy the limits.
    """
    if name == 'lanas':
        return LaNAS(space, seed=seed, limits=limits, options=lanas)
    if name == 'random':
        return RandomStrategy(space, seed=seed, limits=limits)
    kind, _, sampler = name.partition(':')
    if kind == 'optuna':
        from .optuna_sampler import OptunaStrategy

        return OptunaStrategy(space, sampler, seed=seed, limits=limits)
    hint = nearest(name.lower(), ['lanas', 'random', 'optuna:TPESampler'], 0.4) or '.'
    raise ValueError(
        f'there is no strategy {name!r}{hint} Allowed are lanas, random, and optuna:NAME with a sampler of Optuna, '
        'for example optuna:TPESampler'
    )
>>>>>>> models
