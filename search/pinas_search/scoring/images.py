"""The images behind scores: every path sees the same ones in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from ..data import Batch, epoch_batches
from ..randomness import generator
from .base import Tools

__all__ = ['EvaluationImages', 'cached']

T = TypeVar('T')
_CACHE_BYTES = 1 << 30


class EvaluationImages:
    """Images for recalibration, from the training set, and for scoring, from the held-out set.

    Attributes:
        num_calibration: Images of the recalibration; 0 without it.
        num_scored: Images behind a score.
        calibration: Gives the batches of the recalibration: normalised random crops [N, 3, S, S] and labels [N].
        scored: Gives the batches of the scoring: normalised centre crops [N, 3, S, S] and labels [N].
        facts: How many images, and whether scores are recalibrated, for the report.
    """

    def __init__(self, tools: Tools) -> None:
        """Choose the images as ``search.evaluate`` says; nothing is read yet.

        Raises:
            ValueError: If there are no held-out images.
        """
        config, seed = tools.config.search.evaluate, tools.config.seed
        train, held_out, views = tools.splits.train, tools.splits.held_out, tools.config.linear.views
        if not len(held_out):
            raise ValueError('there are no held-out images to score candidates on: set data.held_out_per_class above 0')
        # In a fixed random order: folders list their images class by class, and the first ones would be of one class.
        size = min(config.batch_size, len(train))
        batches = epoch_batches(len(train), size, seed=seed, purpose='recalibrate/order', epoch=0)[: config.batches]
        order = torch.randperm(len(held_out), generator=generator(seed, 'score/order'))[: config.max_images]
        scored = list(order.split(config.batch_size))
        self.num_calibration = sum(map(len, batches)) if config.recalibrate else 0
        self.num_scored = sum(map(len, scored))

        def calibration() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            crops = train.random_crops(batches, num_views=1, views=views, seed=seed, purpose='recalibrate/crops')
            for i, batch in enumerate(crops):
                yield tools.augment(batch.images, views, 'recalibrate', i)[0], batch.labels

        def prepare(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            return tools.normalize(batch.images), batch.labels

        self.facts: dict[str, object] = {
            'recalibrated': config.recalibrate,
            'calibration_images': self.num_calibration,
            'held_out_images': self.num_scored,
        }
        pixels = 3 * tools.config.data.image_size**2 * 4
        self.calibration = cached(calibration, self.num_calibration * pixels)
        self.scored = cached(lambda: map(prepare, held_out.center_crops(scored)), self.num_scored * pixels)


def cached(batches: Callable[[], Iterator[T]], num_bytes: int) -> Callable[[], Iterator[T]]:
    """Keep prepared batches when they are small: they are the same for every candidate."""
    if num_bytes > _CACHE_BYTES:
        return batches
    store: list[T] = []

    def kept() -> Iterator[T]:
        if not store:
            store.extend(batches())
        return iter(store)

    return kept
