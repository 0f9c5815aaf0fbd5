"""Top-1 and top-5 of a classifier: one pass over the images, for one protocol or two side by side, resumable."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.files import write_text
from ..common.progress import Progress
from .accuracy import Counts, RealLabels
from .classifier import Classifier
from .images import Batch, LabelledImages
from .protocols import Protocol

__all__ = ['Evaluation', 'evaluate', 'load_evaluation']


@dataclass
class Evaluation:
    """What was measured, or how far it is.

    Attributes:
        counts: Per protocol.
        only_first_right: With two protocols, images that the first alone gets right.
        only_second_right: Images that the second alone gets right.
        seen: Images that were looked at, skipped ones included.
        skipped: Name and reason for each image that cannot be read.
        seconds: Time for them, decoding included.
    """

    counts: dict[str, Counts]
    only_first_right: int = 0
    only_second_right: int = 0
    seen: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


def load_evaluation(path: Path, identity: Mapping[str, Any]) -> Evaluation | None:
    """Read how far an interrupted evaluation came.

    Args:
        path: The file that ``evaluate`` wrote; need not exist.
        identity: What must be the same for the numbers to be the same: weights, images, protocols, precision.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or of another evaluation; names what differs.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        known: dict[str, Any] = record['identity']
        state = record['state']
        counts = {name: Counts(**values) for name, values in state.pop('counts').items()}
        skipped = [(str(name), str(reason)) for name, reason in state.pop('skipped')]
        evaluation = Evaluation(counts=counts, skipped=skipped, **state)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{path} is not the state of an evaluation, or damaged: delete it, or give another name'
        ) from error
    wanted = json.loads(json.dumps(identity))
    differing = sorted(key for key in {*wanted, *known} if wanted.get(key) != known.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f'{path} belongs to another evaluation ({", ".join(differing)} differ; {key} is {known.get(key)} there and '
            f'{wanted.get(key)} here): delete it, or give another name'
        )
    return evaluation


def evaluate(
    classifier: Classifier,
    images: LabelledImages,
    protocols: Sequence[Protocol],
    *,
    batch_size: int = 64,
    workers: int = 0,
    real_labels: RealLabels | None = None,
    skip_corrupt: bool = False,
    state_path: Path | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Classify all images under each protocol; each is decoded once.

    Args:
        classifier: The model.
        images: Labelled images, their classes matched to the model's.
        protocols: One or more.
        batch_size: Images per batch.
        workers: Processes that decode; 0 for this one.
        real_labels: ReaL labels of the images, to count by them as well.
        skip_corrupt: Leave out images that cannot be read, and say so; else the first is an error.
        state_path: Where to write after each batch how far it is, and to go on from. It is left there at the end, for
            the caller to delete once the results are safe.
        identity: What makes the state fit, see ``load_evaluation``.

    Raises:
        OSError: If the state cannot be read or written.
        ValueError: If an image cannot be read, has no class or one that the model does not have, if no image is left,
            if the state belongs to another evaluation, or the model cannot run.
    """
    evaluation = load_evaluation(state_path, identity or {}) if state_path is not None else None
    evaluation = evaluation or Evaluation({protocol.name: Counts() for protocol in protocols})
    # A stream may not know its length.
    total = len(images) or None
    batches = images.batches(
        [protocol.transform for protocol in protocols],
        batch_size=batch_size,
        mode=classifier.mode,
        start=evaluation.seen,
        workers=workers,
        pin_memory=classifier.device.type == 'cuda',
    )
    if classifier.setup['compiler']:  # else the throughput would be that of the compiler
        shape = (min(batch_size, total or batch_size), *protocols[0].input_size)
        classifier(torch.zeros(shape, dtype=torch.uint8))
    start = time.monotonic() - evaluation.seconds
    with Progress('validate', total, evaluation.seen) as progress:
        for batch in batches:
            _report_errors(batch, images, evaluation, skip_corrupt)
            if batch.indices:
                _check_targets(batch, images, classifier.num_classes)
                right = _count(classifier, batch, protocols, evaluation, real_labels)
                if len(right) == 2:
                    evaluation.only_first_right += int((right[0] & ~right[1]).sum())
                    evaluation.only_second_right += int((right[1] & ~right[0]).sum())
            evaluation.seen += batch.seen
            evaluation.seconds = time.monotonic() - start
            if state_path is not None:
                record = {'identity': dict(identity or {}), 'state': asdict(evaluation)}
                write_text(state_path, json.dumps(record, ensure_ascii=False))
            progress.update(batch.seen, _note(evaluation))
    if images.is_iterable and total is not None and evaluation.seen != total:
        # The readers of streams leave out what they cannot read.
        warnings.warn(f'{images.source} has {total} images, but only {evaluation.seen} could be read', stacklevel=2)
    if not all(counts.images for counts in evaluation.counts.values()):
        raise ValueError(f'no image of {images.source} could be read')
    return evaluation


def _count(
    classifier: Classifier,
    batch: Batch,
    protocols: Sequence[Protocol],
    evaluation: Evaluation,
    real_labels: RealLabels | None,
) -> list[Tensor]:
    return [
        evaluation.counts[protocol.name].add(classifier(view), batch.targets, batch.indices, real_labels)
        for protocol, view in zip(protocols, batch.views, strict=True)
    ]


def _report_errors(batch: Batch, images: LabelledImages, evaluation: Evaluation, skip_corrupt: bool) -> None:
    for index, reason in batch.errors:
        if images.is_iterable:
            raise ValueError(f'{images.source} cannot be read after about {evaluation.seen} images ({reason})')
        name = images.filename(index)
        if not skip_corrupt:
            raise ValueError(
                f'cannot read the image {name} of {images.source} ({reason}): replace it, or leave such images out '
                'with --skip-corrupt'
            )
        evaluation.skipped.append((name, reason))


def _check_targets(batch: Batch, images: LabelledImages, num_classes: int) -> None:
    worst = int(batch.targets.max())
    if worst >= num_classes:
        raise ValueError(f'{images.source} has the class {worst}, the model only {num_classes} classes')
    if int(batch.targets.min()) < 0:
        index = batch.indices[int(batch.targets.argmin())]
        raise ValueError(f'the image {images.filename(index)} of {images.source} does not have one class')


def _note(evaluation: Evaluation) -> str:
    shares = [f'{name} {100 * c.top1 / max(c.images, 1):.2f} %' for name, c in evaluation.counts.items()]
    return 'top-1 ' + ', '.join(shares)
