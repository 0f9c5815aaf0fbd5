"""ProxylessNAS: binary gates, one sampled path at a time (Cai et al., ICLR 2019; mit-han-lab/proxylessnas).

The weights are trained on paths that are drawn from p = softmax(α). Every few steps α is trained on other images: the
gate g of the drawn choice is 1, those of the others 0, and the gradient of a gate goes on to α as if it were the
probability, ∂L/∂α_i = Σ_j ∂L/∂g_j p_j (δ_ij - p_i). ``full`` gives all choices a gate, ``two`` only two drawn ones.

The released training has a warm-up with a learning rate of its own; here one schedule covers both. The phase is a
function of the step's number, so nothing about it is saved (the released code saved ``epoch,``, a tuple).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from ..config import LearnConfig
from ..config.types import Fraction, PositiveFloat, PositiveInt
from ..plugins import options_of
from ..spaces import ChoicePath
from ..supernets import Supernet
from .architecture import ArchitectureMethod, ChoiceCosts, require_gates
from .base import Step

__all__ = ['Options', 'ProxylessNas', 'create']


class ProxylessNas(ArchitectureMethod):
    """Weights on sampled paths; architecture parameters through binary gates, every few steps."""

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int,
        *,
        gates: Literal['full', 'two'] = 'full',
        warmup: Fraction = 0.25,
        steps_per_update: PositiveInt = 5,
        architecture_lr: PositiveFloat = 1e-3,
        architecture_share: Fraction = 0.2,
        label_smoothing: Fraction = 0.1,
        regularizer: Literal['none', 'mul#log', 'add#linear'] = 'none',
        cost: str = 'macs',
        cost_target: PositiveFloat | None = None,
        alpha: PositiveFloat = 0.2,
        beta: PositiveFloat = 0.3,
        cost_weight: PositiveFloat = 0.1,
    ) -> None:
        """Add a classifier and architecture parameters; the defaults are the released code's.

        They go with ``learn.nesterov``.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            gates: ``full``: all choices have a gate (``full_v2``). ``two``: two choices drawn from p compete, and the
                probabilities of the others stay what they are; needs the memory of two paths.
            warmup: Part of the training with uniform paths and without architecture updates (40 of 160 epochs).
            steps_per_update: Steps of the weights for each step of the architecture parameters.
            architecture_lr: Learning rate of Adam on the architecture parameters.
            architecture_share: Part of the training images for the architecture parameters; our choice.
            label_smoothing: Label smoothing of the cross-entropy.
            regularizer: How the expected cost E enters the loss of the architecture parameters: ``mul#log`` is
                alpha CE (log E / log T)^beta, ``add#linear`` is CE + cost_weight (E - T) / T.
            cost: Name of the cost: ``macs`` or ``params``.
            cost_target: The reference T.
            alpha: Factor of ``mul#log``.
            beta: Exponent of ``mul#log``.
            cost_weight: Weight of ``add#linear`` (λ).

        Raises:
            ValueError: If the supernet cannot weigh choices, or the regulariser lacks its cost or reference.
        """
        require_gates(supernet, 'proxylessnas')
        super().__init__(supernet, num_classes, architecture_share=architecture_share, label_smoothing=label_smoothing)
        if regularizer != 'none' and cost_target is None:
            raise ValueError(
                f'learn.options.regularizer is {regularizer!r}, which compares the expected {cost} with a reference: '
                'set learn.options.cost_target'
            )
        self.costs = None if regularizer == 'none' else ChoiceCosts(supernet.space, cost, 'cost')
        self.two, self.warmup, self.steps_per_update = gates == 'two', warmup, steps_per_update
        self.architecture_lr, self.regularizer = architecture_lr, regularizer
        self.cost_target, self.alpha, self.beta, self.cost_weight = cost_target or 1.0, alpha, beta, cost_weight

    def architecture_optimizer(self, config: LearnConfig) -> torch.optim.Optimizer:
        """Adam without momentum, so that parameters without a gradient stay."""
        return torch.optim.Adam(self.architecture.parameters(), self.architecture_lr, betas=(0.0, 0.999))

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Update the weights on a path; after the warm-up, every few steps, the architecture parameters as well."""
        warming = step.number < round(self.warmup * step.total)
        paths = step.generator('paths')
        path = self.network.space.sample(paths) if warming else self.architecture.sample(paths)
        batch = step.batch()
        with step.autocast():
            loss = self.loss(self.network(batch.images[0], path), batch.labels)
        step.backward(loss)
        step.update()
        # As in the released code, none in the first epoch.
        if not warming and step.epoch > 0 and (step.number + 1) % self.steps_per_update == 0:
            self._train_architecture(step)
        return {'loss': loss.detach(), 'entropy': self.architecture.entropy()}

    def _train_architecture(self, step: Step) -> None:
        batch, logits = step.batch('architecture'), self.architecture.logits
        chosen = self._draw(step.generator('gates'))
        gates = [_binary(probabilities, c) for c, probabilities in zip(*chosen, strict=True)]
        with step.autocast():
            feature_map = require_gates(self.network, 'proxylessnas').forward_gated(batch.images[0], gates)
            loss = self.loss(feature_map, batch.labels)
        step.backward(self._regularized(loss))
        if not self.two:
            step.update('architecture')
            return
        pairs = torch.zeros_like(logits, dtype=torch.bool)
        for row, weights in zip(pairs, gates, strict=True):
            row[list(weights)] = True
        before = logits.detach().clone()
        if logits.grad is not None:
            logits.grad.masked_fill_(~pairs, 0.0)  # the expected cost depends on all of them
        step.update('architecture')
        rescale(logits, before, pairs)

    def _draw(self, generator: torch.Generator) -> tuple[ChoicePath, list[dict[int, torch.Tensor]]]:
        """The active path, and at each position the choices that compete with their probabilities among each other."""
        log_probabilities = self.architecture.log_probabilities()
        rows: list[dict[int, torch.Tensor]] = []
        for row, choices in zip(log_probabilities, self.network.space.allowed, strict=True):
            if self.two and len(choices) > 2:
                drawn = torch.multinomial(row.detach().exp().cpu(), 2, generator=generator)
                choices = tuple(sorted(drawn.tolist()))
            rows.append(dict(zip(choices, row[list(choices)].softmax(0), strict=True)))
        path = []
        for probabilities in rows:
            weights = torch.stack(list(probabilities.values())).detach().cpu()
            path.append(list(probabilities)[int(torch.multinomial(weights, 1, generator=generator))])
        return tuple(path), rows

    def _regularized(self, loss: torch.Tensor) -> torch.Tensor:
        if self.costs is None:
            return loss
        expected = self.costs(self.architecture.log_probabilities().exp())
        if self.regularizer == 'mul#log':
            return self.alpha * loss * (expected.log() / math.log(self.cost_target)) ** self.beta
        return loss + self.cost_weight * (expected - self.cost_target) / self.cost_target


def _binary(probabilities: dict[int, torch.Tensor], active: int) -> dict[int, torch.Tensor]:
    """Gates of 1 for the active choice and 0 for its competitors, with the gradients of their probabilities."""
    return {c: float(c == active) + (p - p.detach()) for c, p in probabilities.items()}


@torch.no_grad()
def rescale(logits: torch.Tensor, before: torch.Tensor, pairs: torch.Tensor) -> None:
    """Shift the logits [L, m] of competing choices so that together they are as probable as before their update.

    Args:
        logits: The logits after the update; changed in place.
        before: The logits before the update.
        pairs: Which choices competed, bool [L, m].
    """
    masses = [x.masked_fill(~pairs, -torch.inf).logsumexp(1, keepdim=True) for x in (before, logits)]
    logits.add_(torch.where(pairs, masses[0] - masses[1], 0.0))


# Spelled once, as the arguments of the class.
Options = options_of(ProxylessNas)


def create(supernet: Supernet, options: Any, num_classes: int) -> ProxylessNas:
    """Build the method for the learning stage."""
    return ProxylessNas(supernet, num_classes, **vars(options))
