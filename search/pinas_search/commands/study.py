"""``pinas-search study``: several runs over seeds, compared in one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'run what is missing of a study, and compare its runs'
EXAMPLES = """examples:
  pinas-search study figure3 data.root=data/cifar10 truth.file=nasbench201_200ep.csv.gz --workers 2
  pinas-search study table7 data.root=data/cifar10 --dry-run     print the runs and how they differ
  pinas-search study mine.yaml --out runs/mine learn.epochs=2    key=value is for all runs

Starting again with the same --out fills in what is missing. The table is study.md, study.csv and study.json in it, the
picture study.png and study.svg. A run that fails stops no other; the exit code is then 2.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('study', metavar='STUDY', help='YAML file or built-in name')
    parser.add_argument('--out', type=Path, metavar='DIR', help='folder of the run directories (default: runs/<study>)')
    parser.add_argument('--workers', type=int, default=1, metavar='N', help='so many runs at a time')
    parser.add_argument('--dry-run', action='store_true', help='print the runs and their differing settings, and stop')
    parser.add_argument(
        'overrides', nargs='*', metavar='key=value', help='a setting of all runs, such as data.root=DIR'
    )


def run(args: argparse.Namespace) -> int:
    """Run a study; returns 2 if a run has failed.

    Raises:
        ValueError: If the study is wrong, or no run has finished.
        OSError: If a file is missing or cannot be written.
    """
    from ..studies import read_study

    if args.workers < 1:
        raise ValueError(f'--workers is {args.workers}: at least 1 is needed')
    study = read_study(args.study, args.overrides)
    out = args.out or Path('runs') / study.name
    if args.dry_run:
        from ..studies.describe import describe

        print(describe(study, out), end='')
        return 0

    from pinas_models.common.files import write_json, write_text

    from ..records import own
    from ..report.figures import save_pictures
    from ..studies.execute import run_study
    from ..studies.table import draw, make_table, to_csv, to_markdown

    with own(out):
        try:
            done = run_study(study, out, args.workers)
        except KeyboardInterrupt as error:
            print('pinas-search: interrupted; the same command goes on from here', file=sys.stderr)
            return 128 + getattr(error, 'number', 2)
        table = make_table(done)
        write_text(out / 'study.md', to_markdown(table))
        write_text(out / 'study.csv', to_csv(table))
        write_json(out / 'study.json', table.to_json())
        save_pictures({'study': draw(table)}, out)
    print(to_markdown(table), end='')
    print(f'study: {out / "study.md"}')
    return 2 if done.failed else 0
