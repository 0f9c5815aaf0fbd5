"""The command ``pinas-search``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pinas_models.common.command_line import run_command

from .commands import correlate, study
from .commands.stage import STAGE_COMMANDS

__all__ = ['main']

_DESCRIPTION = 'Learn a supernet, search it, retrain the winner, and report.'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 2 for a user's mistake, 128 + the signal's number when interrupted."""
    return run_command(
        'pinas-search', _DESCRIPTION, {**STAGE_COMMANDS, 'study': study, 'correlate': correlate}, arguments
    )


if __name__ == '__main__':
    sys.exit(main())
