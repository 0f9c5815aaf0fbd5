"""``pinas-downstream predict``: draw what is in images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinas_models.common.files import write_json

from ..inference.files import output_names
from ..running import import_framework
from ..running.console import hiding_noise
from ..running.explain import explaining
from ._options import add_config_options, read_config

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'detect or segment in images: draw it, and write it as JSON'
EXAMPLES = """written into --out-dir, with the names of the images
  drawn/NAME.jpg     the image with boxes and masks, or with the colours of the classes
  predictions.json   a detector's objects in COCO's format (boxes x, y, width, height; masks as run lengths; category id
                     = class + 1), or a segmentor's share of each class
  classes/NAME.png   a segmentor's class of each pixel, 0 the first

exit code:
  0 if all images were done, 1 if some could not be read (they are named on the standard error), 2 if none could

examples:
  pinas-downstream predict mask-rcnn_pinas-mini_pennfudan runs/detector/epoch_36.pth street.jpg
  pinas-downstream predict deeplabv3_pinas-mini_camvid runs/segmentor/iter_900.pth photos '*.png' --out-dir out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_options(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the whole model')
    parser.add_argument(
        'images', metavar='IMAGE', nargs='+', help='a file, a folder (with its sub-folders) or a quoted pattern'
    )
    parser.add_argument('--out-dir', type=Path, default=Path('predictions'), metavar='DIR', help='default: predictions')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='P',
        help='objects with a lower score are left out (default: .3)',
    )
    parser.add_argument('--device', help='for example cpu or cuda:1 (default: cuda if there is a GPU, else cpu)')
    parser.add_argument('--json', action='store_true', help='print the content of predictions.json')


def run(args: argparse.Namespace) -> int:
    """Predict; returns 1 if an image could not be read, 2 if none could.

    Raises:
        OSError: If the configuration or the checkpoint is missing.
        ValueError: If they are wrong or do not fit.
    """
    from pinas_models.evaluation.classifier import resolve_device
    from pinas_models.evaluation.predict import find_all_images

    config = read_config(args)
    paths, faults = find_all_images(args.images)
    for fault in faults:
        _complain(fault)
    failures = len(faults)
    if not paths:
        return 2
    with explaining(), hiding_noise():
        import_framework(config)
        from ..inference.predictor import Predictor

        predictor = Predictor(config, args.checkpoint, resolve_device(args.device))
        done, content = _predict(predictor, paths, args)
    failures += len(paths) - done
    if not done:
        return 2
    write_json(args.out_dir / 'predictions.json', content, indent=None)
    if args.json:
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        print(f'drawn in {args.out_dir / "drawn"}, numbers in {args.out_dir / "predictions.json"}')
    return 1 if failures else 0


def _predict(predictor: Predictor, paths: list[Path], args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Predict and draw all images that can be read; returns their number and the content of the JSON file."""
    from ..inference.painting import Painter
    from ..inference.predictor import read_image
    from ..inference.results import CocoPredictions, class_shares, save_class_map

    classes = predictor.metainfo['classes']
    painter = Painter(predictor.metainfo, args.score_thr)
    names = output_names(paths)
    objects = CocoPredictions(classes)
    segmented: list[dict[str, Any]] = []
    done = 0
    for number, path in enumerate(paths, 1):
        try:
            image = read_image(path)
        except OSError as error:
            _complain(str(error))
            continue
        sample = predictor(path)
        painter(image, sample, args.out_dir / 'drawn' / f'{names[path]}.jpg')
        if 'pred_sem_seg' in sample:
            shares = class_shares(sample, classes)
            class_map = f'classes/{names[path]}.png'
            save_class_map(sample, args.out_dir / class_map)
            segmented.append({'file_name': str(path), 'class_map': class_map, 'shares': shares})
            text = ', '.join(f'{100 * share:.0f} % {name}' for name, share in shares.items() if share >= 0.01)
        else:
            found = objects.add(path, sample, args.score_thr)
            text = (
                ', '.join(f'{classes[entry["category_id"] - 1]} {entry["score"]:.2f}' for entry in found) or 'nothing'
            )
        done += 1
        print(f'[{number}/{len(paths)}] {path}: {text}', file=sys.stderr if args.json else sys.stdout, flush=True)
    return done, {'classes': list(classes), 'images': segmented} if segmented else objects.content()


def _complain(message: str) -> None:
    print(f'pinas-downstream predict: {message}', file=sys.stderr)
