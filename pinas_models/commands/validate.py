"""``pinas-models validate``: top-1 and top-5 of a model on labelled images."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from ..evaluation import (
    PROTOCOLS,
    Classifier,
    Evaluation,
    LabelledImages,
    Protocol,
    RealLabels,
    class_names,
    evaluate,
    make_protocol,
    open_images,
    wilson_interval,
)
from ..evaluation.files import merge_results, read_results
from ._options import add_model_arguments, add_running_arguments, make_classifier, open_with_weights, positive

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'measure the top-1 and top-5 accuracy of a model'
EXAMPLES = """data:
  a folder or .tar of class folders, or a data set of torchvision by name: torch/NAME (with --data-dir). timm's other
  names (hfds/, hfids/, tfds/, wds/) are handed to timm; they are not tested here. Class folders are matched by name
  where the names are those of the model's classes (ImageNet's n01440764, or the names in its config), so subsets are
  fine; else by sorted order.

protocols:
  timm     what the model's config says: resize the short side to size/crop_pct, then take the central square
  authors  that of the reported accuracies: take the central size/(size+32) of the short side, then resize once
  both     one pass over the images, each decoded once

An image that cannot be read is an error that names it; with --skip-corrupt such images are listed and count in no
figure. With --results-file (or --resume-file) an interrupted command goes on where it stopped when it is given again.

