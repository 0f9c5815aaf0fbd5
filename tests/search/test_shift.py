"""Feature shift, similarity across paths, parameter shift: supernets whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pinas_search.report.shift import draw_feature_shift, draw_parameter_shift, draw_similarity
from pinas_search.scoring.shift import compare_features, parameter_shift
from pinas_search.spaces import mini, nasbench201
from pinas_search.supernets import ChainSupernet, NASBench201Supernet


class Scales(ChainSupernet):
    """Each choice of a position multiplies by a number of its own."""

    num_features = 3

    def __init__(self, factors):
        super().__init__()
        self.space = mini()
        self.norm = nn.BatchNorm2d(3)
        self.factors = factors

    def stem(self, x):
        return self.norm(x)

    def run(self, x, path, positions):
        for position in positions:
            x = x * self.factors[position][path[position]]
        return x

    def path_modules(self, path):
        return [self.norm]

    shared_modules = path_modules

    def extract(self, path, classifier=None):
        raise NotImplementedError


PATHS = [(0,) * 8, (1,) * 8, (0, 1) * 4]


def test_no_shift_where_all_choices_are_equal():
    supernet = Scales([[2.0] * 4] * 8)
    features = compare_features(supernet, torch.randn(6, 3, 8, 8), PATHS)
    assert features.layers == tuple(mini().describe().positions)
    assert features.distances.shape == features.similarities.shape == (8, 3, 3)
    assert features.shift == pytest.approx(0, abs=1e-12)
    assert features.similarity == pytest.approx(1)
    assert int(supernet.norm.num_batches_tracked) == 0, 'the supernet was changed'


def test_shift_is_the_distance_and_similarity_the_cosine():
    # Choice 1 turns the sign at position 2 and triples at position 5: known distances behind each.
    factors = [[1.0] * 4 for _ in range(8)]
    factors[2] = [1.0, -1.0, 1.0, 1.0]
    factors[5] = [1.0, 3.0, 1.0, 1.0]
    features = compare_features(Scales(factors), torch.randn(6, 3, 8, 8), PATHS[:2])
    # Opposite maps: 2 |2a| / 2|a| = 2; a and -3a: 2 * 4 / 4 = 2.
    assert features.shift == pytest.approx([0, 0, 2, 2, 2, 2, 2, 2])
    assert features.similarity == pytest.approx([1, 1, -1, -1, -1, -1, -1, -1])
    factors[2] = [1.0] * 4
    features = compare_features(Scales(factors), torch.randn(6, 3, 8, 8), PATHS)
    assert features.distances[-1] == pytest.approx(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))  # 2 * 2 / 4
    assert features.shift[-1] == pytest.approx(2 / 3)
    assert features.similarity == pytest.approx(1)
    nothing = compare_features(Scales([[0.0] * 4] * 8), torch.randn(2, 3, 4, 4), PATHS)
    assert (nothing.shift.tolist(), nothing.similarity.tolist()) == ([0.0] * 8, [1.0] * 8)


def test_a_supernet_that_is_no_chain_is_compared_at_its_end():
    space = nasbench201(channels=4, num_cells=1)
    torch.manual_seed(0)
    supernet = NASBench201Supernet(space)
    images, paths = torch.randn(4, 3, 16, 16), [(3,) * 6, (2,) * 6, (3,) * 6]
    features = compare_features(supernet, images, paths)
    assert features.layers == ('last feature map',)
    with torch.no_grad():
        first, second = (supernet.train()(images, path).flatten(1).double() for path in paths[:2])
    expected = (2 * (first - second).norm(dim=1) / (first.norm(dim=1) + second.norm(dim=1))).mean()
    assert features.distances[0, 0, 1] == pytest.approx(float(expected))
    assert features.distances[0, 0, 2] == pytest.approx(0, abs=1e-9)
    assert features.similarities[0, 0, 1] == pytest.approx(float(torch.cosine_similarity(first, second).mean()))
    with pytest.raises(ValueError, match='at least two are needed, got 1'):
        compare_features(supernet, images, paths[:1])


def test_parameter_shift_is_the_relative_movement_of_a_layer():
    def state(scale, bias):
        return {
            'a.weight': torch.full((2, 2), 3.0) * scale,
            'a.bias': torch.tensor([bias]),
            'norm.weight': torch.zeros(2),
            'norm.running_mean': torch.rand(2),
            'norm.num_batches_tracked': torch.tensor(round(scale)),
        }

    steps, layers = parameter_shift({20: state(2.0, 1.0), 10: state(1.0, 1.0), 30: state(2.0, 1.0)})
    assert steps == [20, 30]
    assert set(layers) == {'a', 'norm'}
    assert layers['a'] == pytest.approx([6 / np.sqrt(4 * 36 + 1), 0.0])
    assert layers['norm'].tolist() == [0.0, 0.0]
    _, whole = parameter_shift({1: state(1.0, 0.0), 2: state(1.0, 4.0)}, lambda name: 'all')
    assert whole['all'] == pytest.approx([4 / np.sqrt(36 + 16)])
    with pytest.raises(ValueError, match='at least two'):
        parameter_shift({1: state(1.0, 0.0)})
    with pytest.raises(ValueError, match=r'differ in a\.bias'):
        parameter_shift({1: state(1.0, 0.0), 2: {k: v for k, v in state(1.0, 0.0).items() if k != 'a.bias'}})


def test_pictures_say_what_they_show():
    apart = compare_features(Scales([[1.0, 3.0, 1.0, 1.0]] + [[1.0] * 4] * 7), torch.randn(4, 3, 8, 8), PATHS[:2])
    picture = draw_feature_shift({'with': apart, 'without': apart})
    assert picture.alt.endswith('at the end: with 1.00, without 1.00.')
    (axes,) = picture.figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [pytest.approx([1.0] * 8)] * 2
    assert draw_similarity(apart).figure.axes[0].images[0].get_array().tolist() == [pytest.approx([1.0, 1.0])] * 2
    picture = draw_parameter_shift({'spos': ([2, 4], {'a': np.array([0.1, 0.3]), 'b': np.array([0.3, 0.1])})})
    assert picture.figure.axes[0].lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.2])
