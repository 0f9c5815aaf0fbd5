"""``pinas-models verify``: is a published model what its publisher uploaded?"""

from __future__ import annotations

import argparse
import sys

from huggingface_hub.utils import disable_progress_bars

from ..hub import TOLERANCE, find_folder, verify_folder

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'check a model folder or a repository of the Hub: checksums, golden tensors, card'
EXAMPLES = f"""checks
  checksums  configuration, weights and golden tensors have the sha256 of test/SHA256SUMS: finds any flipped bit
  weights    the model loads
  golden     its answers to the golden input equal those it gave where it was published; the difference is a part of the
             largest value of each tensor: 0 on the machine that wrote them; {TOLERANCE:g} is allowed, because other
             processors add up in another order (measured: up to 4e-6). Of single flipped bits in the weights it
             finds about one in five; that is what the checksums are for.
  card       README.md can be read by the Hub and states the model's own numbers
exit code 0: all passed, 1: a check failed, 2: there is no such model

examples:
  pinas-models verify ORG/pinas-mini-digits
  pinas-models verify ORG/pinas-mini-digits --revision v1.0
  pinas-models verify runs/published --tolerance 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('model', metavar='ORG/name|FOLDER', help='a repository of the Hub or a model folder')
    parser.add_argument('--revision', metavar='REV', help='branch, tag or commit of the repository (default: main)')
    parser.add_argument(
        '--tolerance',
        type=_tolerance,
        default=TOLERANCE,
        metavar='X',
        help=f'allowed difference from the golden tensors; 0: equal bit by bit (default: {TOLERANCE:g})',
    )


def _tolerance(text: str) -> float:
    """A ``float`` from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'{text} is no part of the largest value: give 0 or more and less than 1')
    return value


def run(args: argparse.Namespace) -> int:
    """Print a line per check.

    Raises:
        OSError: If there is no such folder or repository.
        ValueError: If the name can be neither.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    folder, description = find_folder(args.model, args.revision)
    print(f'{description}:')
    checks = verify_folder(folder, args.tolerance)
    for check in checks:
        print(f'  {"ok" if check.passed else "FAILED":6}  {check.name:9}  {check.detail}')
    return 0 if all(check.passed for check in checks) else 1
