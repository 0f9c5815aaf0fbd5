"""Stage: the page."""

from __future__ import annotations

from .run import Run

__all__ = ['report']


def report(run: Run) -> None:
    """Write ``report/index.html``."""
    from ..report import write_report  # only this stage needs the template engine, matplotlib and scipy

    print(f'report: {write_report(run.path, run.space)}', flush=True)
