"""SPOS: single path one-shot, uniform sampling (Guo et al., ECCV 2020, "Single Path One-Shot NAS")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..config import LearnConfig, plain_views
from ..config.types import Fraction
from ..spaces import ChoicePath
from ..supernets import Supernet
from .base import PathMethod, Stream, decay_no_norms, sgd

__all__ = ['Options', 'Spos', 'create']


@dataclass(frozen=True)
class Options:
    """Options of SPOS.

    Attributes:
        label_smoothing: Label smoothing of the cross entropy.
    """

    label_smoothing: float = 0.1


class Spos(PathMethod):
    """A uniform path per step, cross entropy with labels. Blocks off the path get no gradient, momentum or decay."""

    def __init__(self, supernet: Supernet, num_classes: int, *, label_smoothing: Fraction = 0.1) -> None:
        """Add a classifier to a supernet.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            label_smoothing: Label smoothing of the cross entropy.
        """
        super().__init__()
        self.network = supernet
        self.fc = nn.Linear(supernet.num_features, num_classes)
        self.label_smoothing = label_smoothing

    @property
    def supernet(self) -> Supernet:
        """The supernet."""
        return self.network

    @property
    def streams(self) -> dict[str, Stream]:
        """Random crops and flips."""
        return {'train': Stream(plain_views())}

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """SGD; like the original it decays neither BN nor biases."""
        return {'weights': sgd(decay_no_norms(self, config), config)}

    def sample_paths(self, generator: torch.Generator) -> tuple[ChoicePath, ...]:
        """Draw one path uniformly."""
        return (self.network.space.sample(generator),)

    def training_step(
        self, views: torch.Tensor, paths: tuple[ChoicePath, ...], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross entropy of one path.

        Args:
            views: Normalised images [1, N, 3, H, W].
            paths: The path.
            labels: Classes [N], int64.

        Returns:
            The loss.

        Raises:
            ValueError: If there are no labels.
        """
        if labels is None:
            raise ValueError('SPOS learns from labels, pass them to training_step')
        logits = self.fc(self.network.features(self.network(views[0], paths[0])))
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def artifacts(self) -> dict[str, nn.Module]:
        """The supernet and the classifier that was trained with it."""
        return {'supernet': self.network, 'classifier': self.fc}


def create(supernet: Supernet, options: Options, num_classes: int) -> Spos:
    """Build the method for the learning stage."""
    return Spos(supernet, num_classes, label_smoothing=options.label_smoothing)
