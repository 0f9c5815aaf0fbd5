"""mmengine's Runner, for commands that may be killed at any time and whose console is read by somebody."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from pinas_models.common.files import atomic_path

from .console import only_progress

__all__ = ['CommandRunner', 'QuietRunner']


class CommandRunner(Runner):
    """A Runner that never leaves half a checkpoint under the name of a whole one."""

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Save under another name first. The arguments are those of mmengine's Runner."""
        if '://' in out_dir:  # an object store: it has a name only when it is complete
            super().save_checkpoint(out_dir, filename, *args, **options)
            return
        if self.rank == 0:  # the others write nothing
            with atomic_path(Path(out_dir) / filename) as partial:
                super().save_checkpoint(out_dir, partial.name, *args, **options)


class QuietRunner(CommandRunner):
    """One whose console shows progress and warnings only."""

    def build_logger(self, *args: Any, **options: Any) -> logging.Logger:
        """Make the logger. The arguments are those of mmengine's Runner."""
        logger = super().build_logger(*args, **options)
        only_progress(logger)
        return logger
