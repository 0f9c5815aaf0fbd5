"""WPL: a penalty on moving weights that mattered to earlier paths (Benyahia et al., ICML 2019).

From "Overcoming Multi-model Forgetting" (kcyu2014): L = CE(a; θ) + α/2 Σ F (θ - θ*)² over the weights of
the path. θ* are their values when the path before was done, and F is a diagonal Fisher matrix: squared gradients of the
cross-entropy that fade, F <- λ F + g².

The authors train a controller in turns with the weights; here paths are uniform, as where the method is compared on
NAS-Bench-201. With one step per path θ equals θ* whenever the gradient is taken, and the penalty does nothing: a path
therefore has several steps (``steps_per_path``, our reading; the sources give no number).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ..plugins import options_of
from ..supernets import Supernet
from .base import Step
from .supervised import SupervisedMethod

__all__ = ['Options', 'Wpl', 'create']


class Wpl(SupervisedMethod):
    """Uniform paths of several steps, tied to the weights that other paths left.

    State of its own, beside each weight: ``anchors`` (θ*) and ``fisher`` (F); the current ``path``; and ``period``, how
    often F has been reset.
    """

    path: torch.Tensor
    period: torch.Tensor

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int,
        *,
        steps_per_path: PositiveInt = 4,
        penalty: NonNegativeFloat = 60.0,
        decay_from: NonNegativeInt = 15,
        penalty_decay: NonNegativeFloat = 1.0,
        fisher_decay: Fraction = 0.9,
        reset_epochs: PositiveInt = 3,
        clip: PositiveFloat = 10.0,
        label_smoothing: Fraction = 0.0,
    ) -> None:
        """Add a classifier to a supernet; the defaults are the authors' for convolutional networks.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            steps_per_path: Steps before another path is drawn.
            penalty: Weight α of the penalty.
            decay_from: Epoch after which α falls, not below 0.
            penalty_decay: By how much α falls in an epoch.
            fisher_decay: Decay λ of the Fisher matrix.
            reset_epochs: The Fisher matrix begins anew after this many epochs.
            clip: Largest norm of the gradients.
            label_smoothing: Label smoothing of the cross-entropy.
        """
        super().__init__(supernet, num_classes, label_smoothing)
        self.steps_per_path, self.penalty, self.decay_from = steps_per_path, penalty, decay_from
        self.penalty_decay, self.fisher_decay, self.reset_epochs = penalty_decay, fisher_decay, reset_epochs
        self.clip = clip
        self.anchors = _beside(self.weights)
        self.fisher = _beside([torch.zeros_like(p) for p in self.weights])
        self.register_buffer('path', torch.zeros(supernet.space.num_positions, dtype=torch.long))
        self.register_buffer('period', torch.zeros((), dtype=torch.long))

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Gradient of the cross-entropy, and of the penalty as it stands; then one update, and F learns of it."""
        if step.epoch // self.reset_epochs != int(self.period):
            self.period.fill_(step.epoch // self.reset_epochs)
            torch._foreach_zero_(list(self.fisher))
        if step.number % self.steps_per_path == 0:
            self.path.copy_(torch.tensor(self.network.space.sample(step.generator('paths'))))
            torch._foreach_copy_(list(self.anchors), [p.detach() for p in self.weights])
        batch, path = step.batch(), tuple(self.path.tolist())
        with step.autocast():
            loss = self.loss(self.network(batch.images[0], path), batch.labels)
        step.backward(loss)
        penalty = self._add_penalty(self.weight_of_penalty(step.epoch))
        step.update(max_norm=self.clip)
        return {'loss': loss.detach(), 'penalty': penalty}

    def weight_of_penalty(self, epoch: int) -> float:
        """The weight α in an epoch."""
        return max(self.penalty - self.penalty_decay * max(epoch - self.decay_from, 0), 0.0)

    @torch.no_grad()
    def _add_penalty(self, alpha: float) -> torch.Tensor:
        """Add the gradient α F (θ - θ*) to the weights that have one, update F; returns the penalty before."""
        total = self.fc.weight.new_zeros(())
        for weight, anchor, fisher in zip(self.weights, self.anchors, self.fisher, strict=True):
            if weight.grad is None:  # off the path
                continue
            squared = weight.grad.square()
            moved = weight - anchor
            total += alpha / 2 * (fisher * moved.square()).sum()
            weight.grad.add_(fisher * moved, alpha=alpha)
            fisher.mul_(self.fisher_decay).add_(squared)
        return total


def _beside(tensors: list[Any]) -> nn.ParameterList:
    """Copies that are saved and moved with a module but not trained."""
    return nn.ParameterList(nn.Parameter(t.detach().clone(), requires_grad=False) for t in tensors)


# Spelled once, as the arguments of the class.
Options = options_of(Wpl)


def create(supernet: Supernet, options: Any, num_classes: int) -> Wpl:
    """Build the method for the learning stage."""
    return Wpl(supernet, num_classes, **vars(options))
