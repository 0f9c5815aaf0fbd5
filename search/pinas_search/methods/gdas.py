"""GDAS: one path per step by the Gumbel-max trick, with a straight-through gradient (Dong and Yang, CVPR 2019).

At each position Gumbel noise is added to the log-probabilities and the largest sum wins. Forward, its gate is 1;
backward, the gate has the gradient of the softmax of the noisy logits at the temperature τ, which falls during the
training. So only the chosen operations are computed, and the parameters still get a gradient.

The benchmark's code (AutoDL-Projects) also adds the gates of the operations that lost, which are 0, to every value of
the node's sum: they then get the sum of its gradients. That is not taken over: gates weigh outputs and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch

from ..config import LearnConfig
from ..config.types import Fraction, NonNegativeFloat, PositiveFloat
from ..plugins import options_of
from ..spaces import ChoicePath
from ..supernets import Supernet
from .architecture import ArchitectureMethod, gumbel, require_gates
from .base import Step

__all__ = ['Gdas', 'Options', 'create']


class Gdas(ArchitectureMethod):
    """A sampled path trains the weights, another one on other images the architecture parameters."""

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int,
        *,
        temperature_start: PositiveFloat = 10.0,
        temperature_end: PositiveFloat = 0.1,
        architecture_lr: PositiveFloat = 3e-4,
        architecture_weight_decay: NonNegativeFloat = 1e-3,
        clip: PositiveFloat = 5.0,
        architecture_share: Fraction = 0.5,
    ) -> None:
        """Add a classifier and architecture parameters; the defaults are the settings of NAS-Bench-201.

        They go with ``learn.nesterov``.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            temperature_start: Temperature τ at the first step; it falls linearly.
            temperature_end: Temperature at the last step.
            architecture_lr: Learning rate of Adam on the architecture parameters.
            architecture_weight_decay: Its weight decay.
            clip: Largest norm of the gradients of the weights.
            architecture_share: Part of the training images for the architecture parameters.

        Raises:
            ValueError: If the supernet cannot weigh choices.
        """
        require_gates(supernet, 'gdas')
        super().__init__(supernet, num_classes, architecture_share=architecture_share)
        self.temperatures = temperature_start, temperature_end
        self.architecture_lr, self.architecture_weight_decay = architecture_lr, architecture_weight_decay
        self.clip = clip

    def architecture_optimizer(self, config: LearnConfig) -> torch.optim.Optimizer:
        """Adam with the betas of the benchmark's settings."""
        return torch.optim.Adam(
            self.architecture.parameters(),
            self.architecture_lr,
            betas=(0.5, 0.999),
            weight_decay=self.architecture_weight_decay,
        )

    def temperature(self, step: Step) -> float:
        """The temperature τ of a step."""
        start, end = self.temperatures
        return start + (end - start) * step.number / max(step.total - 1, 1)

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Update the weights on a path, then the architecture parameters on another."""
        loss = self.train_weights(step, self.draw(step, 'weights')[0])
        path, probabilities = self.draw(step, 'architecture')
        batch = step.batch('architecture')
        # 1, with the gradient of the softmax.
        gates = [{c: 1 + row[c] - row[c].detach()} for row, c in zip(probabilities, path, strict=True)]
        with step.autocast():
            feature_map = require_gates(self.network, 'gdas').forward_gated(batch.images[0], gates)
            architecture_loss = self.loss(feature_map, batch.labels)
        step.backward(architecture_loss)
        step.update('architecture')
        metrics = {'loss': loss, 'architecture_loss': architecture_loss.detach()}
        return {**metrics, 'entropy': self.architecture.entropy()}

    def train_weights(self, step: Step, path: ChoicePath) -> torch.Tensor:
        """Update the weights of a path; returns the loss."""
        batch = step.batch()
        with step.autocast():
            loss = self.loss(self.network(batch.images[0], path), batch.labels)
        step.backward(loss)
        step.update(max_norm=self.clip)
        return loss.detach()

    def draw(self, step: Step, purpose: str) -> tuple[ChoicePath, torch.Tensor]:
        """Draw a path, and the softmax [L, m] of the noisy logits that it is the largest of."""
        scores = self.architecture.log_probabilities()
        scores = scores + gumbel(scores, step.generator(purpose))
        return tuple(scores.argmax(1).tolist()), (scores / self.temperature(step)).softmax(1)


# Spelled once, as the arguments of the class.
Options = options_of(Gdas)


def create(supernet: Supernet, options: Any, num_classes: int) -> Gdas:
    """Build the method for the learning stage."""
    return Gdas(supernet, num_classes, **vars(options))
