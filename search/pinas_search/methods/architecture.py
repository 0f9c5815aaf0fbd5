"""Architecture parameters: logits of every choice at every position, trained beside the weights of the supernet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..config import LearnConfig, plain_views
from ..scoring import Score, Scorer, Tools
from ..spaces import AdditiveSpace, ChoicePath, Space
from ..supernets import GatedSupernet, Supernet
from .base import Stream, sgd
from .supervised import SupervisedMethod

__all__ = ['ArchitectureMethod', 'ArchitectureParameters', 'ChoiceCosts', 'LogProbability', 'gumbel', 'require_gates']


class ArchitectureParameters(nn.Module):
    """An independent categorical distribution at each position.

    Attributes:
        logits: [L, m]; choices that a position lacks, or the space does not allow, have the probability 0.
    """

    allowed: torch.Tensor

    def __init__(self, space: Space) -> None:
        """Begin with all paths equally probable.

        Args:
            space: The space.
        """
        super().__init__()
        shape = (space.num_positions, max(space.num_choices))
        self.logits = nn.Parameter(torch.zeros(shape))
        allowed = torch.zeros(shape, dtype=torch.bool)
        for row, choices in zip(allowed, space.allowed, strict=True):
            row[list(choices)] = True
        self.register_buffer('allowed', allowed, persistent=False)  # the space knows it

    def log_probabilities(self) -> torch.Tensor:
        """Log-probability of each choice, [L, m]; minus infinity where there is none."""
        return self.logits.masked_fill(~self.allowed, -torch.inf).log_softmax(1)

    def log_probability(self, path: Sequence[int]) -> torch.Tensor:
        """Log-probability of a path, a scalar."""
        index = torch.tensor(path, device=self.logits.device)[:, None]
        return self.log_probabilities().gather(1, index).sum()

    @torch.no_grad()
    def entropy(self) -> torch.Tensor:
        """Entropy of a position in nats, the mean over positions: log m at the start, 0 when all is decided."""
        return torch.special.entr(self.log_probabilities().exp()).sum(1).mean()

    @torch.no_grad()
    def most_likely(self) -> ChoicePath:
        """The path of the largest logits."""
        return tuple(self.log_probabilities().argmax(1).tolist())

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> ChoicePath:
        """Draw a path."""
        probabilities = self.log_probabilities().exp().cpu()
        return tuple(torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist())


class LogProbability:
    """Scores paths by their log-probability under architecture parameters: no network is run."""

    def __init__(self, architecture: ArchitectureParameters) -> None:
        self.architecture = architecture

    @property
    def facts(self) -> Mapping[str, object]:
        """The path that the parameters prefer, as digits, and how decided they are."""
        most_likely = ''.join(map(str, self.architecture.most_likely()))
        return {'most_likely': most_likely, 'entropy': float(self.architecture.entropy())}

    @torch.no_grad()
    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Log-probability of each path, in nats."""
        table = self.architecture.log_probabilities().double().cpu()
        positions = torch.arange(len(table))
        return [Score(float(table[positions, list(path)].sum())) for path in paths]


class ArchitectureMethod(SupervisedMethod):
    """A method with architecture parameters, which have their own part of the training images and their own optimizer.

    It offers the score ``log_probability``; the accuracy inside the supernet is the evaluator's.

    Attributes:
        architecture: The architecture parameters.
        share: Part of the training images that they are trained on, 0..1.
    """

    def __init__(
        self, supernet: Supernet, num_classes: int, *, architecture_share: float, label_smoothing: float = 0.0
    ) -> None:
        """Add a classifier and architecture parameters to a supernet.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            architecture_share: Part of the training images for the architecture parameters.
            label_smoothing: Label smoothing of the cross-entropy.

        Raises:
            ValueError: If one of the two parts would be empty.
        """
        super().__init__(supernet, num_classes, label_smoothing)
        if not 0 < architecture_share < 1:
            raise ValueError(
                f'learn.options.architecture_share is {architecture_share}: weights and architecture parameters need '
                'images each, so it must lie between 0 and 1'
            )
        self.share = architecture_share
        self.architecture = ArchitectureParameters(supernet.space)

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Random crops and flips; the weights and the architecture parameters see different images."""
        views = plain_views()
        return {'train': Stream(views, share=1 - self.share), 'architecture': Stream(views, share=self.share)}

    @abstractmethod
    def architecture_optimizer(self, config: LearnConfig) -> torch.optim.Optimizer:
        """The optimizer of the architecture parameters."""

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """SGD on the weights, and the optimizer of the architecture parameters."""
        return {'weights': sgd([{'params': self.weights}], config), 'architecture': self.architecture_optimizer(config)}

    def artifacts(self) -> dict[str, nn.Module]:
        """Supernet, classifier and architecture parameters."""
        return {**super().artifacts(), 'architecture': self.architecture}

    def scorers(self, tools: Tools) -> dict[str, Scorer]:
        """The log-probability of a path."""
        return {'log_probability': LogProbability(self.architecture)}


class ChoiceCosts(nn.Module):
    """Costs of a space that add up over positions, as tensors: what a path may be expected to cost has a gradient.

    Attributes:
        fixed: Cost of what every path has.
    """

    table: torch.Tensor

    def __init__(self, space: Space, name: str, option: str) -> None:
        """Look costs up.

        Args:
            space: The space.
            name: Name of the cost, such as ``macs``.
            option: The option that names it, for messages.

        Raises:
            ValueError: If the space has no such cost, or its costs do not add up.
        """
        super().__init__()
        if not isinstance(space, AdditiveSpace) or name not in space.cost_table.per_choice:
            known = ', '.join(space.cost_table.per_choice) if isinstance(space, AdditiveSpace) else 'none'
            raise ValueError(
                f'learn.options.{option} is {name!r}: {space.name} has no such cost that adds up over its positions '
                f'(those that do: {known})'
            )
        self.fixed = float(space.cost_table.fixed[name])
        table = torch.as_tensor(space.cost_table.per_choice[name], dtype=torch.float32)
        self.register_buffer('table', table, persistent=False)

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Expected cost of a path under the probabilities of each choice [L, m], a scalar."""
        return self.fixed + (probabilities * self.table).sum()


def require_gates(supernet: Supernet, method: str) -> GatedSupernet:
    """Return the supernet if it can weigh choices.

    Raises:
        ValueError: If it cannot.
    """
    if not isinstance(supernet, GatedSupernet):
        raise ValueError(
            f'{method} weighs the choices of a position, which the supernet {type(supernet).__name__} cannot: '
            'it is no GatedSupernet; take another method'
        )
    return supernet


def gumbel(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw Gumbel noise of the shape and on the device of a tensor."""
    noise = torch.empty(like.shape, dtype=like.dtype).exponential_(generator=generator)
    return -noise.log().to(like.device)
