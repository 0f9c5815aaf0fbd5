"""The stages of a run. They meet only through the files of the run directory."""

from collections.abc import Callable
from importlib import import_module

from .. import STAGES
from .run import Run

__all__ = ['Run', 'stage_function']


def stage_function(name: str) -> Callable[[Run], None]:
    """The function of a stage.

    Args:
        name: One of ``pinas_search.STAGES``.
    """
    if name not in STAGES:
        raise ValueError(f'there is no stage {name}; stages are {", ".join(STAGES)}')
    return getattr(import_module(f'{__name__}.{name}'), name)
