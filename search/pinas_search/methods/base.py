"""What a method is: it samples paths, makes a training step, and says how a path is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from ..config import ViewConfig
from ..spaces import Path
from ..supernets import ResNeStSupernet

__all__ = ['Method']


class Method(nn.Module, ABC):
    """A way to train a supernet. The stages use these verbs only and do not know which method runs.

    A new method is one new module with a subclass, a dataclass ``Options`` and a function
    ``create(supernet, options, num_classes) -> Method``; ``learn.method`` names the module.

    Attributes:
        num_views: Random views of each image that a training step takes.
        decay_all: Weight decay applies to norms and biases as well.
    """

    num_views: int
    decay_all: bool = True

    @property
    @abstractmethod
    def supernet(self) -> ResNeStSupernet:
        """The network whose paths are ranked after the training."""

    @abstractmethod
    def default_views(self) -> ViewConfig:
        """The random views that the method's authors used."""

    @abstractmethod
    def sample_paths(self, generator: torch.Generator) -> tuple[Path, ...]:
        """Draw the paths of one training step."""

    @abstractmethod
    def training_step(
        self, views: torch.Tensor, paths: tuple[Path, ...], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Make one iteration up to the loss; the caller runs backward and the optimizer.

        Args:
            views: Normalised images [num_views, N, 3, H, W].
            paths: What ``sample_paths`` returned.
            labels: Classes [N], int64, for methods that learn from labels.

        Returns:
            The loss, a scalar.
        """

    def scoring_head(self) -> nn.Linear | None:
        """The classifier that scores paths, if the method trained one; None asks for the linear stage."""
        return None

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size that the method cannot work with, before any work is done.

        Raises:
            ValueError: If it does not fit.
        """
