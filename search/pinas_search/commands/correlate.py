"""``pinas-search correlate``: how well scores from anywhere rank networks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..scoring.ranking import FEW, compare_taus, ranking_report, trivial_predictors
from ..scoring.tables import join, read_table, unmatched
from ..scoring.truth import FIDELITIES, NATS_SEEDS, load_truth
from ..spaces import Space, mini, nasbench201, resnest50

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'say how well scores rank networks whose true accuracies are known'
EXAMPLES = """Both files are CSV (or .csv.gz) with a header; rows are joined by the column --key.
Bigger is better on both sides.

examples:
  pinas-search correlate predictions.csv truth.csv --truth accuracy
  pinas-search correlate predictions.csv nasbench201_200ep.csv.gz --space nasbench201 --only 729 --out report.json
  pinas-search correlate pinas.csv nasbench201_200ep.csv.gz --space nasbench201 --against spos.csv
  pinas-search correlate pinas0.csv,pinas1.csv TRUTH.csv.gz --against spos0.csv,spos1.csv    # seeds of each
  pinas-search correlate predictions.csv NATS-tss-v1_0-3ffb9-simple --space nasbench201 --fidelity 200 --seeds mean
"""

_SPACES: dict[str, Callable[[], Space]] = {'nasbench201': nasbench201, 'resnest50': resnest50, 'mini': mini}


@dataclass(frozen=True)
class Predictor:
    """Scores from one or several seeds.

    Attributes:
        name: Names of the files.
        keys: The networks.
        scores: Scores [S, N].
        checksum: SHA-256 of the files.
    """

    name: str
    keys: tuple[str, ...]
    scores: np.ndarray
    checksum: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'predictions', metavar='PREDICTIONS.csv', help='scores of networks; A.csv,B.csv are seeds of one predictor'
    )
    parser.add_argument('truth_file', type=Path, metavar='TRUTH.csv', help='true accuracies, or the NATS-Bench folder')
    parser.add_argument('--key', default='arch', help='column that names the network (default: arch)')
    parser.add_argument('--truth-key', metavar='KEY', help='the same in TRUTH.csv, if it has another name there')
    parser.add_argument('--score', default='score', help='column of the scores (default: score)')
    parser.add_argument('--truth', default='cifar10', help='column of the accuracies, or data set (default: cifar10)')
    parser.add_argument(
        '--fidelity', type=int, choices=FIDELITIES, help='epochs of the accuracies; NATS-Bench needs it'
    )
    parser.add_argument('--seeds', choices=NATS_SEEDS, help='seeds of the accuracies; NATS-Bench needs it')
    parser.add_argument('--space', choices=tuple(_SPACES), help='space of the networks: adds what costs alone predict')
    parser.add_argument('--only', metavar='SET', help='a set of networks of the space, such as 729 of nasbench201')
    parser.add_argument('--against', action='append', default=[], metavar='OTHER.csv', help='compare with; or seeds')
    parser.add_argument('--seed', type=int, default=0, help='seed of bootstrap and permutations (default: 0)')
    parser.add_argument('--samples', type=int, default=1000, help='bootstrap samples, and permutations (default: 1000)')
    parser.add_argument('--out', type=Path, metavar='REPORT.json', help='write all statistics as JSON')


def run(args: argparse.Namespace) -> int:
    """Correlate two tables.

    Raises:
        OSError: If a file is missing or cannot be written.
        ValueError: If a table or an option is wrong.
    """
    if args.samples < 1:
        raise ValueError(f'--samples is {args.samples}: at least 1 is needed')
    if args.seed < 0:
        raise ValueError(f'--seed is {args.seed}: it must not be negative')
    if args.out is not None and not args.out.parent.is_dir():
        raise FileNotFoundError(f'--out {args.out}: the folder {args.out.parent} does not exist')
    space = _SPACES[args.space]() if args.space else None
    normalize = None if space is None else lambda text: space.encode(space.decode(text))
    belongs = _membership(space, args.only)

    predictions, *others = (_read(names, args, normalize) for names in (args.predictions, *args.against))
    truth = load_truth(
        args.truth_file,
        args.truth,
        key=args.truth_key or args.key,
        fidelity=args.fidelity,
        seeds=args.seeds,
        normalize=normalize,
    )

    kept = _select(predictions.keys, belongs)
    known = _select(truth.keys, belongs)
    joined = join(tuple(predictions.keys[row] for row in kept), tuple(truth.keys[row] for row in known))
    if len(joined.keys) < 2:
        raise ValueError(
            f'{args.predictions} and {args.truth_file} share {len(joined.keys)} networks, a ranking needs two: '
            f'{args.key} is {predictions.keys[0]!r} in the first and {truth.keys[0]!r} in the second'
            + ('; --space knows both spellings of a cell' if space is None else '')
        )
    rows, columns = kept[joined.left], known[joined.right]
    values, accuracies = predictions.scores[:, rows], truth.accuracies[columns]
    trivial = {} if space is None else trivial_predictors(space, [space.decode(key) for key in joined.keys])
    if truth.short is not None:
        trivial['12-epoch accuracy'] = truth.short[columns]
    # One stream per purpose: the interval does not depend on how many tables are compared.
    streams = np.random.default_rng(args.seed).spawn(1 + len(others))
    report = ranking_report(values, accuracies, streams[0], samples=args.samples, known=len(known), trivial=trivial)
    chosen = [joined.keys[int(row.argmax())] for row in values]
    report |= {
        'chosen': chosen[0] if len(chosen) == 1 else chosen,
        'space': args.space,
        'only': args.only,
        'recalibrated': None,  # a table does not say it
        'calibration_images': None,
        'predictions': {'file': predictions.name, 'column': args.score, 'checksum': predictions.checksum},
        'truth': truth.facts(),
        'unmatched': {'predictions': len(joined.only_left), 'truth': len(joined.only_right)},
        'seed': args.seed,
        'against': [
            _compare(other, joined.keys, values, accuracies, stream, args.samples)
            for other, stream in zip(others, streams[1:], strict=True)
        ],
    }
    _print(report, joined.only_left, joined.only_right)
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
    return 0


def _membership(space: Space | None, name: str | None) -> Callable[[str], bool]:
    if space is None:
        if name is not None:
            raise ValueError(f'--only {name} names a set of networks of a space: give --space')
        return lambda key: True
    member = space.subset(name)
    return lambda key: member(space.decode(key))


def _select(keys: Sequence[str], belongs: Callable[[str], bool]) -> np.ndarray:
    return np.array([row for row, key in enumerate(keys) if belongs(key)], dtype=np.int64)


def _read(names: str, args: argparse.Namespace, normalize: Callable[[str], str] | None) -> Predictor:
    """Read a table, or the tables of several seeds, of which the networks that all know are kept."""
    paths = [Path(names)] if Path(names).exists() else [Path(name) for name in names.split(',')]
    tables = [read_table(path, args.key, normalize) for path in paths]
    shared = set.intersection(*(set(table.keys) for table in tables))
    keys = tuple(key for key in tables[0].keys if key in shared)
    scores = [table.numbers(args.score)[join(table.keys, keys).left] for table in tables]
    checksum = ','.join(table.checksum for table in tables)
    return Predictor(','.join(path.name for path in paths), keys, np.stack(scores), checksum)


def _compare(
    other: Predictor,
    keys: tuple[str, ...],
    values: np.ndarray,
    accuracies: np.ndarray,
    generator: np.random.Generator,
    samples: int,
) -> dict[str, Any]:
    """Compare with another predictor on the networks that it has too."""
    joined = join(other.keys, keys)
    if len(joined.keys) < 2:
        raise ValueError(f'{other.name} shares {len(joined.keys)} networks with the others, a ranking needs two')
    here = joined.right
    comparison = compare_taus(values[:, here], other.scores[:, joined.left], accuracies[here], generator, samples)
    return {
        'file': other.name,
        'n': comparison.n,
        'difference': comparison.difference,
        'interval': list(comparison.interval),
        'verdict': comparison.verdict,
        'missing': len(joined.only_right),
    }


def _print(report: dict[str, Any], only_left: tuple[str, ...], only_right: tuple[str, ...]) -> None:
    truth, (low, high) = report['truth'], report['kendall_tau_interval']
    epochs = 'unknown number of' if truth['fidelity'] is None else truth['fidelity']
    known = f', {truth["source"]}' if truth['source'] else ''
    print(f'truth      {truth["file"]}, {truth["column"]}, {epochs} epochs{known}')
    print(f'           SHA-256 {truth["checksum"]}')
    print(f'networks   {report["n"]}, {report["coverage"]:.1%} of those with a known accuracy')
    print(f'unmatched  predictions {unmatched(only_left)}; truth {unmatched(only_right)}')
    print()
    constant = '  all scores are the same' if report['constant'] else ''
    print(f'tau-b              {report["kendall_tau"]:+.3f}  95 % [{low:+.3f}, {high:+.3f}]{constant}')
    if report['seeds'] > 1:
        print(
            f'                   mean of {report["seeds"]} seeds: '
            + ', '.join(f'{t:+.3f}' for t in report['seed_taus'])
        )
    print(f'p-value            {report["p_value"]:.4f}  ({report["samples"]} permutations)')
    print(f'Spearman           {report["spearman"]:+.3f}')
    print(f'weighted tau       {report["weighted_tau"]:+.3f}')
    top = report['top_tenth_tau']
    print(f'tau in top tenth   {"-" if top is None else f"{top:+.3f}"}')
    chosen = report['chosen'] if isinstance(report['chosen'], str) else ', '.join(report['chosen'])
    print(f'chosen, true       {report["chosen_true"]:.4g}  ({chosen})')
    print(f'best, true         {report["best_true"]:.4g}  (regret {report["regret"]:.3g})')
    print()
    names = list(report['precision_at'])
    print('top k              ' + ''.join(f'{name:>8}' for name in names))
    print('precision          ' + ''.join(f'{report["precision_at"][name]:8.2f}' for name in names))
    print('best true rank     ' + ''.join(f'{report["best_rank_at"][name]:8.4g}' for name in names))
    if report['trivial']:
        print('\nwithout any training, tau-b:')
        for name, tau in sorted(report['trivial'].items(), key=lambda item: -item[1]):
            print(f'  {name:<24} {tau:+.3f}')
    for other in report['against']:
        low, high = other['interval']
        missing = f', {other["missing"]} networks are missing there' if other['missing'] else ''
        print(
            f'\nagainst {other["file"]}: {other["verdict"]}, difference {other["difference"]:+.3f} '
            f'95 % [{low:+.3f}, {high:+.3f}]{missing}'
        )
    if report['n'] < FEW:
        print(f'\nwarning: {report["n"]} networks are few, a tau of 13 networks has a standard deviation of 0.14')
