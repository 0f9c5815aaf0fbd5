"""DNGO: a small network learns features of networks, Bayesian linear regression on them says how sure it is.

Snoek et al., "Scalable Bayesian Optimization Using Deep Neural Networks" (ICML 2015), as arch2vec uses it: one layer of
128 tanh units, 100 epochs of Adam, precisions of weights and noise that maximise the evidence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import BayesianRidge
from torch import nn

from ..randomness import generator, seeded_scope

__all__ = ['Dngo', 'Posterior']

_UNITS = 128
_BATCH = 10
_LR = 0.01
_SMALLEST = 1e-12


class Posterior(NamedTuple):
    """What is believed of values.

    Attributes:
        mean: Means, [N].
        std: Standard deviations, the noise of an observation included, [N].
    """

    mean: np.ndarray
    std: np.ndarray


class Dngo:
    """A regression with uncertainty. Features and values are standardised; predictions are in the given units."""

    def __init__(self, features: np.ndarray, values: np.ndarray, *, epochs: int = 100, seed: int = 0) -> None:
        """Fit.

        Args:
            features: Features [N, F].
            values: Values [N], finite.
            epochs: Passes of the network over the samples.
            seed: Seed of its weights and of the order of the samples; the same seed gives the same predictions.

        Raises:
            ValueError: If there are fewer than two samples, or a value is not finite.
        """
        features, values = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if len(values) < 2 or not np.isfinite(values).all():
            raise ValueError(f'a regression needs at least two samples with finite values, got {len(values)}')
        self._offset, self._scale = features.mean(0), np.maximum(features.std(0), _SMALLEST)
        self._center, self._unit = values.mean(), max(values.std(), _SMALLEST)
        inputs, targets = self._inputs(features), (values - self._center) / self._unit
        self._network = _train(inputs, torch.from_numpy(targets).float(), epochs, seed)
        self._regression = BayesianRidge().fit(self._basis(inputs), targets)

    def predict(self, features: np.ndarray) -> Posterior:
        """The posterior of values at features [N, F]."""
        mean, std = self._regression.predict(self._basis(self._inputs(features)), return_std=True)
        return Posterior(self._center + self._unit * mean, self._unit * std)

    def _inputs(self, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((features - self._offset) / self._scale).float()

    @torch.no_grad()
    def _basis(self, inputs: torch.Tensor) -> np.ndarray:
        return self._network[:-1](inputs).double().numpy()


@torch.enable_grad()
def _train(inputs: torch.Tensor, targets: torch.Tensor, epochs: int, seed: int) -> nn.Sequential:
    with seeded_scope(seed, 'dngo'):  # layers take no generator
        network = nn.Sequential(nn.Linear(inputs.shape[1], _UNITS), nn.Tanh(), nn.Linear(_UNITS, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR)
    for epoch in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator(seed, 'dngo/order', epoch)).split(_BATCH):
            loss = F.mse_loss(network(inputs[rows])[:, 0], targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network
