"""Images in memory, or decoded as they are needed, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import ViewConfig
from ..randomness import generator
from .augment import boxes_from_draws, crop_boxes, crop_draws, crop_resize
from .batches import WHOLE, Batch, Part
from .images import ImageFiles, fit

__all__ = ['ImageSource', 'InMemoryImages', 'StreamedImages']


class ImageSource(ABC):
    """Labelled images that can be cropped.

    Attributes:
        labels: Classes of the images, int64 [n], on the CPU.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def random_crops(
        self,
        batches: Sequence[Tensor],
        *,
        num_views: int,
        views: ViewConfig,
        seed: int,
        purpose: str,
        first_step: int = 0,
        part: Part = WHOLE,
    ) -> Iterator[Batch]:
        """Cut random boxes out of images and resize them.

        Args:
            batches: Indices of the images of each batch.
            num_views: Crops per image.
            views: Scale and ratio of the crops; the rest of it is not applied here.
            seed: Seed of the run.
            purpose: Name of the random stream.
            first_step: Number of the first batch. Batch i depends on (seed, purpose, first_step + i) only.
            part: What of each batch is wanted.

        Returns:
            Batches with images [num_views, N, 3, S, S], N of them in the part.
        """

    @abstractmethod
    def center_crops(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Take centre crops for evaluation.

        Args:
            batches: Indices of the images of each batch.

        Returns:
            Batches with images [N, 3, S, S].
        """

    @abstractmethod
    def subset(self, indices: Tensor | Sequence[int]) -> ImageSource:
        """Return some of the images as a source of their own, which shares the storage."""


class InMemoryImages(ImageSource):
    """Images that stay on the device and are cropped there, a batch at a time."""

    def __init__(
        self, images: Tensor, labels: Tensor, image_size: int | None = None, device: torch.device | str = 'cpu'
    ) -> None:
        """Take over images.

        Args:
            images: uint8 [n, 3, T, T].
            labels: Their classes, [n].
            image_size: Side of the crops, S, at most T; T if None.
            device: Where the images are kept.
        """
        self.images = images.to(device)
        self.labels = labels.long().cpu()
        self.image_size = image_size or images.shape[-1]
        self._rows = torch.arange(len(labels))

    def random_crops(
        self,
        batches: Sequence[Tensor],
        *,
        num_views: int,
        views: ViewConfig,
        seed: int,
        purpose: str,
        first_step: int = 0,
        part: Part = WHOLE,
    ) -> Iterator[Batch]:
        """See ``ImageSource``."""
        side = self.images.shape[-1]
        for step, batch in enumerate(batches, start=first_step):
            random = generator(seed, purpose, step)
            boxes = crop_boxes(num_views * len(batch), side, side, views.scale, views.ratio, random)
            boxes, mine = boxes.view(num_views, len(batch), 4), part.of(len(batch))
            images, labels = self._take(batch[mine])
            crops = [crop_resize(images, view, self.image_size) for view in boxes[:, mine]]
            yield Batch(torch.stack(crops), labels)

    def center_crops(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """See ``ImageSource``."""
        border = round((self.images.shape[-1] - self.image_size) / 2)
        inner = slice(border, border + self.image_size)
        for batch in batches:
            images, labels = self._take(batch)
            yield Batch(images[:, :, inner, inner].float().div_(255), labels)

    def subset(self, indices: Tensor | Sequence[int]) -> InMemoryImages:
        """See ``ImageSource``."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        part = InMemoryImages(self.images, self.labels, self.image_size, self.images.device)
        part.labels, part._rows = self.labels[indices], self._rows[indices]
        return part

    def _take(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        device = self.images.device
        return self.images[self._rows[batch].to(device)], self.labels[batch].to(device)


class StreamedImages(ImageSource):
    """Images that worker processes decode and crop when they are needed.

    Crops do not depend on the number of workers. For centre crops, see ``ImageFiles.side``.
    """

    def __init__(
        self, files: ImageFiles, labels: Tensor, image_size: int, *, workers: int, device: torch.device | str = 'cpu'
    ) -> None:
        """Prepare; the workers start with the first batch.

        Args:
            files: The encoded images.
            labels: Their classes, [n].
            image_size: Side of the crops, in pixels.
            workers: Number of worker processes; 0 decodes in this process.
            device: Where the batches arrive.
        """
        self.files, self.image_size, self.workers, self.device = files, image_size, workers, torch.device(device)
        self.labels = labels.long().cpu()
        self._rows = torch.arange(len(labels))
        self._loader: tuple[DataLoader, list[_Task]] | None = None

    def random_crops(
        self,
        batches: Sequence[Tensor],
        *,
        num_views: int,
        views: ViewConfig,
        seed: int,
        purpose: str,
        first_step: int = 0,
        part: Part = WHOLE,
    ) -> Iterator[Batch]:
        """See ``ImageSource``.

        Raises:
            ValueError: If an image cannot be read; names the file.
        """
        crops = [
            _Crops(num_views, views, seed, purpose, first_step + i, len(batch), part) for i, batch in enumerate(batches)
        ]
        return self._stream([batch[part.of(len(batch))] for batch in batches], crops)

    def center_crops(self, batches: Sequence[Tensor]) -> Iterator[Batch]:
        """See ``ImageSource``.

        Raises:
            ValueError: If an image cannot be read; names the file.
        """
        return self._stream(batches, [None] * len(batches))

    def subset(self, indices: Tensor | Sequence[int]) -> StreamedImages:
        """See ``ImageSource``."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        labels = self.labels[indices]
        part = StreamedImages(self.files, labels, self.image_size, workers=self.workers, device=self.device)
        part._rows = self._rows[indices]
        return part

    def _stream(self, batches: Sequence[Tensor], crops: Sequence[_Crops | None]) -> Iterator[Batch]:
        # Workers are kept for the next call, but two iterations at the same time must not share them.
        loader, tasks = self._loader or self._new_loader()
        self._loader = None
        tasks[:] = [_Task(self._rows[batch].tolist(), crop) for batch, crop in zip(batches, crops, strict=True)]
        try:
            for batch, images in zip(batches, loader, strict=True):
                if isinstance(images, str):
                    raise ValueError(images)
                images = images.to(self.device, non_blocking=True).float().div_(255)
                yield Batch(images, self.labels[batch].to(self.device))
        finally:
            self._loader = loader, tasks

    def _new_loader(self) -> tuple[DataLoader, list[_Task]]:
        """Return a loader and the list that it goes through whenever it is iterated over."""
        tasks: list[_Task] = []
        loader: DataLoader = DataLoader(
            _Decoder(self.files, self.image_size),
            batch_size=None,  # a task is a whole batch
            sampler=tasks,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.device.type == 'cuda',
            generator=torch.Generator(),  # without it, every iteration advances the global generator
        )
        return loader, tasks

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_loader': None}


class _Crops(NamedTuple):
    """The random crops of one batch, or of a part of it; see ``ImageSource.random_crops``."""

    num_views: int
    views: ViewConfig
    seed: int
    purpose: str
    step: int
    batch_size: int
    part: Part


class _Task(NamedTuple):
    """One batch for a worker: its images, and its random crops or None for centre crops."""

    rows: list[int]
    crops: _Crops | None


class _Decoder(Dataset):
    """What a worker does: from a task to uint8 [V, N, 3, S, S] or [N, 3, S, S].

    An image that cannot be read gives its message as a string: an exception would arrive wrapped into the traceback of
    the worker.
    """

    def __init__(self, files: ImageFiles, image_size: int) -> None:
        self.files, self.size = files, image_size

    def __getitem__(self, task: _Task) -> Tensor | str:
        try:
            return self._center(task.rows) if task.crops is None else self._random(task.rows, task.crops)
        except ValueError as error:
            return str(error)

    def _center(self, rows: list[int]) -> Tensor:
        crops = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        side = self.files.side(self.size)
        for crop, row in zip(crops.numpy(), rows, strict=True):
            image = fit(self.files.load(row), side, side)
            image = fit(image, side, self.size)  # a second step, because offsets are rounded twice in memory, too
            crop[:] = np.asarray(image).transpose(2, 0, 1)
        return crops

    def _random(self, rows: list[int], crops: _Crops) -> Tensor:
        result = torch.empty(crops.num_views, len(rows), 3, self.size, self.size, dtype=torch.uint8)
        # The random numbers belong to a view and a position in the batch, and are those of InMemoryImages.
        draws = crop_draws(crops.num_views * crops.batch_size, generator(crops.seed, crops.purpose, crops.step))
        draws = draws.view(crops.num_views, crops.batch_size, -1)[:, crops.part.of(crops.batch_size)]
        for position, row in enumerate(rows):
            image = self.files.load(row)
            boxes = boxes_from_draws(
                draws[:, position], image.height, image.width, crops.views.scale, crops.views.ratio
            )
            for view, (top, left, height, width) in zip(result[:, position].numpy(), boxes.tolist(), strict=True):
                box = image.crop((left, top, left + width, top + height))
                view[:] = np.asarray(box.resize((self.size, self.size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        return result
