"""``pinas-downstream test``: evaluate a trained detector or segmentor."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from pinas_models.common.files import write_json

from ..checks import check_channels, check_testing
from ..config.classes import inner_datasets
from ..running import build_runner, import_framework, is_main_process, prepare
from ..running.console import hiding_noise, printing_to
from ..running.explain import explaining
from ._options import add_config_options, add_running_options, read_config

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = "evaluate a trained model on the configuration's test set"
EXAMPLES = """CHECKPOINT must hold exactly the weights of the model. The metrics are printed, and written as JSON.

examples:
  pinas-downstream test mask-rcnn_pinas-mini_pennfudan runs/detector/epoch_36.pth --data-root data/pennfudan_coco
  pinas-downstream test deeplabv3_pinas-mini_camvid runs/segmentor/iter_900.pth --data-root data/camvid --tta
  pinas-downstream test my_config.py model.safetensors --show-dir drawn --cfg-options test_dataloader.batch_size=4
"""

_COCO_COLUMNS = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75', 'small': 'mAP_s', 'medium': 'mAP_m', 'large': 'mAP_l'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_options(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the whole model')
    add_running_options(parser, 'runs/<config>/test')
    parser.add_argument('--out', type=Path, metavar='FILE', help='the metrics as JSON (default: results.json there)')
    parser.add_argument('--show-dir', type=Path, metavar='DIR', help='draw the predictions into this folder')
    parser.add_argument(
        '--tta', action='store_true', help='test with augmentation: the tta_model and tta_pipeline of the configuration'
    )


def run(args: argparse.Namespace) -> int:
    """Test.

    Raises:
        OSError: If a file is missing.
        ValueError: If the configuration, the data or the checkpoint is wrong.
    """
    config = read_config(args)
    if not Path(args.checkpoint).expanduser().is_file():
        raise FileNotFoundError(f'{args.checkpoint}: no such file')
    work_dir = args.work_dir or Path('runs') / Path(args.config).stem / 'test'
    prepare(config, work_dir, launcher=args.launcher)
    config.load_from = None  # the weights are loaded here, all of them
    if args.tta:
        _augment(config)
    with explaining(), nullcontext() if args.verbose else hiding_noise():
        import_framework(config)
        from ..patches.checkpoints import load_weights

        _ask_for_classes(config)
        if is_main_process():
            check_testing(config)
        runner = build_runner(config, verbose=args.verbose)
        check_channels(runner.model)
        load_weights(runner.model, args.checkpoint)
        with nullcontext() if args.verbose else printing_to(runner.logger):
            if args.show_dir is not None:
                from ..inference.painting import Painter, PaintingHook

                painter = Painter(runner.test_dataloader.dataset.metainfo)
                runner.register_hook(PaintingHook(painter, args.show_dir))
            metrics = runner.test()
        images = len(runner.test_dataloader.dataset)
    if is_main_process():
        out = args.out or work_dir / 'results.json'
        metrics = {name: float(value) for name, value in metrics.items()}
        # No objects of a size, no pixels of a class: COCO gives -1, mmseg NaN.
        numbers = {name: value if value >= 0 else None for name, value in metrics.items()}
        content = {'config': args.config, 'checkpoint': args.checkpoint, 'images': images, 'metrics': numbers}
        write_json(out, content, indent=1)
        print('\n'.join(['', f'{images} images', *_tables(metrics), f'written to {out}']))
    return 0


def _augment(config: Config) -> None:
    """Put the model for test-time augmentation around the model."""
    if not (config.get('tta_model') and config.get('tta_pipeline')):
        raise ValueError(f'{config.filename}: has no tta_model and tta_pipeline, which --tta needs')
    if 'data_preprocessor' in config.model:
        # The Runner would give the base's one, at the top, to the outer model, which would replace the inner one's.
        config.pop('data_preprocessor', None)
    config.model = ConfigDict(**config.tta_model, module=config.model)
    for _, dataset in inner_datasets(config.test_dataloader.dataset, ''):
        dataset['pipeline'] = config.tta_pipeline


def _ask_for_classes(config: Config) -> None:
    """Let the metrics tell the values of the classes too."""
    evaluators: Any = config.get('test_evaluator')
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators or []:
        kind = str(evaluator.get('type')).split('.')[-1]
        if kind in ('CocoMetric', 'FasterCocoMetric'):
            evaluator['classwise'] = True
        elif kind == 'IoUMetric':
            from ..inference import metrics  # noqa: F401  # registers it

            # By its name: a class cannot be read back from the copy of the configuration in the work directory.
            evaluator['type'] = 'ClassIoUMetric'


def _tables(metrics: Mapping[str, float]) -> list[str]:
    """Lines that show metrics in percent."""
    rest = dict(metrics)
    lines = []
    kinds = [kind for kind in ('bbox', 'segm') if f'coco/{kind}_mAP' in rest]
    if kinds:
        lines.append('  '.join([f'{"%":16}', *(f'{name:>6}' for name in _COCO_COLUMNS)]))
    for kind in kinds:
        values = [rest.pop(f'coco/{kind}_{name}', math.nan) for name in _COCO_COLUMNS.values()]
        lines.append('  '.join([f'{kind:16}', *(_percent(100 * value) for value in values)]))
    precisions = {name: rest.pop(name) for name in metrics if name.startswith('coco/') and name.endswith('_precision')}
    if len(precisions) > 1:
        lines.append(f'AP of the classes ({kinds[-1]})')
        for name, value in precisions.items():
            label = name.removeprefix('coco/').removesuffix('_precision')
            lines.append(f'  {label:14}  {_percent(100 * value)}')
    classes = [name.removeprefix('IoU.') for name in rest if name.startswith('IoU.')]
    if classes:
        lines.append(f'{"%":16}  {"IoU":>6}  {"acc":>6}')
    for label in classes:
        values = [rest.pop(f'{name}.{label}', math.nan) for name in ('IoU', 'Acc')]
        lines.append('  '.join([f'{label:16}', *(_percent(value) for value in values)]))
    if classes:
        lines.append('  '.join([f'{"mean":16}', *(_percent(rest.pop(name, math.nan)) for name in ('mIoU', 'mAcc'))]))
        lines.append(f'{"all pixels":16}  {"":>6}  {_percent(rest.pop("aAcc", math.nan))}')
    lines += [f'{name:16}  {value:g}' for name, value in rest.items() if name not in ('time', 'data_time')]
    return lines


def _percent(value: float) -> str:
    """A number in six columns; a dash where there is none (COCO: below 0)."""
    return f'{value:6.1f}' if math.isfinite(value) and value >= 0 else f'{"-":>6}'
