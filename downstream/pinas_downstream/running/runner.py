"""mmengine's Runner, for commands that may be killed at any time and whose console is read by somebody."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from pinas_models.common.files import atomic_path

from .console import only_progress
from .hooks import RandomNumbers

__all__ = ['CommandRunner', 'QuietRunner']


class CommandRunner(Runner):
    """A Runner that never leaves half a checkpoint under the name of a whole one, and goes on where it was killed."""

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Save under another name first. The arguments are those of mmengine's Runner."""
        if '://' in out_dir:  # an object store: it has a name only when it is complete
            super().save_checkpoint(out_dir, filename, *args, **options)
            return
        if self.rank == 0:  # the others write nothing
            with atomic_path(Path(out_dir) / filename) as partial:
                super().save_checkpoint(out_dir, partial.name, *args, **options)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the one of every training of the commands too. The arguments are those of mmengine's Runner."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(RandomNumbers())


class QuietRunner(CommandRunner):
    """One whose console shows progress and warnings only."""

    def build_logger(self, *args: Any, **options: Any) -> logging.Logger:
        """Make the logger. The arguments are those of mmengine's Runner."""
        logger = super().build_logger(*args, **options)
        only_progress(logger)
        return logger
