"""The command ``pinas-search``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

__all__ = ['main']

_EXAMPLES = """examples:
  pinas-search run --config digits                            everything on built-in data, a few minutes on two cores
  pinas-search run --config cifar10 data.root=data/cifar10    Π-NAS on CIFAR-10
  pinas-search run --config digits --seed 3 learn.epochs=2    change any setting with key=value
  pinas-search search --config digits --out runs/digits-0     one stage; it goes on where it stopped
  pinas-search report --config digits --out runs/digits-0     write the page again

  pinas-search run --config cifar10 --show                    print every setting and its value, and stop

Starting again with the same --out continues where a run stopped. Settings are the fields of the configuration file,
dotted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    parser = _parser()
    args = parser.parse_intermixed_args(arguments)
    try:
        return _run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        if args.debug:
            raise
        print(f'pinas-search: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('pinas-search: interrupted; the same command goes on from the last checkpoint', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='pinas-search',
        description='Learn a supernet, search it, retrain the winner, and report.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = ('learn', 'linear', 'search', 'retrain', 'report', 'run')
    parser.add_argument('stage', choices=stages, help='one stage, or run: all of them in order')
    parser.add_argument('--config', action='append', default=[], metavar='NAME', help='YAML file or built-in name')
    parser.add_argument('--out', type=Path, metavar='DIR', help='run directory (default: runs/<config>-<seed>)')
    parser.add_argument('--seed', type=int, help='seed of everything random')
    parser.add_argument('--device', help='auto, cpu, cuda or mps')
    parser.add_argument('--show', action='store_true', help='print the resolved configuration as YAML and stop')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='any setting, for example learn.epochs=2')
    return parser


def _run(args: argparse.Namespace) -> int:
    import torch

    from .configuration import check_run_dir, parse_config, to_yaml
    from .stages import ALL_STAGES, Run

    shortcuts = {'seed': args.seed, 'device': args.device}
    overrides = [f'{key}={value}' for key, value in shortcuts.items() if value is not None]
    config = parse_config(args.config or ['digits'], [*args.overrides, *overrides])
    if args.show:
        print(to_yaml(config), end='')
        return 0
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    out = args.out or Path('runs') / f'{Path((args.config or ["digits"])[-1]).stem}-{config.seed}'
    run = Run(config, out)
    _ = run.device, run.splits  # a missing device or a damaged image is found before the directory is begun
    check_run_dir(config, out)
    warnings.showwarning = lambda message, *_, **__: print(f'warning: {message}', file=sys.stderr)
    for name, stage in ALL_STAGES.items():
        if args.stage in (name, 'run'):
            stage(run)
    return 0


if __name__ == '__main__':
    sys.exit(main())
