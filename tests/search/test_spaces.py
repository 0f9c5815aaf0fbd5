"""Search spaces: their cost tables equal counts on real networks, and sampling is uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from tables import TableSpace, all_paths
from torch.utils.flop_counter import FlopCounterMode

from pinas_models import PINAS_CLS, PINAS_TRANS, RESNEST50
from pinas_search.spaces import Cost, Limits, mini, resnest50


def ragged():
    """A space of 2 * 3 * 5 networks with made-up costs."""
    params = [[10, 30, 0, 0, 0], [7, 5, 6, 0, 0], [100, 90, 80, 70, 60]]
    macs = [[1, 2, 0, 0, 0], [3, 4, 5, 0, 0], [6, 7, 8, 9, 10]]
    return TableSpace('ragged', (2, 3, 5), params, macs, fixed=(1000, 500))


@pytest.fixture(scope='module')
def mini_space():
    return mini()


@pytest.fixture(scope='module')
def large_space():
    return resnest50()


def path_of(length):
    return st.lists(st.integers(0, 3), min_size=length, max_size=length).map(tuple)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def count(model, image_size):
    """Parameters and multiply-accumulates of a network, counted on the network itself."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, image_size, image_size, device='meta'))
    return Cost(params=sum(p.numel() for p in model.parameters()), macs=counter.get_total_flops() // 2)


# Costs


@settings(max_examples=12)
@given(path=path_of(8))
def test_costs_of_mini_equal_the_built_network(mini_space, path):
    assert mini_space.cost(path) == count(mini_space.build(path, device='meta'), 32)


@settings(max_examples=4)
@given(path=path_of(16))
def test_costs_of_resnest50_equal_the_built_network(large_space, path):
    assert large_space.cost(path) == count(large_space.build(path, device='meta'), 224)


@pytest.mark.parametrize(
    ('path', 'params', 'macs'),
    [
        (PINAS_CLS, 27_046_278, 5_332_293_584),
        (PINAS_TRANS, 27_039_016, 5_253_644_608),
        (RESNEST50, 27_483_240, 5_371_160_576),
    ],
)
def test_costs_of_the_published_networks(large_space, path, params, macs):
    assert large_space.cost(path) == Cost(params=params, macs=macs)


@pytest.mark.parametrize(('image_size', 'num_classes'), [(48, 10), (32, 100), (33, 3)])
def test_costs_follow_image_size_and_classes(image_size, num_classes):
    space, path = mini(image_size, num_classes), (3, 0, 1, 2, 3, 2, 1, 0)
    assert space.cost(path) == count(space.build(path, device='meta'), image_size)
    assert space.build(path, device='meta').num_classes == num_classes
    difference = space.cost(path).params - mini(image_size, num_classes + 1).cost(path).params
    assert difference == -(512 + 1)  # one more class: a row of weights and a bias


def test_costs_of_many_paths_equal_the_costs_of_each(mini_space):
    rng = generator(0)
    paths = [mini_space.sample(rng) for _ in range(50)]
    costs = mini_space.costs(np.array(paths))
    assert tuple(costs) == mini_space.cost_names == ('params', 'macs')
    assert {table.dtype for table in costs.values()} == {np.dtype(np.int64)}
    rows = zip(costs['params'].tolist(), costs['macs'].tolist(), strict=True)
    assert [Cost(*row) for row in rows] == [mini_space.cost(path) for path in paths]


def test_costs_of_a_space_with_different_numbers_of_choices():
    assert ragged().cost((1, 0, 4)) == Cost(params=1000 + 30 + 7 + 60, macs=500 + 2 + 3 + 10)


def test_cost_refuses_a_path_of_another_space(mini_space):
    with pytest.raises(ValueError, match='a path of mini has 8 choices, got 16'):
        mini_space.cost(PINAS_CLS)


# Size, names, networks


def test_sizes(mini_space, large_space):
    assert (mini_space.num_positions, mini_space.num_choices, mini_space.size) == (8, (4,) * 8, 65_536)
    assert (large_space.num_positions, large_space.num_choices, large_space.size) == (16, (4,) * 16, 4_294_967_296)
    assert ragged().size == 2 * 3 * 5


def test_block_names_are_modules_of_the_network(mini_space, large_space):
    for space in (mini_space, large_space):
        model = space.build((1,) * space.num_positions, device='meta')
        blocks = [m for _, m in model.named_modules() if type(m).__name__ == 'PinasBottleneck']
        assert [model.get_submodule(name) for name in space.block_names] == blocks


def test_build_passes_its_arguments(mini_space):
    model = mini_space.build(
        (3,) * 8, num_classes=0, drop_rate=0.1, drop_path_rate=0.7, zero_init_last=True, device='cpu'
    )
    assert model.choices == (3,) * 8
    assert model.num_classes == 0
    assert model.drop_rate == 0.1
    assert model.layer4[1].drop_path.drop_prob == pytest.approx(0.7)
    assert not model.layer1[0].bn3.weight.any()
    assert mini_space.build('0' * 8, device='meta').num_classes == 10


def test_build_refuses_a_path_of_another_space(mini_space):
    with pytest.raises(ValueError, match=r'choices\[7\] is 4'):
        mini_space.build('00000004', device='meta')


# Sampling


def test_samples_are_uniform():
    """A correct sampler fails for two seeds in a million per space (chi-square of joint cells, both tails)."""
    for space in (ragged(), mini(image_size=32)):
        rng = generator(20_211_010)
        draws = np.array([space.sample(rng) for _ in range(6000)])
        pairs = [(a, a + 1) for a in range(space.num_positions - 1)]
        statistic = degrees = 0
        for a, b in pairs[::2]:  # pairs that share no position, so that their statistics are independent and add up
            cells = space.num_choices[a] * space.num_choices[b]
            observed = np.bincount(draws[:, a] * space.num_choices[b] + draws[:, b], minlength=cells)
            expected = len(draws) / cells
            statistic += ((observed - expected) ** 2 / expected).sum()
            degrees += cells - 1
        assert statistic < chi2.isf(1e-6, degrees)
        assert statistic > chi2.ppf(1e-6, degrees)  # more even than chance: not independent draws
        for position, m in enumerate(space.num_choices):
            assert set(draws[:, position].tolist()) == set(range(m))


def test_all_networks_of_a_small_space_are_drawn_equally():
    """A correct sampler fails for one seed in a million."""
    space, rng = ragged(), generator(5)
    draws = [space.sample(rng) for _ in range(6000)]
    counts = np.array([draws.count(path) for path in set(draws)])
    assert len(counts) == space.size
    expected = len(draws) / space.size
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, space.size - 1)


