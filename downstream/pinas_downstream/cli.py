"""The command ``pinas-downstream``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from pinas_models.common.command_line import command_modules, run_command
from pinas_models.common.images import MAX_PIXELS

__all__ = ['main']

# In the order of the help.
COMMANDS = ('info', 'train', 'test', 'predict', 'publish', 'convert', 'tool')
_DESCRIPTION = 'Detect and segment with Π-NAS backbones in MMDetection and MMSegmentation.'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 if some images could not be read, 2 for a user's mistake, 130 when interrupted."""
    # mmengine imports it anew at every question whether a package is there, and a user cannot change that.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    # OpenCV, which reads most images for mmcv, takes six times as many. It looks once, at its first image.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))
    return run_command(
        'pinas-downstream', _DESCRIPTION, command_modules('pinas_downstream.commands', COMMANDS), arguments
    )


if __name__ == '__main__':
    sys.exit(main())
