"""Options that the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from ..config import load_config

__all__ = ['add_config_options', 'add_running_options', 'read_config']


class _Settings(DictAction):
    """mmengine's reading of ``KEY=VALUE``, with a line for what it cannot read."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError) as error:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE ({error})') from error


def add_config_options(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Declare a configuration, where its data is, and changes to it.

    Args:
        parser: Of the command.
        optional: The configuration may be left out.
    """
    parser.add_argument(
        'config',
        metavar='CONFIG',
        nargs='?' if optional else None,
        help='name of a built-in configuration, or a file',
    )
    parser.add_argument('--data-root', metavar='DIR', help="folder of the data, instead of the configuration's")
    parser.add_argument(
        '--classes', type=_names, metavar='A,B,C', help='names of the classes of your data, in the order of the labels'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=_Settings, metavar='KEY=VALUE', help='change any setting, dotted'
    )


def add_running_options(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Declare what a Runner needs.

    Args:
        parser: Of the command.
        work_dir: The default, for the help.
    """
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help=f'where to write (default: {work_dir})')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help='pytorch: started by torchrun')
    parser.add_argument(
        '--verbose', action='store_true', help='show all of the log, not only progress and warnings; its file has it'
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(',')]


def read_config(args: argparse.Namespace) -> Config:
    """Read the configuration that a command line names, with its changes.

    Raises:
        OSError: If there is none.
        ValueError: See ``load_config``.
    """
    return load_config(args.config, args.cfg_options, args.data_root, args.classes)
