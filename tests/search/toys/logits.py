"""A method with architecture parameters, which have their own images and optimizer, and a score of its own."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pinas_search.config import plain_views
from pinas_search.methods import Method, Stream, sgd
from pinas_search.scoring import Score


@dataclass(frozen=True)
class Options:
    lr: float = 0.1


class Logits(nn.Module):
    def __init__(self, space):
        super().__init__()
        self.rows = nn.ParameterList(torch.zeros(m) for m in space.num_choices)

    def log_probability(self, path):
        return sum(row.log_softmax(0)[choice] for row, choice in zip(self.rows, path, strict=True))


class Reinforce(Method):
    def __init__(self, supernet, num_classes, lr):
        super().__init__()
        self.net, self.fc, self.lr = supernet, nn.Linear(supernet.num_features, num_classes), lr
        self.logits = Logits(supernet.space)

    @property
    def supernet(self):
        return self.net

    @property
    def streams(self):
        return {'train': Stream(plain_views(), share=0.6), 'architecture': Stream(plain_views(), share=0.4)}

    def optimizers(self, config):
        weights = [*self.net.parameters(), *self.fc.parameters()]
        architecture = torch.optim.Adam(self.logits.parameters(), self.lr)
        return {'weights': sgd([{'params': weights}], config), 'architecture': architecture}

    def run(self, batch, path):
        return self.fc(self.net.features(self.net(batch.images[0], path))).float()

    def step(self, step):
        path, batch = self.net.space.sample(step.generator('paths')), step.batch()
        loss = F.cross_entropy(self.run(batch, path), batch.labels)
        step.backward(loss)
        step.update()
        probabilities = [row.softmax(0) for row in self.logits.rows]
        generator = step.generator('architecture')
        path = tuple(int(torch.multinomial(p.detach().cpu(), 1, generator=generator)) for p in probabilities)
        batch = step.batch('architecture')
        with torch.no_grad():
            reward = (self.run(batch, path).argmax(1) == batch.labels).float().mean()
        step.backward(-(reward - 0.1) * self.logits.log_probability(path))
        step.update('architecture')
        return {'loss': loss.detach(), 'reward': reward}

    def artifacts(self):
        return {'supernet': self.net, 'classifier': self.fc, 'architecture': self.logits}

    def scorers(self, tools):
        return {'log_probability': LogProbability(self.logits)}


class LogProbability:
    facts = {}  # noqa: RUF012

    def __init__(self, logits):
        self.logits = logits

    @torch.no_grad()
    def score(self, paths):
        return [Score(float(self.logits.log_probability(path))) for path in paths]


def create(supernet, options, num_classes):
    return Reinforce(supernet, num_classes, options.lr)