def test_sampling_is_determined_by_the_generator(mini_space):
    before = torch.get_rng_state()
    first, second = ([mini_space.sample(rng) for _ in range(20)] for rng in (generator(3), generator(3)))
    assert first == second
    # 20 equal paths by chance: probability 4^-160.
    assert first != [mini_space.sample(generator(4)) for _ in range(20)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(type(choice) is int for path in first for choice in path)


def test_sampling_resumes_from_a_saved_state(mini_space):
    rng = generator(1)
    mini_space.sample(rng)
    state = rng.get_state()
    expected = mini_space.sample(rng)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert mini_space.sample(resumed) == expected


# Paths and strings


@given(path=path_of(16))
def test_encode_and_decode_are_inverse(large_space, path):
    text = large_space.encode(path)
    assert len(text) == 16
    assert large_space.decode(text) == path
    assert large_space.encode(large_space.decode(text)) == text


def test_encode_takes_arrays(mini_space):
    assert mini_space.encode(np.arange(8) % 4) == mini_space.encode(torch.arange(8) % 4) == '01230123'


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ((0, 1), 'a path of ragged has 3 choices, got 2'),
        ((0, 1, 5), r'choices\[2\] is 5; position 2 of ragged allows 0\.\.4'),
        ((0, 3, 1), r'choices\[1\] is 3; position 1 of ragged allows 0\.\.2'),
        ((2, 0, 0), r'choices\[0\] is 2; position 0 of ragged allows 0\.\.1'),
        ((0, 0.0, 0), r'choices\[1\] is 0\.0'),
        ((True, 0, 0), r'choices\[0\] is True'),
        (7, 'a path of ragged is a string of 3 digits or as many integers, got 7'),
    ],
)
def test_wrong_path_names_the_position_and_what_is_allowed(path, message):
    for function in (ragged().validate, ragged().encode, ragged().cost):
        with pytest.raises(ValueError, match=message):
            function(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('0a1', "a path of ragged is written as 3 digits, got '0a1'"),
        ('031', r'choices\[1\] is 3; position 1 of ragged allows 0\.\.2'),
        ('0111', 'a path of ragged has 3 choices, got 4'),
        ('', "a path of ragged is written as 3 digits, got ''"),
    ],
)
def test_wrong_string_names_the_position_and_what_is_allowed(text, message):
    with pytest.raises(ValueError, match=message):
        ragged().decode(text)


# Limits


@pytest.mark.parametrize(
    'largest', [{}, {'params': 1110}, {'macs': 512}, {'params': 1110, 'macs': 513}], ids=lambda d: str(Limits(d))
)
def test_limits_allow_what_costs_no_more(largest):
    space, limits = ragged(), Limits(largest)
    paths = all_paths(space)
    allowed = limits.allow(space, paths)
    costs = [vars(space.cost(path)) for path in paths]
    expected = [all(cost[name] <= value for name, value in largest.items()) for cost in costs]
    assert allowed.dtype == bool
    assert allowed.tolist() == expected
    assert any(expected)  # and, with a limit, not all
    assert all(expected) == (not limits)


def test_a_network_at_the_limit_is_allowed(mini_space):
    paths = np.array([(3, 0, 1, 2, 3, 2, 1, 0)])
    cost = vars(mini_space.cost(paths[0]))
    assert Limits(cost).allow(mini_space, paths).tolist() == [True]
    for name, value in cost.items():
        assert Limits({name: value - 1}).allow(mini_space, paths).tolist() == [False]


@pytest.mark.parametrize('space', [ragged(), mini()], ids=lambda space: space.name)
def test_infeasible_limit_names_the_limit_and_the_cheapest_network(space):
    least = {name: int(values.min()) for name, values in space.costs(all_paths(space)).items()}
    Limits(least).check(space)
    Limits().check(space)
    for name, value in least.items():
        message = f'{name} is {value - 1:,}, but the cheapest network of {space.name} has {value:,}'
        with pytest.raises(ValueError, match=message):
            Limits({name: value - 1}).check(space)
    with pytest.raises(ValueError, match=rf'limits\.flops: {space.name} has no such cost; its costs are params, macs'):
        Limits({'flops': 1}).check(space)


def test_a_description_names_every_position_and_choice(large_space):
    text = large_space.describe()
    assert text.positions == large_space.block_names
    assert [len(group.positions) for group in text.groups] == [3, 4, 6, 3]
    assert sum((group.positions for group in text.groups), ()) == tuple(range(16))
    assert [choice.name for choice in text.choices] == ['1s1x64d', '2s1x64d', '1s2x42d', '2s2x40d']
    assert all(choice.meaning for choice in text.choices)
