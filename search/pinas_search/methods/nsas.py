"""GDAS-NSAS: GDAS that keeps other architectures trained (Zhang et al., CVPR 2020; MiaoZhang0525/NSAS_FOR_CVPR).

L(θ) = (1 - β) L(a) + β/|M| Σ L(b) over an archive M of architectures b, so that training a does not undo them. After
each step the member that is most like a makes room for the most novel architecture that a small evolution finds:
novelty is the mean distance, in positions that differ, to the nearest members.

The released code takes the losses of the archive as plain numbers (``.item()``), so they have no gradient and what is
left is GDAS with a scaled loss: ``archive_gradients=False``. Its mutation changes the parent as well; ours cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..config.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ..plugins import options_of
from ..spaces import ChoicePath, Space
from ..supernets import Supernet
from .base import Step
from .gdas import Gdas

__all__ = ['Nsas', 'Options', 'create', 'most_novel', 'mutate', 'novelty']


class Nsas(Gdas):
    """GDAS with an archive. State of its own: ``archive``, paths [|M|, L]."""

    archive: torch.Tensor

    def __init__(
        self,
        supernet: Supernet,
        num_classes: int,
        *,
        archive_size: PositiveInt = 8,
        beta: Fraction = 0.5,
        neighbours: PositiveInt = 10,
        population: PositiveInt = 10,
        generations: NonNegativeInt = 5,
        archive_gradients: bool = True,
        temperature_start: PositiveFloat = 10.0,
        temperature_end: PositiveFloat = 0.1,
        architecture_lr: PositiveFloat = 3e-4,
        architecture_weight_decay: NonNegativeFloat = 1e-3,
        clip: PositiveFloat = 5.0,
        architecture_share: Fraction = 0.5,
    ) -> None:
        """Add a classifier, architecture parameters and an archive; the last six arguments are those of ``Gdas``.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            archive_size: Members of the archive M.
            beta: Weight β of the archive: .5 in the paper; the code of GDAS has .2.
            neighbours: Members that novelty is measured to, the nearest ones; all if there are fewer.
            population: Architectures in the search for the most novel one; our choice.
            generations: Generations of that search; our choice.
            archive_gradients: Off: the archive has no gradient, as in the released code.
            temperature_start: Temperature τ at the first step; it falls linearly.
            temperature_end: Temperature at the last step.
            architecture_lr: Learning rate of Adam on the architecture parameters.
            architecture_weight_decay: Its weight decay.
            clip: Largest norm of the gradients of the weights.
            architecture_share: Part of the training images for the architecture parameters.

        Raises:
            ValueError: If the supernet cannot weigh choices.
        """
        super().__init__(
            supernet,
            num_classes,
            temperature_start=temperature_start,
            temperature_end=temperature_end,
            architecture_lr=architecture_lr,
            architecture_weight_decay=architecture_weight_decay,
            clip=clip,
            architecture_share=architecture_share,
        )
        self.beta, self.archive_gradients = beta, archive_gradients
        self.neighbours, self.population, self.generations = neighbours, population, generations
        self.register_buffer('archive', torch.zeros(archive_size, supernet.space.num_positions, dtype=torch.long))

    def train_weights(self, step: Step, path: ChoicePath) -> torch.Tensor:
        """Update the weights of a path and of the archive on one batch, then renew the archive; returns the loss."""
        space, batch = self.network.space, step.batch()
        if step.number == 0:
            numbers = step.generator('archive')
            self.archive.copy_(torch.tensor([space.sample(numbers) for _ in self.archive]))
        members = [tuple(member) for member in self.archive.tolist()]
        total = self.fc.weight.new_zeros(())
        for i, architecture in enumerate([path, *members]):
            learns = i == 0 or self.archive_gradients
            with torch.set_grad_enabled(learns), step.autocast():
                loss = self.loss(self.network(batch.images[0], architecture), batch.labels)
                loss = loss * (1 - self.beta if i == 0 else self.beta / len(members))
            if learns:
                step.backward(loss)
            total += loss.detach()
        step.update(max_norm=self.clip)
        numbers = step.generator('novelty')
        novel = most_novel(space, members, self.neighbours, self.population, self.generations, numbers)
        self.archive[_distances([path], members)[0].argmin()] = torch.tensor(novel, device=self.archive.device)
        return total


def novelty(paths: list[ChoicePath], archive: list[ChoicePath], neighbours: int) -> np.ndarray:
    """Mean number of positions in which each path differs from its nearest members of the archive, [N]."""
    return np.sort(_distances(paths, archive), axis=1)[:, :neighbours].mean(1)


def mutate(path: ChoicePath, space: Space, generator: torch.Generator) -> ChoicePath:
    """A copy of a path with another choice at one random position; the path itself where no position has another."""
    positions = [i for i, choices in enumerate(space.allowed) if len(choices) > 1]
    if not positions:
        return path
    position = positions[_draw(len(positions), generator)]
    others = [choice for choice in space.allowed[position] if choice != path[position]]
    return (*path[:position], others[_draw(len(others), generator)], *path[position + 1 :])


def most_novel(
    space: Space,
    archive: list[ChoicePath],
    neighbours: int,
    population: int,
    generations: int,
    generator: torch.Generator,
) -> ChoicePath:
    """Search for the path of the largest novelty: the better half of a population and its mutants, again and again."""
    paths = [space.sample(generator) for _ in range(population)]
    for _ in range(generations + 1):
        order = np.argsort(-novelty(paths, archive, neighbours), kind='stable')
        parents = [paths[i] for i in order[: max(population // 2, 1)]]
        paths = [*parents, *(mutate(parents[_draw(len(parents), generator)], space, generator) for _ in parents)]
    return paths[0]


def _distances(paths: list[ChoicePath], archive: list[ChoicePath]) -> np.ndarray:
    """Positions in which they differ, [N, |M|]."""
    return (np.array(paths)[:, None] != np.array(archive)[None]).sum(2)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


# Spelled once, as the arguments of the class.
Options = options_of(Nsas)


def create(supernet: Supernet, options: Any, num_classes: int) -> Nsas:
    """Build the method for the learning stage."""
    return Nsas(supernet, num_classes, **vars(options))
