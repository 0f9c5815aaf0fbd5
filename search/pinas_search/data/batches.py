"""What a batch is, and which images are in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..randomness import generator

__all__ = ['WHOLE', 'Batch', 'Part', 'epoch_batches', 'sequential_batches']


class Batch(NamedTuple):
    """Images and labels on the device.

    Attributes:
        images: float32 in [0, 1], neither normalised nor changed in colour: [V, N, 3, S, S] for V random crops of each
            image, [N, 3, S, S] for centre crops.
        labels: Classes of the images, int64 [N].
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Part:
    """One of equal parts of every batch, that of a rank.

    Whatever is random is drawn for the whole batch, so the images of a step do not depend on the number of ranks.

    Attributes:
        index: Number of the part, from 0.
        count: Number of parts.
    """

    index: int = 0
    count: int = 1

    def of(self, num_images: int) -> slice:
        """The positions in a batch of ``num_images`` that belong to the part.

        Raises:
            ValueError: If the batch cannot be divided.
        """
        if num_images % self.count:
            raise ValueError(
                f'a batch of {num_images} images cannot be shared by {self.count} ranks: change batch_size'
            )
        share = num_images // self.count
        return slice(self.index * share, (self.index + 1) * share)


WHOLE = Part()


def epoch_batches(
    num_images: int, batch_size: int, *, seed: int, purpose: str, epoch: int, drop_last: bool = True
) -> list[Tensor]:
    """Split the images into batches in an order that belongs to (seed, purpose, epoch).

    Args:
        num_images: Number of images.
        batch_size: Images per batch.
        seed: Seed of the run.
        purpose: Name of the random stream.
        epoch: Number of the epoch.
        drop_last: Leave out a last batch that is smaller than the others.

    Returns:
        Indices of the images of each batch, int64 on the CPU.

    Raises:
        ValueError: If there are fewer images than a batch.
    """
    if drop_last and num_images < batch_size:
        raise ValueError(f'{num_images} images are fewer than a batch of {batch_size}: lower batch_size')
    order = torch.randperm(num_images, generator=generator(seed, purpose, epoch))
    return list(order[: num_images - num_images % batch_size if drop_last else num_images].split(batch_size))


def sequential_batches(num_images: int, batch_size: int, limit: int | None = None) -> list[Tensor]:
    """Split the first ``limit`` images (None: all) into batches, in order; the last batch may be smaller."""
    count = num_images if limit is None else min(limit, num_images)
    return list(torch.arange(count).split(batch_size)) if count else []
