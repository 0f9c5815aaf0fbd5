"""Options that the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ['add_config_options', 'cfg_options']


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Declare a configuration, where its data is, changes to it, and the work directory."""
    from mmengine.config import DictAction

    parser.add_argument('config', metavar='CONFIG', help='name of a built-in configuration, or a file')
    parser.add_argument('--data-root', metavar='DIR', help="folder of the data, instead of the configuration's")
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help='where to write (default: runs/<config>)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change any setting, dotted'
    )


def cfg_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """What was given as ``--cfg-options``; nothing if it was not."""
    return options or {}
