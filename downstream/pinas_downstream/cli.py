"""The command ``pinas-downstream``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from pinas_models.common.command_line import command_modules, run_command

__all__ = ['main']

# In the order of the help.
COMMANDS = ('info', 'train', 'test', 'predict', 'publish', 'convert', 'tool')
_DESCRIPTION = 'Detect and segment with Π-NAS backbones in MMDetection and MMSegmentation.'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 if some images could not be read, 2 for a user's mistake, 130 when interrupted."""
    # mmengine imports it anew at every question whether a package is there, and a user cannot change that.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    return run_command(
        'pinas-downstream', _DESCRIPTION, command_modules('pinas_downstream.commands', COMMANDS), arguments
    )


if __name__ == '__main__':
    sys.exit(main())
