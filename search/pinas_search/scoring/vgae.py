"""The variational graph auto-encoder of arch2vec, which learns a latent space of networks from graphs alone.

Yan et al., "Does Unsupervised Architecture Representation Learning Help Neural Architecture Search?" (NeurIPS 2020).
The released code differs from its configuration in two places, which are switches here (``Objective``). Parameters have
its names, so that its weights load.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..randomness import generator, seeded_scope
from ..spaces import Graph

__all__ = ['GraphBatch', 'Objective', 'Reconstruction', 'Vgae', 'losses', 'pretrain', 'stack_graphs']

_HIDDEN = 128
_HOPS = 5  # the authors' number, of which the first is the input itself
_DROPOUT = 0.3
_CLIP = 5.0


@dataclass(frozen=True)
class Objective:
    """What the auto-encoder minimises: BCE of the operations + BCE of the edges + KL divergence.

    Attributes:
        operations: Activation of the decoded operations. The released code applies the one of the edges, a
            ``sigmoid``; its configuration says ``softmax``.
        kl: ``code`` divides the mean of the KL divergence over nodes and graphs by their number once more, as the
            released code; ``mean`` does not.
    """

    operations: Literal['sigmoid', 'softmax'] = 'sigmoid'
    kl: Literal['code', 'mean'] = 'code'


class GraphBatch(NamedTuple):
    """Graphs with equally many nodes.

    Attributes:
        operations: One-hot labels, float32 [B, V, K].
        adjacency: Edges, float32 [B, V, V], strictly upper triangular.
    """

    operations: torch.Tensor
    adjacency: torch.Tensor

    def take(self, rows: torch.Tensor) -> GraphBatch:
        """The graphs of some rows."""
        return GraphBatch(self.operations[rows], self.adjacency[rows])


class Reconstruction(NamedTuple):
    """What the auto-encoder makes of graphs.

    Attributes:
        operations: Probability of each label, [B, V, K].
        adjacency: Probability of an edge, [B, V, V], symmetric.
        mean: Mean of the latent code of each node, [B, V, D].
        log_std: Logarithm of its standard deviation, [B, V, D]; the released code calls it logvar.
    """

    operations: torch.Tensor
    adjacency: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor


class _Mlp(nn.Module):
    """Linear, BN, ReLU, linear."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(inputs, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)])
        self.batch_norms = nn.ModuleList([nn.BatchNorm1d(_HIDDEN)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linears[1](F.relu(_normalize(self.batch_norms[0], self.linears[0](x))))


class _Decoder(nn.Module):
    def __init__(self, latent_dim: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(latent_dim, labels)


class Vgae(nn.Module):
    """The auto-encoder: each node of a graph gets a latent code, from which its operation and its edges are decoded.

    Four layers of graph isomorphism (GIN), then mean and spread of the code; an edge is the dot product of two codes,
    an operation a linear function of one.
    """

    def __init__(
        self, labels: int, latent_dim: int = 16, operations: Literal['sigmoid', 'softmax'] = 'sigmoid'
    ) -> None:
        """Draw fresh weights.

        Args:
            labels: Size K of the vocabulary.
            latent_dim: Size D of the code of a node.
            operations: Activation of the decoded operations, see ``Objective``.
        """
        super().__init__()
        self.activation = operations
        self.eps = nn.Parameter(torch.zeros(_HOPS - 1))
        self.mlps = nn.ModuleList(_Mlp(labels if layer == 0 else _HIDDEN) for layer in range(_HOPS - 1))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(_HIDDEN) for _ in range(_HOPS - 1))
        self.fc1, self.fc2 = nn.Linear(_HIDDEN, latent_dim), nn.Linear(_HIDDEN, latent_dim)
        self.decoder = _Decoder(latent_dim, labels)

    def encode(self, graphs: GraphBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the standard deviation of the codes, both [B, V, D]."""
        x, neighbours = graphs.operations, graphs.adjacency + graphs.adjacency.transpose(1, 2)
        for eps, mlp, norm in zip(self.eps, self.mlps, self.batch_norms, strict=True):
            x = F.relu(_normalize(norm, mlp((1 + eps) * x + neighbours @ x)))
        return self.fc1(x), self.fc2(x)

    def decode(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of operations [B, V, K] and edges [B, V, V] from codes [B, V, D]."""
        codes = F.dropout(codes, _DROPOUT, self.training)
        logits = self.decoder.weight(codes)
        operations = logits.softmax(-1) if self.activation == 'softmax' else logits.sigmoid()
        return operations, (codes @ codes.transpose(1, 2)).sigmoid()

    def forward(self, graphs: GraphBatch) -> Reconstruction:
        """Encode and decode; in training mode with a random code, else with its mean."""
        mean, log_std = self.encode(graphs)
        codes = mean + log_std.exp() * torch.randn_like(mean) if self.training else mean
        return Reconstruction(*self.decode(codes), mean, log_std)


def losses(graphs: GraphBatch, result: Reconstruction, kl: Literal['code', 'mean'] = 'code') -> dict[str, torch.Tensor]:
    """The three parts of the loss, by name; their sum is minimised.

    The lower triangle of the edges is known to be empty and adds zeros to the mean, as in the released code.

    Args:
        graphs: The graphs.
        result: What the auto-encoder made of them.
        kl: See ``Objective``.
    """
    divergence = -0.5 * (1 + 2 * result.log_std - result.mean**2 - (2 * result.log_std).exp()).sum(-1)
    nodes = divergence.numel() if kl == 'code' else 1
    return {
        'operations': F.binary_cross_entropy(result.operations, graphs.operations),
        'adjacency': F.binary_cross_entropy(result.adjacency.triu(1), graphs.adjacency),
        'kl': divergence.mean() / nodes,
    }


def stack_graphs(graphs: Sequence[Graph]) -> GraphBatch:
    """Put graphs with equally many nodes and one vocabulary into tensors.

    Raises:
        ValueError: If they differ in one of the two.
    """
    shapes = {(len(graph.operations), graph.vocabulary) for graph in graphs}
    if len(shapes) != 1:
        raise ValueError('graphs of one space have equally many nodes and one vocabulary, these differ')
    labels = torch.from_numpy(np.array([graph.operations for graph in graphs]))
    adjacency = torch.from_numpy(np.stack([graph.adjacency for graph in graphs]))
    return GraphBatch(F.one_hot(labels, len(graphs[0].vocabulary)).float(), adjacency.float())


@torch.enable_grad()  # wherever the encoder is first needed
def pretrain(
    graphs: GraphBatch, *, latent_dim: int = 16, epochs: int = 10, batch_size: int = 32, objective: Objective, seed: int
) -> Vgae:
    """Train an auto-encoder with Adam at 1e-3, gradients clipped to the norm 5. No accuracy is used.

    Args:
        graphs: The graphs.
        latent_dim: Size D of the code of a node.
        epochs: Passes over the graphs.
        batch_size: Graphs per step.
        objective: What is minimised.
        seed: Seed of weights, order, codes and dropout; the same seed gives the same weights.

    Returns:
        The auto-encoder on the CPU, in eval mode.
    """
    count, labels = len(graphs.operations), graphs.operations.shape[-1]
    with seeded_scope(seed, 'vgae'):  # dropout takes no generator
        model = Vgae(labels, latent_dim, objective.operations).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(epochs):
            order = torch.randperm(count, generator=generator(seed, 'vgae/order', epoch))
            for rows in itertools.islice(order.split(batch_size), max(1, count // batch_size)):
                batch = graphs.take(rows)
                loss = sum(losses(batch, model(batch), objective.kl).values(), torch.zeros(()))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
                optimizer.step()
    return model.eval()


def _normalize(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Batch norm over all nodes of all graphs, [B, V, C]."""
    return norm(x.flatten(0, 1)).view_as(x)
