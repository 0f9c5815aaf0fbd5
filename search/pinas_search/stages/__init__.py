"""The stages of a run. They meet only through the files of the run directory."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from .. import STAGES, distributed
from .run import Run

__all__ = ['RANKED', 'Run', 'run_stages', 'stage_function']

# Stages whose work the ranks share. The first rank runs the others alone.
RANKED = frozenset({'learn', 'linear', 'retrain'})


def run_stages(run: Run, stages: Sequence[str]) -> None:
    """Run stages in a run directory that is begun; those that have finished are left alone.

    Args:
        run: The run.
        stages: Names of the stages, in order.

    Raises:
        ValueError: What the stages raise.
    """
    for stage in stages:
        function = stage_function(stage)
        if stage in RANKED:
            function(run)
        else:
            distributed.first(partial(function, run))


def stage_function(name: str) -> Callable[[Run], None]:
    """The function of a stage.

    Args:
        name: One of ``pinas_search.STAGES``.
    """
    if name not in STAGES:
        raise ValueError(f'there is no stage {name}; stages are {", ".join(STAGES)}')
    return getattr(import_module(f'{__name__}.{name}'), name)
