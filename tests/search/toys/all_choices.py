"""A method with several backward passes on one batch and one update: every choice of a position once per step."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pinas_search.config import plain_views
from pinas_search.methods import Method, Stream, sgd


@dataclass(frozen=True)
class Options:
    pass


class AllChoices(Method):
    streams = {'train': Stream(plain_views())}  # noqa: RUF012

    def __init__(self, supernet, num_classes):
        super().__init__()
        self.net, self.fc = supernet, nn.Linear(supernet.num_features, num_classes)

    @property
    def supernet(self):
        return self.net

    def optimizers(self, config):
        return {'weights': sgd([{'params': list(self.parameters())}], config)}

    def step(self, step):
        batch, space = step.batch(), self.net.space
        generator = step.generator('permutations')
        orders = [torch.randperm(m, generator=generator).tolist() for m in space.num_choices]
        losses = []
        for path in zip(*orders, strict=True):
            with step.autocast():
                logits = self.fc(self.net.features(self.net(batch.images[0], path)))
            losses.append(F.cross_entropy(logits.float(), batch.labels))
            step.backward(losses[-1])
        step.update()
        return {'loss': torch.stack(losses).mean().detach()}

    def artifacts(self):
        return {'supernet': self.net, 'classifier': self.fc}


def create(supernet, options, num_classes):
    return AllChoices(supernet, num_classes)
