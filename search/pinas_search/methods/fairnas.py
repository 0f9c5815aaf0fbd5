"""FairNAS: strictly fair sampling (Chu et al., ICCV 2021, "FairNAS: Rethinking Evaluation Fairness of Weight Sharing").

At each position the m choices are put in a random order; the first ones make a path, the second ones another, and so
on: m paths that hold every choice once. All of them see the same images, their gradients add up, and one update
follows, so that after every step each choice has been trained equally often.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..spaces import ChoicePath
from ..supernets import Supernet
from .base import Step
from .supervised import SupervisedMethod

__all__ = ['FairNas', 'Options', 'create']


@dataclass(frozen=True)
class Options:
    """Options of FairNAS.

    Attributes:
        accumulate: All m paths in one step, as published. Off, each path has a step and images of its own, so that m
            steps are fair and a single one is not (the variant of the Π-NAS authors).
        label_smoothing: Label smoothing of the cross-entropy.
    """

    accumulate: bool = True
    label_smoothing: float = 0.0


class FairNas(SupervisedMethod):
    """The paths of a permutation per step. Choices off a path get no gradient from it."""

    paths: torch.Tensor

    def __init__(
        self, supernet: Supernet, num_classes: int, *, accumulate: bool = True, label_smoothing: float = 0.0
    ) -> None:
        """Add a classifier to a supernet; see ``Options``.

        Raises:
            ValueError: If the positions have different numbers of choices, so that no m paths hold each of them once.
        """
        super().__init__(supernet, num_classes, label_smoothing)
        counts = {len(choices) for choices in supernet.space.allowed}
        if len(counts) > 1:
            raise ValueError(
                f'fairnas trains every choice once per step, so all positions need equally many; {supernet.space.name} '
                f'has positions with {" and ".join(map(str, sorted(counts)))}'
            )
        self.accumulate = accumulate
        # The paths of the last draw; without accumulation they outlive the step, so they are part of the state.
        self.register_buffer('paths', torch.zeros(counts.pop(), supernet.space.num_positions, dtype=torch.long))

    def draw_paths(self, generator: torch.Generator) -> list[ChoicePath]:
        """Draw m paths that together hold every choice of every position once."""
        orders = [
            [choices[i] for i in torch.randperm(len(choices), generator=generator)]
            for choices in self.network.space.allowed
        ]
        return list(zip(*orders, strict=True))

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Run the paths of this step on one batch, add up their gradients, update once."""
        batch, losses = step.batch(), []
        for path in self._paths_of(step):
            with step.autocast():
                loss = self.loss(self.network(batch.images[0], path), batch.labels)
            step.backward(loss)
            losses.append(loss.detach())
        self._average_shared(len(losses))
        step.update()
        return {'loss': torch.stack(losses).mean()}

    def _paths_of(self, step: Step) -> list[ChoicePath]:
        turn = 0 if self.accumulate else step.number % len(self.paths)
        if turn == 0:
            self.paths.copy_(torch.tensor(self.draw_paths(step.generator('paths'))))
        paths = [tuple(path) for path in self.paths.tolist()]
        return paths if self.accumulate else [paths[turn]]

    def _average_shared(self, count: int) -> None:
        """Divide the gradients of what every path has, which got ``count`` of them where a choice got one."""
        for module in (*self.network.shared_modules(), self.fc):
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(count)


def create(supernet: Supernet, options: Options, num_classes: int) -> FairNas:
    """Build the method for the learning stage."""
    return FairNas(supernet, num_classes, **vars(options))
