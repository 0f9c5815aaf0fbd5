"""The stages of a run. They meet only through the files of the run directory."""

from collections.abc import Callable

from ..report import write_report
from .learn import learn
from .linear import linear
from .retrain import retrain
from .run import Run
from .search import search

__all__ = ['ALL_STAGES', 'Run', 'learn', 'linear', 'report', 'retrain', 'search']


def report(run: Run) -> None:
    """Write ``report/index.html``."""
    print(f'report: {write_report(run.path, run.space)}', flush=True)


ALL_STAGES: dict[str, Callable[[Run], None]] = {
    'learn': learn,
    'linear': linear,
    'search': search,
    'retrain': retrain,
    'report': report,
}
