"""``pinas-models predict``: what is in an image."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..evaluation import class_names, make_protocol
from ..evaluation.labels import ClassNames
from ..evaluation.predict import Prediction, find_all_images, predict
from ._options import add_model_arguments, add_running_arguments, make_classifier, open_with_weights, positive

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'classify images'
EXAMPLES = """exit code:
  0 if all images were classified, 1 if some could not be read (they are named on the standard error), 2 if none could

Photographs are turned upright as their EXIF orientation says, here, by validate and by pinas-search. Values of 16 and
32 bits are scaled to 8. Formats: BMP, GIF, JPEG, PNG, PPM, TIFF, WebP, of at most 178,956,970 pixels.

examples:
  pinas-models predict cat.png
  pinas-models predict photos 'more/**/*.jpg' --model pinas_cls.in1k --topk 3
  pinas-models predict photos --model local-dir:runs/cifar10/retrain/winner/model --json
  pinas-models predict photos --model pinas_cls --checkpoint pinas_cls.pth.tar
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'images', metavar='IMAGE', nargs='+', help='a file, a folder (with its sub-folders) or a quoted pattern'
    )
    add_model_arguments(parser, default='pinas_mini.cifar10')
    parser.add_argument('--topk', type=positive, default=5, help='number of classes to show (default: 5)')
    parser.add_argument('--protocol', choices=['timm', 'authors'], default='timm', help='of validate (default: timm)')
    add_running_arguments(parser, batch_size=32)
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Print the most probable classes of each image; returns 1 if an image could not be read, 2 if none could.

    Raises:
        OSError: If a file of the model is missing.
        ValueError: If there is no such model, or it has no weights or no classifier.
    """
    paths, faults = find_all_images(args.images)
    for fault in faults:
        _complain(fault)
    failures = len(faults)
    if not paths:
        return 2
    model = open_with_weights(args)
    names = class_names(model)
    protocol = make_protocol(args.protocol, model)
    classifier = make_classifier(model, args)
    records = []
    done = 0
    for prediction in predict(classifier, protocol, paths, topk=args.topk, batch_size=args.batch_size):
        if prediction.error:
            failures += 1
            _complain(f'cannot read {prediction.path} ({prediction.error})')
            records.append({'image': str(prediction.path), 'error': prediction.error})
            continue
        done += 1
        record = _record(prediction, names)
        records.append(record)
        if not args.json:
            _print(record)
    if args.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    return 0 if not failures else 1 if done else 2


def _complain(message: str) -> None:
    print(f'pinas-models predict: {message}', file=sys.stderr)


def _record(prediction: Prediction, names: ClassNames | None) -> dict[str, Any]:
    return {
        'image': str(prediction.path),
        'classes': [
            {
                'index': index,
                'label': names.labels[index] if names else None,
                'name': names.descriptions[index] if names else f'class {index}',
                'probability': round(probability, 6),
            }
            for index, probability in zip(prediction.classes, prediction.probabilities, strict=True)
        ],
    }


def _print(record: dict[str, Any]) -> None:
    print(record['image'])
    for entry in record['classes']:
        print(f'  {100 * entry["probability"]:6.2f} %  {entry["index"]:5}  {entry["name"]}')