examples:
  pinas-models validate imagenet/val --model pinas_cls.in1k --protocol both --results-file results.csv
  pinas-models validate imagenet/val --model pinas_cls --checkpoint pinas_cls.pth.tar --amp bf16 --channels-last
  pinas-models validate cifar10 --split test --model pinas_mini.cifar10
  pinas-models validate imagenet/val --model resnet50.a1_in1k --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('data', metavar='DATA', help='labelled images, see below')
    add_model_arguments(parser, default=None)
    parser.add_argument('--protocol', choices=['timm', 'authors', 'both'], default='timm', help='default: timm')
    parser.add_argument('--split', help='a sub-folder or the name of a split (default: validation where there is one)')
    parser.add_argument('--data-dir', metavar='FOLDER', help='where a data set that is given by name lies')
    parser.add_argument('--class-map', metavar='FILE', help='a folder name per line, in the order of the classes')
    parser.add_argument('--input-key', help='name of the image column (hfds, hfids)')
    parser.add_argument('--target-key', help='name of the class column (hfds, hfids)')
    parser.add_argument(
        '--real-labels',
        nargs='?',
        const='',
        metavar='FILE',
        help="count by ImageNet's ReaL labels as well (default file: the one that comes with timm)",
    )
    parser.add_argument('--img-size', type=positive, help="width and height in pixels (default: the model's)")
    parser.add_argument('--crop-pct', type=float, help="share of the short side, for timm (default: the model's)")
    parser.add_argument(
        '--workers', type=int, default=min(4, os.cpu_count() or 1), help='processes that decode (default: up to 4)'
    )
    add_running_arguments(parser, batch_size=64)
    parser.add_argument('--skip-corrupt', action='store_true', help='leave out images that cannot be read')
    parser.add_argument('--results-file', metavar='CSV', help="add a row per protocol to this table, in timm's columns")
    parser.add_argument('--resume-file', metavar='FILE', help='state of an interrupted run (default: beside the table)')
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one row per protocol.

    Raises:
        OSError: If a file or folder is missing, or cannot be written.
        ValueError: If data, model and options do not fit together; see ``evaluate``.
    """
    if args.crop_pct is not None and not 0 < args.crop_pct <= 1:
        raise ValueError(f'--crop-pct is {args.crop_pct}; it must be above 0 and at most 1')
    if args.crop_pct is not None and args.protocol == 'authors':
        raise ValueError("--crop-pct is for timm's protocol; the authors' share follows from the size")
    if args.workers < 0:
        raise ValueError(f'--workers is {args.workers}; it must be 0 or more')
    results = None if args.results_file is None else Path(args.results_file)
    if results is not None:
        read_results(results)  # hours later would be too late to find that it is not a table
    images, notice = open_images(
        args.data,
        root=args.data_dir,
        split=args.split,
        class_map=args.class_map,
        input_key=args.input_key,
        target_key=args.target_key,
        batch_size=args.batch_size,
    )
    model = open_with_weights(args)
    names = PROTOCOLS if args.protocol == 'both' else (args.protocol,)
    protocols = [make_protocol(name, model, args.img_size, args.crop_pct) for name in names]
    classifier = make_classifier(model, args)
    labels = class_names(model)
    notices = [notice, images.match_classes(labels.labels if labels else None, classifier.num_classes)]
    for text in filter(None, notices):
        warnings.warn(text, stacklevel=2)
    real_labels = None if args.real_labels is None else RealLabels(images.filenames(), args.real_labels or None)

    identity = _identity(args, images, classifier, protocols)
    state = _state_path(args, results, identity)
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate(
        classifier,
        images,
        protocols,
        batch_size=args.batch_size,
        workers=args.workers,
        real_labels=real_labels,
        skip_corrupt=args.skip_corrupt,
        state_path=state,
        identity=identity,
    )
    rows = [_row(args, model, protocol, evaluation, classifier) for protocol in protocols]
    if results is not None:
        merge_results(results, rows)
    if state is not None:
        state.unlink(missing_ok=True)
    _print(args, rows, evaluation, classifier)
    return 0


def _identity(
    args: argparse.Namespace, images: LabelledImages, classifier: Classifier, protocols: list[Protocol]
) -> dict[str, Any]:
    """What must be the same for an interrupted evaluation to go on."""
    identity = {
        'model': args.model,
        'weights': classifier.weights_digest(),
        'data': args.data,
        'images': images.digest(),
        'protocols': {p.name: [*p.input_size, p.crop_pct, p.interpolation] for p in protocols},
        'real_labels': args.real_labels,
        **classifier.setup,
    }
    if images.is_iterable:  # the order of a stream depends on them
        identity |= {'batch_size': args.batch_size, 'workers': args.workers}
    return identity


def _state_path(args: argparse.Namespace, results: Path | None, identity: dict[str, Any]) -> Path | None:
    if args.resume_file is not None:
        return Path(args.resume_file)
    if results is None:
        return None
    # Its name tells evaluations apart, so that those of several models can share a table.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return results.with_name(f'{results.name}.{digest}.partial.json')


def _row(
    args: argparse.Namespace,
    model: nn.Module,
    protocol: Protocol,
    evaluation: Evaluation,
    classifier: Classifier,
) -> dict[str, Any]:
    counts = evaluation.counts[protocol.name]
    row: dict[str, Any] = {
        'model': args.model,
        'img_size': protocol.input_size[-1],
        'param_count': round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        'crop_pct': protocol.crop_pct,
        'interpolation': protocol.interpolation,
        'protocol': protocol.name,
        'data': args.data if args.split is None else f'{args.data}:{args.split}',
        'images': counts.images,
        'skipped': len(evaluation.skipped),
        'dtype': classifier.setup['dtype'],
        'samples_per_sec': round(evaluation.seen / max(evaluation.seconds, 1e-9), 2),
    }
    for name, correct in (('top1', counts.top1), ('top5', counts.top5)):
        low, high = wilson_interval(correct, counts.images)
        share = round(100 * correct / counts.images, 4)
        row |= {name: share, f'{name}_err': round(100 - share, 4)}
        row |= {f'{name}_low': round(100 * low, 4), f'{name}_high': round(100 * high, 4)}
    if counts.real_images:
        row['real_images'] = counts.real_images
        row['real_top1'] = round(100 * counts.real_top1 / counts.real_images, 4)
        row['real_top5'] = round(100 * counts.real_top5 / counts.real_images, 4)
    return row


def _print(
    args: argparse.Namespace, rows: list[dict[str, Any]], evaluation: Evaluation, classifier: Classifier
) -> None:
    only_right = {'authors': evaluation.only_first_right, 'timm': evaluation.only_second_right}
    if args.json:
        report: dict[str, Any] = {'results': rows, 'setup': classifier.setup, 'skipped': dict(evaluation.skipped)}
        if len(rows) == 2:
            report['only_right'] = only_right
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    setup = classifier.setup['device'] + ', channels_last' * classifier.setup['channels_last']
    if classifier.setup['compiler']:
        setup += f', compiled by {classifier.setup["compiler"]}'
    print(f'{args.model} on {rows[0]["data"]}: {rows[0]["images"]} images, {rows[0]["dtype"]} on {setup}')
    print(f'{"protocol":10} {"top-1 %":>8}  {"95 % interval":16} {"top-5 %":>8}  95 % interval')
    for row in rows:
        cells = [f'{row["protocol"]:10}']
        for name in ('top1', 'top5'):
            interval = f'{row[f"{name}_low"]:.2f} to {row[f"{name}_high"]:.2f}'
            cells.append(f'{row[name]:8.2f}  {interval:16}')
        print(' '.join(cells).rstrip())
        if 'real_top1' in row:
            print(
                f'  ReaL     {row["real_top1"]:8.2f}  {"":16} {row["real_top5"]:8.2f}  of {row["real_images"]} images'
            )
    if len(rows) == 2:
        print(f'right with one protocol alone: {only_right["authors"]} authors, {only_right["timm"]} timm')
    print(f'{rows[0]["samples_per_sec"]:.1f} images/s, decoding included')
    for name, reason in evaluation.skipped:
        print(f'skipped: {name} ({reason})')
