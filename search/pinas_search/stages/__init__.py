"""The stages of a run. They meet only through the files of the run directory."""

from collections.abc import Callable
from importlib import import_module

from .. import STAGES
from .run import Run

__all__ = ['RANKED', 'Run', 'stage_function']

# Stages whose work the ranks share. The first rank runs the others alone.
RANKED = frozenset({'learn', 'linear', 'retrain'})


def stage_function(name: str) -> Callable[[Run], None]:
    """The function of a stage.

    Args:
        name: One of ``pinas_search.STAGES``.
    """
    if name not in STAGES:
        raise ValueError(f'there is no stage {name}; stages are {", ".join(STAGES)}')
    return getattr(import_module(f'{__name__}.{name}'), name)
