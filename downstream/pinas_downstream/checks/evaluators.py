"""Whether the evaluation finds its files, and the metric that picks the best checkpoint exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

__all__ = ['check_evaluator', 'check_save_best']


def _evaluators(config: Config, split: str) -> list[Mapping[str, Any]]:
    found = config.get(f'{split}_evaluator') or []
    return [found] if isinstance(found, dict) else list(found)


def check_evaluator(config: Config, split: str) -> None:
    """Check that the annotation files of the metrics exist.

    Args:
        config: Complete.
        split: ``'val'`` or ``'test'``.

    Raises:
        FileNotFoundError: If one does not.
    """
    for evaluator in _evaluators(config, split):
        file = evaluator.get('ann_file')
        if file and '://' not in file and not evaluator.get('backend_args') and not Path(file).is_file():
            raise FileNotFoundError(f'{split}_evaluator: there is no annotation file {file}')


def check_save_best(config: Config) -> None:
    """Check the name of the metric for the best checkpoint, which mmengine looks up after the first validation.

    mmdet's names have the prefix ``coco/``, mmseg's have none.

    Args:
        config: Complete.

    Raises:
        ValueError: If there is no such metric.
    """
    names = (config.get('default_hooks') or {}).get('checkpoint', {}).get('save_best')
    evaluators = _evaluators(config, 'val')
    if not names or len(evaluators) != 1:
        return
    evaluator, kind = evaluators[0], str(evaluators[0].get('type')).split('.')[-1]
    if 'prefix' in evaluator:
        return
    if kind in ('CocoMetric', 'FasterCocoMetric'):
        metrics = evaluator.get('metric', 'bbox')
        known = [f'coco/{metric}_mAP' for metric in ([metrics] if isinstance(metrics, str) else metrics)]
    elif kind == 'IoUMetric':
        known = ['aAcc', 'mAcc', *evaluator.get('iou_metrics', ['mIoU'])]
    else:
        return
    for name in [names] if isinstance(names, str) else names:
        # Also coco/bbox_mAP_50, and the precision of a class.
        if name != 'auto' and not name.startswith(tuple(known)) and not name.endswith('_precision'):
            raise ValueError(f'default_hooks.checkpoint.save_best is {name!r}, but {kind} gives {", ".join(known)}')
