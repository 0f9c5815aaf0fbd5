"""What the commands of the project have in common: one module per subcommand, one line for a user's mistake."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from .text import one_line

__all__ = ['Command', 'command_modules', 'run_command']


class Command(Protocol):
    """A subcommand, usually a module."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """What it does, in a phrase."""

    @property
    def EXAMPLES(self) -> str:  # noqa: N802
        """Lines that show it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments. A positional ``overrides`` may stand between options."""

    def run(self, args: argparse.Namespace) -> int:
        """Run it; returns the exit code."""


def run_command(
    prog: str, description: str, commands: Mapping[str, Command], arguments: Sequence[str] | None = None
) -> int:
    """Parse a command line and run the subcommand that it names.

    Args:
        prog: Name of the command.
        description: What it is for, a sentence.
        commands: The subcommands by name, in the order of the help.
        arguments: None for those of the process.

    Returns:
        The exit code: 0, 1 for a check that failed, 2 for a user's mistake, 130 when interrupted.
    """
    parser = _parser(prog, description, commands)
    args, rest = parser.parse_known_args(arguments)
    # argparse takes positional arguments up to the next option only.
    if rest and (not hasattr(args, 'overrides') or any(argument.startswith('-') for argument in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        args.overrides += rest
    if not args.debug:
        warnings.showwarning = lambda message, *_, **__: print(f'warning: {message}', file=sys.stderr)
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader, for example head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = '; make room, then the same command goes on' if full else ''
        print(f'{prog} {args.command}: error: {one_line(error)}{remedy}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'{prog} {args.command}: interrupted', file=sys.stderr)
        return 130


def command_modules(package: str, names: Sequence[str]) -> dict[str, Command]:
    """Subcommands that are modules of a package, by name."""
    return {name: cast(Command, importlib.import_module(f'{package}.{name}')) for name in names}


def _parser(prog: str, description: str, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f'{prog} COMMAND --help shows the options and examples of a command.',
    )
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + '.',
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.add_argument('--debug', action='store_true', help='show the traceback of an error')
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
