"""A space that is no chain: two branches that add, and a convolution behind them; space and supernet in one file."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from pinas_search.spaces import AdditiveSpace, Choice, CostTable, Description, Group
from pinas_search.supernets import Supernet

KERNELS = (1, 3, 5)


def branch(inputs, outputs, kernel):
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.AvgPool2d(2), convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Network(nn.Module):
    def __init__(self, kernels, width, num_classes):
        super().__init__()
        left, right, last = kernels
        self.left, self.right, self.last = branch(3, width, left), branch(3, width, right), branch(width, width, last)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x):
        return self.fc(self.last(self.left(x) + self.right(x)).mean((2, 3)))


@dataclass(frozen=True)
class Branches(AdditiveSpace):
    width: int
    image_size: int
    num_classes: int
    name = 'two-branches'
    num_choices = (3, 3, 3)
    supernet = 'two_branches.BranchSupernet'

    def _measure_costs(self):
        squares = np.array([[k * k for k in KERNELS]] * 3)
        inputs = np.array([3, 3, self.width])[:, None]
        pixels = np.array([(self.image_size // 2) ** 2] * 2 + [(self.image_size // 4) ** 2])[:, None]
        macs = squares * inputs * self.width
        fc = self.width * self.num_classes
        fixed = {'params': fc + self.num_classes, 'macs': fc}
        return CostTable(fixed, {'params': macs + 2 * self.width, 'macs': macs * pixels})

    def describe(self):
        groups = (Group('branches', (0, 1)), Group('behind', (2,)))
        return Description(('left', 'right', 'last'), groups, tuple(Choice(f'conv{k}') for k in KERNELS))

    def build(self, path, *, num_classes=None, drop_rate=0.0, drop_path_rate=0.0, device=None):
        kernels = [KERNELS[choice] for choice in self.validate(path)]
        return Network(kernels, self.width, self.num_classes if num_classes is None else num_classes).to(device)


class BranchSupernet(Supernet):
    @dataclass(frozen=True)
    class Options:
        pass

    @staticmethod
    def create(space, options):
        return BranchSupernet(space)

    def __init__(self, space):
        super().__init__()
        self.space, self.num_features = space, space.width
        self.left, self.right, self.last = (
            nn.ModuleList(branch(inputs, space.width, kernel) for kernel in KERNELS) for inputs in (3, 3, space.width)
        )

    def forward(self, x, path):
        left, right, last = self.path_modules(self.space.validate(path))
        return last(left(x) + right(x))

    def path_modules(self, path):
        return [blocks[c] for blocks, c in zip((self.left, self.right, self.last), path, strict=True)]

    def shared_modules(self):
        return []

    def extract(self, path, classifier=None):
        network = self.space.build(path, num_classes=classifier.out_features if classifier else 0)
        for name, module in zip(('left', 'right', 'last'), self.path_modules(path), strict=True):
            network.get_submodule(name).load_state_dict(module.state_dict())
        if classifier:
            network.fc.load_state_dict(classifier.state_dict())
        return network.train(self.training)


@dataclass(frozen=True)
class Options:
    width: int = 16


def create(options, *, image_size, num_classes):
    return Branches(options.width, image_size, num_classes)
