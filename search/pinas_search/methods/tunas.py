"""TuNAS: REINFORCE with an absolute reward (Bender et al., CVPR 2020; google-research/tunas).

Each step draws a path from the architecture parameters. It trains the weights on one batch; on other images its
accuracy, less what it costs too much or too little, is the reward of the parameters. At first, with a probability that
falls to 0, a step runs all choices at once and averages them, so that none is behind when the parameters begin to move.

Not taken over: the warm-up of filters, which needs choices of width. In data-parallel training the authors draw a path
for each shard; here all ranks have the same.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import timm.optim
import torch

from ..config import LearnConfig
from ..config.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from ..plugins import options_of
from ..spaces import ChoicePath
from ..supernets import Supernet
from .architecture import ArchitectureMethod, require_gates
from .base import Step, decay_no_norms, sgd

__all__ = ['Options', 'TuNas', 'create']


class TuNas(ArchitectureMethod):
    """Weights and architecture parameters in turns, the latter by REINFORCE.

    State of its own: ``baseline``, the moving average of the rewards, and ``rewards``, their number.
    """

    baseline: torch.Tensor
    rewards: torch.Tensor

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int,
        *,
        optimizer: Literal['rmsprop', 'sgd'] = 'rmsprop',
        warmup: Fraction = 0.25,
        architecture_lr: PositiveFloat = 3e-4,
        lr_ramp: PositiveFloat = 10.0,
        baseline_decay: Fraction = 0.95,
        reward_batches: PositiveInt = 4,
        cost: str = 'macs',
        cost_target: PositiveFloat | None = None,
        cost_weight: NonNegativeFloat = 0.1,
        architecture_share: Fraction = 0.2,
        label_smoothing: Fraction = 0.1,
        lr_warmup: Fraction = 0.025,
    ) -> None:
        """Add a classifier and architecture parameters; the defaults are the released code's.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            optimizer: ``rmsprop`` with decay .9, momentum .9 and epsilon 1, made for ``learn.lr`` = .165 per 256
                images of a batch; or ``sgd``, to train the weights as other methods do.
            warmup: Part of the training in which all choices may run at once and the architecture parameters rest.
            architecture_lr: Learning rate of Adam on the architecture parameters, for a batch of 256 images.
            lr_ramp: From the end of the warm-up to the last step it grows exponentially by this factor.
            baseline_decay: Decay of the moving average of the rewards.
            reward_batches: Batches behind a reward.
            cost: Name of a cost of the space.
            cost_target: Cost T0 that is aimed at; None leaves costs out of the reward.
            cost_weight: The reward is accuracy - cost_weight |T / T0 - 1| (β = -.1).
            architecture_share: Part of the training images for the architecture parameters; our choice.
            label_smoothing: Label smoothing of the cross-entropy.
            lr_warmup: Part of the training in which the learning rate of the weights rises linearly from 0.

        Raises:
            ValueError: If the supernet cannot run all choices at once but the warm-up asks for it, or the space has no
                such cost.
        """
        if warmup > 0:
            require_gates(supernet, 'the warm-up of tunas')
        if cost not in supernet.space.cost_names:
            raise ValueError(
                f'learn.options.cost is {cost!r}; the costs of {supernet.space.name} are '
                f'{", ".join(supernet.space.cost_names)}'
            )
        super().__init__(supernet, num_classes, architecture_share=architecture_share, label_smoothing=label_smoothing)
        self.optimizer, self.warmup, self.lr_warmup = optimizer, warmup, lr_warmup
        self.architecture_lr, self.lr_ramp = architecture_lr, lr_ramp
        self.baseline_decay, self.reward_batches = baseline_decay, reward_batches
        self.cost, self.cost_target, self.cost_weight = cost, cost_target, cost_weight
        self.register_buffer('baseline', torch.zeros(()))
        self.register_buffer('rewards', torch.zeros((), dtype=torch.long))

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """RMSProp as TensorFlow has it, or SGD, on the weights; Adam on the architecture parameters."""
        groups = [group for module in (self.network, self.fc) for group in decay_no_norms(module, config)]
        weights: torch.optim.Optimizer = sgd(groups, config)
        if self.optimizer == 'rmsprop':
            weights = timm.optim.RMSpropTF(groups, config.lr, alpha=0.9, eps=1.0, momentum=0.9)
        return {'weights': weights, 'architecture': self.architecture_optimizer(config)}

    def architecture_optimizer(self, config: LearnConfig) -> torch.optim.Optimizer:
        """Adam without momentum, its learning rate in proportion to the batch."""
        lr = self.architecture_lr * config.batch_size / 256
        return torch.optim.Adam(self.architecture.parameters(), lr, betas=(0.0, 0.999))

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Update the weights on a path, or on all choices at once; after the warm-up reward the path."""
        path = self.architecture.sample(step.generator('path'))
        batch = step.batch()
        with step.autocast():
            if self._all_at_once(step):
                gated = require_gates(self.network, 'the warm-up of tunas')
                gates = [
                    {c: batch.images.new_tensor(1 / len(choices)) for c in choices} for choices in gated.space.allowed
                ]
                feature_map = gated.forward_gated(batch.images[0], gates)
            else:
                feature_map = self.network(batch.images[0], path)
            loss = self.loss(feature_map, batch.labels)
        step.backward(loss)
        rising = max(round(self.lr_warmup * step.total), 1)
        step.update(lr_factor=min((step.number + 1) / rising, 1.0))
        start = round(self.warmup * step.total)
        if step.number >= start:
            advantage = self._advantage(self._reward(step, path))
            step.backward(-advantage * self.architecture.log_probability(path))
            progress = (step.number - start) / max(step.total - 1 - start, 1)
            step.update('architecture', lr_factor=self.lr_ramp**progress)
        return {'loss': loss.detach(), 'entropy': self.architecture.entropy(), 'baseline': self.baseline.clone()}

    def _all_at_once(self, step: Step) -> bool:
        """Whether this step runs all choices: with a probability that falls linearly from 1 to 0 in the warm-up."""
        probability = 1 - step.number / (self.warmup * step.total) if self.warmup > 0 else 0.0
        return float(torch.rand((), generator=step.generator('warmup'))) < probability

    @torch.no_grad()
    def _reward(self, step: Step, path: ChoicePath) -> torch.Tensor:
        """Accuracy of a path on images of the architecture parameters (BN with batch statistics), less its cost."""
        accuracies = []
        for _ in range(self.reward_batches):
            batch = step.batch('architecture')
            with step.autocast():
                logits = self.classify(self.network(batch.images[0], path))
            accuracies.append((logits.argmax(1) == batch.labels).float().mean())
        reward = torch.stack(accuracies).mean()
        if self.cost_target is not None:
            cost = float(self.network.space.costs(np.array([path]))[self.cost][0])
            reward = reward - self.cost_weight * abs(cost / self.cost_target - 1)
        return reward

    def _advantage(self, reward: torch.Tensor) -> torch.Tensor:
        """Reward less the average of those before it; 0 for the first one."""
        before = reward if int(self.rewards) == 0 else self.baseline.clone()
        self.baseline.copy_(self.baseline_decay * before + (1 - self.baseline_decay) * reward)
        self.rewards += 1
        return reward - before


# Spelled once, as the arguments of the class.
Options = options_of(TuNas)


def create(supernet: Supernet, options: Any, num_classes: int) -> TuNas:
    """Build the method for the learning stage."""
    return TuNas(supernet, num_classes, **vars(options))
