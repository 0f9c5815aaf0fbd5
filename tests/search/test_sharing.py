"""Recalibrating and scoring many paths at once against one by one."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pinas_search.config import Config, DataConfig, EvaluateConfig, LinearConfig, SearchConfig, ViewConfig
from pinas_search.data import InMemoryImages, Splits
from pinas_search.recalibrate import recalibrate_bn
from pinas_search.scoring import CandidateEvaluator, unpack
from pinas_search.scoring.lowering import fold, fold_inside, lower
from pinas_search.scoring.sharing import ManyPaths
from pinas_search.spaces import mini, nasbench201
from pinas_search.supernets import ChainSupernet, Graph, NASBench201Supernet, ResNeStSupernet, Supernet
from pinas_search.testing import GivenRun

WHOLE = ViewConfig(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0
)


def uneven(supernet):
    """Weights, biases and statistics of the batch norms that are not trivial."""
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith(('var', 'weight')) else -0.5))
    return supernet


def cells(affine=False, track=True, num_cells=1):
    torch.manual_seed(0)
    space = nasbench201(4, num_cells)
    return uneven(NASBench201Supernet(space, affine=affine, track_running_stats=track).double().eval())


def chain(kind=ResNeStSupernet, **options):
    torch.manual_seed(0)
    return uneven(kind(mini(), **options).double().eval())


class AnyChain(ResNeStSupernet):
    """A chain that says no more than its stem and its positions."""

    lay_out = ChainSupernet.lay_out


class AnySupernet(ResNeStSupernet):
    """A supernet that says nothing of what its paths share."""

    lay_out = Supernet.lay_out


SUPERNETS = {
    'statistics of batches': lambda: cells(track=False),
    'running statistics': cells,
    'with weights': lambda: cells(affine=True, num_cells=2),
    'chain': chain,
    'chain, own shortcuts': lambda: chain(downsample_share=False),
    'any chain': lambda: chain(AnyChain),
    'any supernet': lambda: chain(AnySupernet),
}
BUILT = {name: build() for name, build in SUPERNETS.items()}


def paths_of(supernet):
    positions = [st.sampled_from(choices) for choices in supernet.space.allowed]
    return st.lists(st.tuples(*positions), min_size=1, max_size=6)


def one_by_one(supernet, paths, batches, images, variance):
    """Maps after ``recalibrate_bn`` for each path."""
    maps = {}
    for path in paths:
        recalibrate_bn(supernet, path, batches, variance=variance)
        with torch.no_grad():
            maps[path] = supernet(images, path)
    return maps


@pytest.mark.parametrize('name', SUPERNETS)
@settings(max_examples=6)
@given(data=st.data(), variance=st.sampled_from(['mean', 'pooled']), seed=st.integers(0, 99))
def test_paths_together_are_recalibrated_and_run_as_one_by_one(name, data, variance, seed):
    supernet, plain = copy.deepcopy(BUILT[name]), copy.deepcopy(BUILT[name])
    paths = data.draw(paths_of(supernet))
    torch.manual_seed(seed)
    batches = [torch.rand(n, 3, 16, 16, dtype=torch.float64) for n in (5, 4, 3)]
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    expected = one_by_one(plain, sorted(set(paths)), batches, images, variance)
    together = ManyPaths(supernet, paths)
    together.recalibrate(iter(batches), variance=variance)
    found = dict(together.run(images))
    assert found.keys() == expected.keys()
    for path, feature_map in found.items():
        # Without weights a batch norm divides the rounding of a constant map by the square root of 1e-5.
        torch.testing.assert_close(feature_map, expected[path], rtol=1e-6, atol=1e-6)
    # The supernet has the statistics that one by one leaves; none was mixed up with those of another path.
    assert not any(module.training for module in supernet.modules())
    state = plain.state_dict()
    for key, tensor in supernet.state_dict().items():
        torch.testing.assert_close(tensor, state[key], rtol=1e-6, atol=1e-6, msg=key)
    own = dict(BUILT[name].named_modules())
    for key, module in supernet.named_modules():
        assert getattr(module, 'momentum', None) == getattr(own[key], 'momentum', None)
        assert not module._forward_pre_hooks


def test_without_recalibration_paths_have_the_statistics_of_the_supernet():
    for supernet in (cells(), chain()):
        before = copy.deepcopy(supernet.state_dict())
        sample = torch.Generator().manual_seed(0)
        paths = [supernet.space.sample(sample) for _ in range(4)]
        images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
        with torch.no_grad():
            for path, feature_map in ManyPaths(supernet, paths).run(images):
                torch.testing.assert_close(feature_map, supernet(images, path), rtol=1e-9, atol=1e-9)
        assert all(torch.equal(tensor, before[key]) for key, tensor in supernet.state_dict().items())


def test_an_interrupted_run_gives_the_statistics_back():
    supernet = chain()
    before = [buffer.data_ptr() for buffer in supernet.buffers()]
    paths, images = [(0,) * 8, (1,) * 8], torch.rand(4, 3, 16, 16, dtype=torch.float64)
    together = ManyPaths(supernet, paths)

    def broken():
        yield images
        raise OSError('the disk is gone')

    with pytest.raises(OSError, match='the disk is gone'):
        together.recalibrate(broken())
    assert not supernet.training
    with pytest.raises(ValueError, match='at least one batch'):
        together.recalibrate([])
    together.recalibrate([images])
    for _ in together.run(images):
        break
    gc.collect()
    assert [buffer.data_ptr() for buffer in supernet.buffers()] == before
    assert all(module.momentum == 0.1 for module in supernet.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize(('name', 'most'), [('any chain', 10), ('chain', 17), ('running statistics', 30)])
def test_few_results_are_kept_at_a_time(name, most):
    """In a chain one of the stem and of each position, not one per path; in a finer one also shared shortcuts."""
    supernet, alive, peaks = BUILT[name], set(), []
    graph, sample = Graph(), torch.Generator().manual_seed(0)
    paths = sorted({supernet.space.sample(sample) for _ in range(60)})
    outputs = {supernet.lay_out(graph, path) for path in paths}

    def counted(call):
        def run(*inputs):
            result = call(*inputs)
            alive.add(id(result))
            weakref.finalize(result, alive.discard, id(result))
            peaks.append(len(alive))
            return result

        return run

    calls = {index: counted(node.call) for index, node in enumerate(graph.nodes)}
    with torch.no_grad():
        handed_out = sum(1 for _ in graph.run(torch.rand(2, 3, 8, 8, dtype=torch.float64), outputs, calls))
    assert handed_out == len(outputs) > 40
    assert len(peaks) > 4 * most
    assert max(peaks) <= most


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    noise = torch.randint(0, 200, (count, 3, 16, 16), generator=generator)
    return InMemoryImages((noise + 13 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def evaluator(supernet, **options):
    torch.manual_seed(1)
    head = nn.Linear(supernet.num_features, 4)
    config = Config(
        device='cpu',
        data=DataConfig(image_size=16),
        linear=LinearConfig(views=WHOLE),
        search=SearchConfig(evaluate=EvaluateConfig(batches=2, batch_size=32, **options)),
    )
    train = images(64, 0)
    splits = Splits(train=train, held_out=images(90, 1), full_train=train, test=None, class_names=tuple('abcd'))
    return CandidateEvaluator(GivenRun(config, Path(), supernet, head, splits))


@pytest.mark.parametrize('name', ['chain', 'running statistics', 'statistics of batches'])
@pytest.mark.parametrize('options', [{}, {'variance': 'pooled'}], ids=str)
def test_scores_are_those_of_one_by_one(name, options):
    supernet = copy.deepcopy(BUILT[name]).float()
    sample = torch.Generator().manual_seed(5)
    paths = [supernet.space.sample(sample) for _ in range(5)]
    paths.append(paths[0])
    shared = evaluator(supernet, **options).score(paths)
    alone = evaluator(supernet, share_prefixes=False, **options).score(paths)
    assert shared[5] == shared[0]
    for one, two in zip(shared, alone, strict=True):
        # Rounding may turn an image whose two best classes are equal to five digits; here none is.
        assert unpack(one.correct).tolist() == unpack(two.correct).tolist()
        assert one.extra['cross_entropy'] == pytest.approx(two.extra['cross_entropy'], rel=1e-5)


@pytest.mark.parametrize('name', ['chain', 'running statistics'])
def test_a_score_does_not_depend_on_what_else_is_scored(name):
    supernet = copy.deepcopy(BUILT[name]).float()
    sample = torch.Generator().manual_seed(6)
    paths = [supernet.space.sample(sample) for _ in range(4)]
    scorer = evaluator(supernet)
    assert scorer.score([]) == []
    together = scorer.score(paths)
    assert [scorer.score([path])[0] for path in paths] == together
    assert scorer.score(paths[::-1]) == together[::-1]


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    'layer',
    [nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(2, 2), nn.AvgPool2d((3, 2), (2, 1), (1, 0))],
    ids=str,
)
def test_pooling_by_convolution(layer, layout):
    x = torch.randn(3, 5, 9, 8).contiguous(memory_format=layout)
    torch.testing.assert_close(lower(layer)(x), layer(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lower(layer)(x.double()), layer(x.double()), rtol=0, atol=0)


def test_what_is_not_lowered():
    assert lower(nn.AvgPool2d(3, ceil_mode=True)) is None
    assert lower(nn.AvgPool2d(3, divisor_override=2)) is None
    assert lower(nn.MaxPool2d(2)) is None
    assert fold_inside(nn.AvgPool2d(2), {}) is None
    norm = nn.BatchNorm2d(4)
    reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect')
    statistics = torch.zeros(4), torch.ones(4)
    assert fold(reflecting, norm, statistics) is None
    assert fold(nn.Linear(4, 4), norm, statistics) is None


def test_a_batch_norm_in_two_nodes_is_refused():
    supernet = cells()
    lay_out = supernet.lay_out

    def twice(graph, path):
        node = lay_out(graph, path)
        return graph.add(supernet.lastact[0], node)

    supernet.lay_out = twice
    with pytest.raises(ValueError, match=r'batch norm of the path 333333 in two nodes.*share_prefixes to false'):
        ManyPaths(supernet, ['333333']).recalibrate([torch.rand(2, 3, 8, 8, dtype=torch.float64)])
