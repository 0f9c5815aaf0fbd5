"""The command ``pinas-models``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .common.command_line import command_modules, run_command

__all__ = ['main']

# In the order of the help.
COMMANDS = ('list', 'info', 'predict', 'validate', 'convert', 'export', 'publish', 'verify', 'benchmark')
_DESCRIPTION = 'Use the networks of the Π-NAS space: look at them, classify, evaluate, convert, export, publish.'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 for a check that failed, 2 for a user's mistake, 130 when interrupted."""
    return run_command('pinas-models', _DESCRIPTION, command_modules('pinas_models.commands', COMMANDS), arguments)


if __name__ == '__main__':
    sys.exit(main())
