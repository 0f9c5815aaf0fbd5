"""FBNetV2: channel masks, weighted by Gumbel softmax (Wan et al., CVPR 2020).

Each position is one convolution at its largest width; choice j keeps the first c_j channels. The output is multiplied
by Σ g_j M_j with g = softmax((θ + Gumbel noise) / T), so one run serves all choices. Weights and θ are trained in turns
on different images, both with the loss CE α log(cost)^β; the cost is what g expects the network to cost.

The method brings its supernet, ``resnest_masked``, which says what the masks stand for on the spaces of the paper.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..config import LearnConfig
from ..config.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat
from ..plugins import options_of
from ..supernets import Supernet
from ..supernets.resnest_masked import MaskedResNeStSupernet
from .architecture import ArchitectureMethod, ChoiceCosts, gumbel, require_gates
from .base import Step

__all__ = ['SUPERNET', 'FbNetV2', 'Options', 'create']

SUPERNET = 'resnest_masked'


class FbNetV2(ArchitectureMethod):
    """Soft masks train the weights, and after a warm-up the architecture parameters."""

    def __init__(
        self,
        supernet: MaskedResNeStSupernet,
        num_classes: int,
        *,
        warmup_epochs: NonNegativeInt = 10,
        temperature: PositiveFloat = 5.0,
        temperature_decay: NonNegativeFloat = 0.045,
        architecture_lr: PositiveFloat = 0.01,
        architecture_weight_decay: NonNegativeFloat = 5e-4,
        architecture_share: Fraction = 0.2,
        cost: str = 'macs',
        alpha: PositiveFloat = 0.2,
        beta: NonNegativeFloat = 0.6,
    ) -> None:
        """Add a classifier and architecture parameters; the defaults are the paper's.

        Args:
            supernet: A supernet with channel masks; it is trained in place.
            num_classes: Classes.
            warmup_epochs: Epochs in which the architecture parameters rest.
            temperature: Temperature T at the start.
            temperature_decay: T is multiplied by exp(-temperature_decay) after each epoch.
            architecture_lr: Learning rate of Adam on the architecture parameters.
            architecture_weight_decay: Its weight decay.
            architecture_share: Part of the training images for the architecture parameters.
            cost: Name of the cost: ``macs`` or ``params``, of the networks that the choices stand for.
            alpha: Factor of the loss; our choice, the sources give no number.
            beta: Exponent of log(cost), 0 without costs; our choice, the sources give no number.

        Raises:
            ValueError: If the space has no such cost.
        """
        super().__init__(supernet, num_classes, architecture_share=architecture_share)
        self.costs = ChoiceCosts(supernet.space, cost, 'cost')
        self.warmup_epochs = warmup_epochs
        self.temperature, self.temperature_decay = temperature, temperature_decay
        self.architecture_lr, self.architecture_weight_decay = architecture_lr, architecture_weight_decay
        self.alpha, self.beta = alpha, beta

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """SGD on the weights, Adam on the architecture parameters.

        Raises:
            ValueError: If the training ends before the warm-up does.
        """
        if self.warmup_epochs >= config.epochs:
            raise ValueError(
                f'learn.options.warmup_epochs is {self.warmup_epochs} and learn.epochs {config.epochs}: the '
                'architecture parameters would never be trained'
            )
        return super().optimizers(config)

    def architecture_optimizer(self, config: LearnConfig) -> torch.optim.Optimizer:
        """Adam with weight decay."""
        return torch.optim.Adam(
            self.architecture.parameters(), self.architecture_lr, weight_decay=self.architecture_weight_decay
        )

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Update the weights, then, after the warm-up, the architecture parameters."""
        loss = self._loss(step, 'train')
        step.backward(loss)
        step.update()
        if step.epoch >= self.warmup_epochs:
            step.backward(self._loss(step, 'architecture'))
            step.update('architecture')
        return {'loss': loss.detach(), 'entropy': self.architecture.entropy()}

    def _loss(self, step: Step, stream: str) -> torch.Tensor:
        """CE α log(cost)^β of a batch of a stream, under gates drawn for it."""
        batch, gates = step.batch(stream), self.draw_gates(step, stream)
        gated, allowed = require_gates(self.network, 'fbnetv2'), self.network.space.allowed
        with step.autocast():
            rows = [{c: row[c] for c in choices} for row, choices in zip(gates, allowed, strict=True)]
            cross_entropy = self.loss(gated.forward_gated(batch.images[0], rows), batch.labels)
        return cross_entropy * self.alpha * self.costs(gates).log() ** self.beta

    def draw_gates(self, step: Step, purpose: str) -> torch.Tensor:
        """Draw g, [L, m], rows add up to 1."""
        temperature = self.temperature * math.exp(-self.temperature_decay * step.epoch)
        scores = self.architecture.log_probabilities()
        return ((scores + gumbel(scores, step.generator(f'gates/{purpose}'))) / temperature).softmax(1)


# Spelled once, as the arguments of the class.
Options = options_of(FbNetV2)


def create(supernet: Supernet, options: Any, num_classes: int) -> FbNetV2:
    """Build the method for the learning stage.

    Raises:
        ValueError: If the supernet has no channel masks.
    """
    if not isinstance(supernet, MaskedResNeStSupernet):
        raise ValueError(
            f'fbnetv2 masks the channels of one widest convolution; the supernet {type(supernet).__name__} has no '
            f'masks: leave learn.supernet out on a ResNeSt space, or take {SUPERNET}'
        )
    return FbNetV2(supernet, num_classes, **vars(options))
