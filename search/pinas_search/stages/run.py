"""What the stages of one run have in common: configuration, folder, space, device, images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from .. import spaces
from ..augment import normalize, photometric
from ..config import Config, ViewConfig
from ..data import ImageSource, Splits, load_splits
from ..randomness import generator, seeded_scope
from ..rundir import StageDir, done_record, load_tensors
from ..supernets import ResNeStSupernet

__all__ = ['Run']

ModuleT = TypeVar('ModuleT', bound=nn.Module)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        config: The configuration.
        path: The run directory.
    """

    config: Config
    path: Path

    @cached_property
    def device(self) -> torch.device:
        """Where the networks run.

        Raises:
            ValueError: If the configured device is not there.
        """
        name = self.config.device
        available = {'cpu': True, 'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}
        if name == 'auto':
            name = next(key for key in ('cuda', 'mps', 'cpu') if available[key])
        if not available[name]:
            there = ', '.join(key for key, value in available.items() if value)
            raise ValueError(f'device is {name}, but this machine has {there} only: set device=auto')
        return torch.device(name)

    @cached_property
    def splits(self) -> Splits:
        """The images, read when a stage first needs them."""
        return load_splits(self.config.data, seed=self.config.seed, device=self.device)

    @cached_property
    def space(self) -> spaces.ResNeStSpace:
        """The search space, with the classes of the data."""
        spaces_by_name = {'resnest50': spaces.resnest50, 'mini': spaces.mini}
        data = self.config.data
        return spaces_by_name[self.config.space](data.image_size, len(self.splits.class_names))

    def stage(self, name: str) -> StageDir:
        """Folder of a stage."""
        return StageDir(self.path / name)

    def autocast(self) -> torch.autocast:
        """Context of the forward passes in the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == 'bf16')

    def place(self, module: ModuleT) -> ModuleT:
        """Move a module to the device, convolutions in channels-last order: about a quarter faster on CPUs and GPUs."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def build_supernet(self) -> ResNeStSupernet:
        """A supernet with fresh weights drawn from the seed of the run."""
        with seeded_scope(self.config.seed, 'supernet/init'):
            return ResNeStSupernet(self.space, downsample_share=self.config.learn.downsample_share)

    def load_supernet(self) -> ResNeStSupernet:
        """The supernet that the learning stage left.

        Raises:
            FileNotFoundError: If the learning stage has not finished.
        """
        supernet = self.build_supernet()
        load_tensors(supernet, self.path / 'learn' / 'supernet.safetensors', 'learn')
        return self.place(supernet)

    def load_classifier(self) -> nn.Linear:
        """The classifier that the linear stage left.

        Raises:
            FileNotFoundError: If the linear stage has not finished.
        """
        classifier = nn.Linear(self.build_supernet().num_features, len(self.splits.class_names))
        load_tensors(classifier, self.path / 'linear' / 'classifier.safetensors', 'linear')
        return classifier.to(self.device)

    def augment(self, images: torch.Tensor, views: ViewConfig, purpose: str, step: int) -> torch.Tensor:
        """Colour changes, blur, flip and normalisation of random crops [V, N, 3, S, S] in 0..1; same shape."""
        data = self.config.data
        flat = photometric(images.flatten(0, 1), views, generator(self.config.seed, purpose, step))
        flat = normalize(flat, data.mean, data.std).contiguous(memory_format=torch.channels_last)
        return flat.unflatten(0, images.shape[:2])

    def num_steps(self, source: ImageSource, batch_size: int, epochs: int, max_steps: int | None) -> tuple[int, int]:
        """Steps of a training and steps per epoch.

        Raises:
            ValueError: If there are fewer images than a batch.
        """
        per_epoch = len(source) // batch_size
        if per_epoch == 0:
            raise ValueError(f'{len(source)} training images are fewer than a batch of {batch_size}: lower batch_size')
        total = per_epoch * epochs
        return (total if max_steps is None else min(total, max_steps)), per_epoch

    def finish(self, stage: StageDir, seconds: float, **more: object) -> None:
        """Mark a stage as finished."""
        record = done_record(stage.path.relative_to(self.path).as_posix(), seconds, self.device, self.config.precision)
        stage.finish({**record, **more})

    def skip(self, stage: StageDir) -> bool:
        """Say whether a stage is finished already, and tell the user."""
        if stage.done is None:
            return False
        print(f'{stage.path.relative_to(self.path)}: finished before, nothing to do', file=sys.stderr, flush=True)
        return True


Stage = Callable[[Run], None]
