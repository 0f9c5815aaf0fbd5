"""SPOS: single path one-shot, uniform sampling (Guo et al., ECCV 2020, "Single Path One-Shot NAS")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config import LearnConfig
from ..config.types import Fraction
from ..spaces import ChoicePath
from ..supernets import Supernet
from .base import PathMethod, decay_no_norms, sgd
from .supervised import SupervisedMethod

__all__ = ['Options', 'Spos', 'create']


@dataclass(frozen=True)
class Options:
    """Options of SPOS.

    Attributes:
        label_smoothing: Label smoothing of the cross entropy.
    """

    label_smoothing: Fraction = 0.1


class Spos(SupervisedMethod, PathMethod):
    """A uniform path per step, cross entropy with labels. Blocks off the path get no gradient, momentum or decay."""

    def __init__(self, supernet: Supernet, num_classes: int, *, label_smoothing: Fraction = 0.1) -> None:
        """Add a classifier to a supernet; see ``SupervisedMethod``."""
        super().__init__(supernet, num_classes, label_smoothing)

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
        return self.loss(self.network(views[0], paths[0]), labels)


def create(supernet: Supernet, options: Options, num_classes: int) -> Spos:
    """Build the method for the learning stage."""
    return Spos(supernet, num_classes, label_smoothing=options.label_smoothing)
