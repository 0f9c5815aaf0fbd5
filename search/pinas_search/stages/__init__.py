"""The stages of a run. They meet only through the files of the run directory."""

from collections.abc import Callable, Sequence
from importlib import import_module

from .. import STAGES
from ..config import check_run_dir
from .run import Run

__all__ = ['Run', 'run_stages', 'stage_function']


def run_stages(run: Run, stages: Sequence[str]) -> None:
    """Run stages in a run directory, which the caller owns; those that have finished are left alone.

    Args:
        run: The run.
        stages: Names of the stages, in order.

    Raises:
        ValueError: If another configuration made the directory; and what the stages raise.
    """
    if tuple(stages) != ('report',):  # the page needs neither images nor settings
        check_run_dir(run.config, run.path)
        run.note_classes()
    for stage in stages:
        stage_function(stage)(run)


def stage_function(name: str) -> Callable[[Run], None]:
    """The function of a stage.

    Args:
        name: One of ``pinas_search.STAGES``.
    """
    if name not in STAGES:
        raise ValueError(f'there is no stage {name}; stages are {", ".join(STAGES)}')
    return getattr(import_module(f'{__name__}.{name}'), name)
