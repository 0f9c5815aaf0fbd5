"""Candidate evaluation: recalibrate a path's BN, then top-1 of the linear classifier on the held-out images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from .augment import normalize, photometric
from .config import DataConfig, EvaluateConfig, ViewConfig
from .data import Batch, ImageSource, epoch_batches
from .randomness import generator
from .recalibrate import recalibrate_bn
from .spaces import Path
from .supernets import ResNeStSupernet

__all__ = ['CandidateEvaluator', 'top1']

_CACHE_BYTES = 1 << 30


@torch.no_grad()
def top1(
    network: Callable[[torch.Tensor], torch.Tensor], batches: Iterator[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Top-1 accuracy, 0..1, of ``network`` (normalised images [N, 3, H, W] -> logits [N, C]) over (images, labels)."""
    correct, count = 0, 0
    for images, labels in batches:
        correct += int((network(images).argmax(1) == labels).sum())
        count += len(labels)
    return correct / count


class CandidateEvaluator:
    """Scores paths of a supernet (paper section 3.3). Every path sees the same images in the same order."""

    def __init__(
        self,
        supernet: ResNeStSupernet,
        classifier: nn.Linear,
        train: ImageSource,
        held_out: ImageSource,
        *,
        data: DataConfig,
        config: EvaluateConfig,
        views: ViewConfig,
        seed: int,
        autocast: Callable[[], torch.autocast],
    ) -> None:
        """Prepare the evaluation.

        Args:
            supernet: The trained supernet; its BN statistics are overwritten path by path.
            classifier: The linear head.
            train: Images for the recalibration.
            held_out: Images for the score.
            data: Mean and standard deviation of the channels.
            config: How a candidate is scored.
            views: Random crops of the recalibration images.
            seed: Seed of the run.
            autocast: Context of the forward passes.

        Raises:
            ValueError: If there are no held-out images.
        """
        if not len(held_out):
            raise ValueError('there are no held-out images to score candidates on: set data.held_out_per_class above 0')
        if not config.recalibrate:
            warnings.warn(
                'search.evaluate.recalibrate is off: scores then mix the BN statistics of all paths and rank them '
                'hardly better than chance; use it for comparison only',
                stacklevel=2,
            )
        self.supernet, self.classifier, self.config, self.autocast = supernet, classifier, config, autocast
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
                yield prepare(
                    Batch(photometric(batch.images[0], views, generator(seed, 'recalibrate', i)), batch.labels)
                )

        def prepare(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            images = normalize(batch.images, data.mean, data.std)
            return images.contiguous(memory_format=torch.channels_last), batch.labels

        pixels = 3 * data.image_size**2 * 4
        self._calibration = _cached(calibration, self.num_calibration * pixels)
        self._scored = _cached(lambda: map(prepare, held_out.center_crops(scored)), self.num_scored * pixels)

    def score(self, path: Path) -> float:
        """Top-1 accuracy of a path on the held-out images, 0..1."""
        self.supernet.eval()
        with self.autocast():
            if self.config.recalibrate:
                images = (images for images, _ in self._calibration())
                recalibrate_bn(self.supernet, path, images, variance=self.config.variance)
            return top1(lambda x: self.classifier(self.supernet(x, path).mean((2, 3))), self._scored())


def _cached(
    batches: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]], num_bytes: int
) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Keep prepared batches when they are small: they are the same for every candidate."""
    if num_bytes > _CACHE_BYTES:
        return batches
    store: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cached() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not store:
            store.extend(batches())
        return iter(store)

    return cached
