"""The command ``pinas-models``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

__all__ = ['main']

# In the order of the help.
COMMANDS = ('list', 'info', 'predict', 'validate', 'convert', 'export', 'publish', 'verify', 'benchmark')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 for a check that failed, 2 for a user's mistake, 130 when interrupted."""
    args = _parser().parse_args(arguments)
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
        print(f'pinas-models {args.command}: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'pinas-models {args.command}: interrupted', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='pinas-models',
        description='Use the networks of the Π-NAS space: look at them, classify, evaluate, convert, export, publish.',
        epilog='pinas-models COMMAND --help shows the options and examples of a command.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        module = importlib.import_module(f'.commands.{name}', __package__)
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


if __name__ == '__main__':
    sys.exit(main())
