"""What the commands of the project have in common: one module per subcommand, one line for a user's mistake."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from .text import one_line

__all__ = ['run_command']


def run_command(
    prog: str, description: str, package: str, names: Sequence[str], arguments: Sequence[str] | None = None
) -> int:
    """Parse a command line and run the subcommand that it names.

    Args:
        prog: Name of the command.
        description: What it is for, a sentence.
        package: Package of the subcommands. Each is a module with ``HELP``, ``EXAMPLES``, ``add_arguments(parser)``
            and ``run(args)``, which returns the exit code.
        names: The subcommands in the order of the help.
        arguments: None for those of the process.

    Returns:
        The exit code: 0, 1 for a check that failed, 2 for a user's mistake, 130 when interrupted.
    """
    args = _parser(prog, description, package, names).parse_args(arguments)
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
        print(f'{prog} {args.command}: error: {one_line(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'{prog} {args.command}: interrupted', file=sys.stderr)
        return 130


def _parser(prog: str, description: str, package: str, names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f'{prog} COMMAND --help shows the options and examples of a command.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in names:
        module = importlib.import_module(f'{package}.{name}')
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + '.',
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument('--debug', action='store_true', help='show the traceback of an error')
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
