"""What methods that learn from labels have in common: a classifier beside the supernet, and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..config import LearnConfig, plain_views
from ..supernets import Supernet
from .base import Method, Stream, sgd

__all__ = ['SupervisedMethod']


class SupervisedMethod(Method):
    """A method that trains a classifier together with the supernet. Subclasses write ``step``.

    State-dict names: ``network`` (the supernet) and ``fc`` (the classifier).

    Attributes:
        network: The supernet.
        fc: The classifier.
        label_smoothing: Label smoothing of the cross-entropy.
    """

    def __init__(self, supernet: Supernet, num_classes: int, label_smoothing: float = 0.0) -> None:
        """Add a classifier to a supernet.

        Args:
            supernet: The supernet; it is trained in place.
            num_classes: Classes.
            label_smoothing: Label smoothing of the cross-entropy.
        """
        super().__init__()
        self.network = supernet
        self.fc = nn.Linear(supernet.num_features, num_classes)
        self.label_smoothing = label_smoothing

    @property
    def supernet(self) -> Supernet:
        """The supernet."""
        return self.network

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Random crops and flips of all training images."""
        return {'train': Stream(plain_views())}

    @property
    def weights(self) -> list[nn.Parameter]:
        """What is trained by the optimizer ``weights``: supernet and classifier."""
        return [*self.network.parameters(), *self.fc.parameters()]

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """SGD on the weights."""
        return {'weights': sgd([{'params': self.weights}], config)}

    def classify(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Logits [N, C] of a feature map [N, F, h, w] of the supernet, in float32 at least."""
        logits = self.fc(self.network.features(feature_map))
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def loss(self, feature_map: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of a feature map [N, F, h, w] with labels [N], a scalar."""
        return F.cross_entropy(self.classify(feature_map), labels, label_smoothing=self.label_smoothing)

    def artifacts(self) -> dict[str, nn.Module]:
        """The supernet and the classifier that was trained with it."""
        return {'supernet': self.network, 'classifier': self.fc}
