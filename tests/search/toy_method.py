"""A third method in one file: the stages run it without knowing it."""

from dataclasses import dataclass

import torch

from pinas_search.config import ViewConfig, plain_views
from pinas_search.methods import Method


@dataclass(frozen=True)
class Options:
    weight: float = 1.0


class Toy(Method):
    num_views = 1

    def __init__(self, supernet, weight):
        super().__init__()
        self.net, self.weight = supernet, weight

    @property
    def supernet(self):
        return self.net

    def default_views(self) -> ViewConfig:
        return plain_views()

    def sample_paths(self, generator):
        return (self.net.space.sample(generator),)

    def training_step(self, views, paths, labels=None) -> torch.Tensor:
        return self.weight * self.net(views[0], paths[0]).mean((2, 3)).var(0).mean()


def create(supernet, options, num_classes):
    return Toy(supernet, options.weight)
