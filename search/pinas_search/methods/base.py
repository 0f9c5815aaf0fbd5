"""What a method is: it makes training steps on a supernet, and says what to keep and how paths are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import timm.optim
import torch
from torch import nn

from ..config import LearnConfig, ViewConfig
from ..data import Batch
from ..scoring import Scorer, Tools
from ..spaces import ChoicePath
from ..supernets import Supernet

__all__ = ['Method', 'PathMethod', 'Step', 'Stream', 'apply_update', 'decay_no_norms', 'sgd']


@dataclass(frozen=True)
class Stream:
    """A part of the training images that a method draws batches from.

    Attributes:
        views: Random views of the images, where ``learn.views`` does not say others.
        num_views: Random views V of each image.
        share: Part of the training images, 0..1. The streams of a method are disjoint, shares add up to at most 1.
    """

    views: ViewConfig
    num_views: int = 1
    share: float = 1.0


class Step(Protocol):
    """The stage's side of a training step. Everything random in it is a function of the seed and the number.

    Attributes:
        number: Steps before this one.
        total: Steps of the whole training.
        epoch: Passes over the first stream before this step.
    """

    number: int
    total: int
    epoch: int

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this step."""

    def batch(self, stream: str = 'train') -> Batch:
        """The next batch of a stream: normalised images [V, N, 3, H, W], labels [N].

        On several ranks this rank's part of it. What a method computes from its images besides gradients, such as a
        reward that moves a baseline, it must average: ``pinas_search.distributed.mean``.
        """

    def autocast(self) -> torch.autocast:
        """Context of the forward passes, in the configured precision."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss. Several per step accumulate."""

    def update(self, optimizer: str = 'weights', *, max_norm: float | None = None, lr_factor: float = 1.0) -> None:
        """Step an optimizer, then drop all gradients: what had none gets neither momentum nor weight decay.

        The gradients that exist are averaged over the ranks first.

        Args:
            optimizer: Its name.
            max_norm: Largest norm of the gradients of all its parameters together; None does not clip.
            lr_factor: Multiplies its learning rate in this step, so that a method needs no schedule with a state.
        """


class Method(nn.Module, ABC):
    """A way to train a supernet. The stages use these verbs only and do not know which method runs.

    A new method is one module with a subclass, a dataclass ``Options`` and a function
    ``create(supernet, options, num_classes) -> Method``; ``learn.method`` names the module. What it must resume after
    a kill is in its state dict and in its optimizers. A method that needs a supernet of another kind than the space's
    names it: its module has a constant ``SUPERNET``.
    """

    @property
    @abstractmethod
    def supernet(self) -> Supernet:
        """The network whose paths are ranked after the training."""

    @property
    @abstractmethod
    def streams(self) -> Mapping[str, Stream]:
        """The streams of batches; passes over the first one are the epochs."""

    @abstractmethod
    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """Optimizers by name. The learning rate of ``weights`` follows the configured schedule, others are its own.

        A method whose recipe fixes the schedule has none called ``weights``.
        """

    @abstractmethod
    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Make one training step.

        Args:
            step: Gives batches and random numbers, takes losses.

        Returns:
            Scalars for the metrics, ``loss`` among them.
        """

    def artifacts(self) -> dict[str, nn.Module]:
        """What the learning stage leaves: ``supernet``; a ``classifier`` if one was trained; architecture parameters.

        Without a classifier the linear stage trains one.
        """
        return {'supernet': self.supernet}

    def scorers(self, tools: Tools) -> dict[str, Scorer]:
        """Scores of the method's own, by name; the accuracy of a path inside the supernet needs none."""
        return {}

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size that the method cannot work with, before any work is done.

        Raises:
            ValueError: If it does not fit.
        """


class PathMethod(Method):
    """A method that samples paths and has one loss per step."""

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """SGD on everything that is trained."""
        return {'weights': sgd([{'params': [p for p in self.parameters() if p.requires_grad]}], config)}

    @abstractmethod
    def sample_paths(self, generator: torch.Generator) -> tuple[ChoicePath, ...]:
        """Draw the paths of one training step."""

    @abstractmethod
    def training_step(
        self, views: torch.Tensor, paths: tuple[ChoicePath, ...], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Make one iteration up to the loss.

        Args:
            views: Normalised images [V, N, 3, H, W].
            paths: What ``sample_paths`` returned.
            labels: Classes [N], int64, for methods that learn from labels.

        Returns:
            The loss, a scalar.
        """

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Draw paths, run the iteration, update."""
        batch = step.batch()
        paths = self.sample_paths(step.generator('paths'))
        with step.autocast():
            loss = self.training_step(batch.images, paths, batch.labels)
        step.backward(loss)
        step.update()
        return {'loss': loss.detach()}


def sgd(groups: Iterable[dict], config: LearnConfig) -> torch.optim.SGD:
    """SGD as ``learn`` configures it."""
    return torch.optim.SGD(
        list(groups), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
    )


def decay_no_norms(model: nn.Module, config: LearnConfig) -> list[dict]:
    """Parameter groups in which BN and biases have no weight decay."""
    return timm.optim.param_groups_weight_decay(model, config.weight_decay)


def apply_update(optimizer: torch.optim.Optimizer, max_norm: float | None, lr_factor: float) -> None:
    """What ``Step.update`` does to an optimizer; its learning rates are afterwards what they were."""
    groups = optimizer.param_groups
    if max_norm is not None:
        nn.utils.clip_grad_norm_([p for group in groups for p in group['params']], max_norm)
    rates = [group['lr'] for group in groups]
    for group in groups:
        group['lr'] *= lr_factor
    optimizer.step()
    for group, rate in zip(groups, rates, strict=True):
        group['lr'] = rate
