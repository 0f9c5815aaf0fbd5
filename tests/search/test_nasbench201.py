"""NAS-Bench-201: the benchmark's own networks and strings, costs, equal cells, and the supernet that shares weights."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Fixture as Reference
from reference import filled_state_dict, load_fixture, make_input
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pinas_search.spaces import nasbench201
from pinas_search.spaces.nasbench201 import Options, create, working_edges
from pinas_search.spaces.nasbench201_network import EDGES, OPERATIONS, run_cell
from pinas_search.supernets import Graph, NASBench201Supernet, ResNeStSupernet
from pinas_search.supernets import nasbench201 as supernet_module

BEST = '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|'
CELLS = range(5)

paths = st.tuples(*[st.integers(0, 4)] * 6)


@pytest.fixture(scope='module')
def space():
    return nasbench201()


@pytest.fixture(scope='module')
def alone():
    return load_fixture('nb201_alone')


@pytest.fixture(scope='module')
def shared():
    return load_fixture('nb201_super')


def all_paths():
    return itertools.product(range(5), repeat=6)


def assert_relative(actual, expected, tolerance=1e-5):
    """Equal to a fraction of the largest value."""
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=tolerance * np.abs(expected).max())


# Strings and digits


def test_digits_and_string_of_the_best_cell(space):
    assert space.from_string(BEST) == (3, 3, 3, 1, 3, 2)
    assert space.encode(space.from_string(BEST)) == '333132'
    assert space.to_string('333132') == BEST


@given(path=paths)
def test_a_string_reads_back(space, path):
    assert space.from_string(space.to_string(path)) == path


def test_every_cell_has_its_own_string(space):
    assert len({space.to_string(path) for path in all_paths()}) == space.size == 15625


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has 1 parts'),
        ('333132', 'has 1 parts'),
        (BEST + '+', 'has 4 parts'),
        (BEST.replace('+', '', 1), 'has 2 parts'),
        (BEST.replace('|nor_conv_3x3~1|+', '|+'), 'node 2 of'),
        (BEST[:-1], 'node 3 of'),
        (' ' + BEST, 'node 1 of'),
        (BEST.replace('skip_connect', 'skip'), r"position 3 \(3<-0\) of .* is 'skip'"),
        (BEST.replace('nor_conv_1x1~2', 'nor_conv_1x1~1'), r'position 5 \(3<-2\) of .* end it in ~2'),
        (BEST.replace('nor_conv_1x1~2', 'nor_conv_1x1'), r'position 5 \(3<-2\)'),
        (BEST.replace('nor_conv_1x1~2', 'nor_conv_1x1~2~2'), r'position 5 \(3<-2\)'),
    ],
)
def test_a_wrong_string_is_refused_with_its_position(space, text, message):
    with pytest.raises(ValueError, match=message):
        space.from_string(text)


@given(data=st.data())
def test_a_damaged_string_is_refused_or_means_what_it_says(space, data):
    text = space.to_string(data.draw(paths))
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from(['', '|', '+', '~', '0', '9', 'x'])) + text[place + 1 :]
    try:
        path = space.from_string(damaged)
    except ValueError:
        return
    assert space.to_string(path) == damaged


# Restricted spaces


def test_the_cells_of_the_paper(space):
    small = space.without('none', 'skip_connect')
    assert small.size == 729
    assert small.num_choices == space.num_choices
    assert small.encode((3, 3, 3, 4, 3, 2)) == '333432'
    with pytest.raises(ValueError, match=r'position 3 of nasbench201 without none and skip_connect allows 2, 3, 4'):
        small.from_string(BEST)
    generator = torch.Generator().manual_seed(0)
    assert {c for _ in range(100) for c in small.sample(generator)} == {2, 3, 4}
    assert space.without('none').without('skip_connect') == small
    assert small.supernet == space.supernet


def test_wrong_operations_and_sizes_are_refused(space):
    with pytest.raises(ValueError, match="without 'conv': the operations of nasbench201 are none, skip_connect"):
        space.without('conv')
    with pytest.raises(ValueError, match='no operation is left'):
        space.without(*OPERATIONS)
    with pytest.raises(ValueError, match='image_size is 30'):
        nasbench201(image_size=30)
    with pytest.raises(ValueError, match='num_cells is 0'):
        nasbench201(num_cells=0)


def test_options_build_the_space():
    assert create(Options(), image_size=32, num_classes=10) == nasbench201()
    options = Options(channels=8, num_cells=1, without=('none',))
    assert create(options, image_size=16, num_classes=3) == nasbench201(8, 1, 3, 16).without('none')


def test_the_description_is_the_graph(space):
    description = space.describe()
    assert description.positions == ('1<-0', '2<-0', '2<-1', '3<-0', '3<-1', '3<-2')
    assert [f'{target}<-{source}' for source, target in description.edges] == list(description.positions)
    assert [group.positions for group in description.groups] == [(0,), (1, 2), (3, 4, 5)]
    assert [choice.name for choice in description.choices] == list(OPERATIONS)


# Costs


def test_costs_are_the_benchmarks(space, alone):
    for text, facts in alone.meta['cells'].items():
        cost = space.cost(space.from_string(text))
        assert cost.params == facts['params']
        assert (cost.macs + 10) / 1e6 == pytest.approx(facts['flops_M_as_their_tool'], abs=1e-12)


@settings(max_examples=15)
@given(path=paths, shape=st.sampled_from([(4, 1, 16), (16, 2, 16), (4, 1, 32)]))
def test_costs_equal_the_built_network(path, shape):
    channels, num_cells, image_size = shape
    space = nasbench201(channels, num_cells, 7, image_size)
    network = space.build(path, device='meta')
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, image_size, image_size, device='meta'))
    cost = space.cost(path)
    assert cost.params == sum(p.numel() for p in network.parameters())
    assert cost.macs == counter.get_total_flops() // 2


def test_costs_of_all_cells_at_once(space):
    table = np.array(list(all_paths()))
    costs = space.costs(table)
    assert costs['params'].min() == 73306
    assert costs['params'].max() == 1531546
    for row in range(0, len(table), 997):
        assert costs['macs'][row] == space.cost(table[row]).macs


def test_the_cheapest_cell_of_a_restricted_space_has_its_operations(space):
    small = space.without('none', 'skip_connect', 'avg_pool_3x3')
    assert small.least_cost('params') == small.cost('222222').params
    assert space.least_cost('params') == 73306


# Equal cells


def test_the_space_has_6466_classes(space):
    classes = {space.canonical(path) for path in all_paths()}
    assert len(classes) == 6466
    assert all(space.canonical(path) == path for path in classes)


def test_the_cells_of_the_paper_are_all_different(space):
    small = space.without('none', 'skip_connect')
    assert all(small.canonical(path) == path for path in itertools.product((2, 3, 4), repeat=6))


def test_a_restricted_space_is_represented_by_its_own_cells(space):
    small = space.without('none')
    for path in itertools.islice(itertools.product((1, 2, 3, 4), repeat=6), 0, None, 7):
        representative = small.canonical(path)
        assert small.validate(representative) == representative
        assert space.canonical(representative) == space.canonical(path)


class Function(nn.Module):
    """A function of the operation alone, the same on every edge; zero stays zero, as the benchmark's rules assume."""

    def __init__(self, choice):
        super().__init__()
        self.choice = choice

    def forward(self, x):
        scale = {'none': 0.0, 'skip_connect': 1.0}.get(OPERATIONS[self.choice])
        if scale is not None:
            return scale * x
        return torch.sin((self.choice + 1) * x.roll(self.choice, -1)) + x * x / self.choice


def brute_force(path, x):
    """Output of a cell by the definition, every edge computed."""
    nodes = [x, torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)]
    for (source, target), choice in zip(EDGES, path, strict=True):
        nodes[target] = nodes[target] + Function(choice)(nodes[source])
    return nodes[-1]


def formula(path):
    """A cell as a sum of nested operations, without zeros and with nothing between sums of sums."""
    nodes = [('input',)]
    for node in range(1, 4):
        terms = []
        for (source, target), choice in zip(EDGES, path, strict=True):
            if target == node and choice == 1:
                terms += nodes[source]
            elif target == node and choice and nodes[source]:
                terms.append((choice, nodes[source]))
        nodes.append(tuple(sorted(terms, key=repr)))
    return nodes[-1]


def test_cells_of_a_class_are_the_same_function(space):
    x = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (1, 1, 2, 7)))
    outputs = defaultdict(list)
    for path in all_paths():
        outputs[space.canonical(path)].append(brute_force(path, x))
    for group in outputs.values():
        for other in group[1:]:
            torch.testing.assert_close(other, group[0], rtol=1e-9, atol=1e-9)
    # The benchmark's rules are finer than they could be: they keep apart zeros that come through node 2 and sums that
    # are nested differently. What is apart here by symbols is apart by numbers, so these functions hide no difference.
    values = {tuple(group[0].flatten().mul(1e6).round().tolist()) for group in outputs.values()}
    assert len(values) == len({formula(path) for path in all_paths()}) == 4930


@given(path=paths)
def test_connected_cells_depend_on_their_input(space, path):
    x = torch.ones(1, 1, 2, 7, dtype=torch.float64)
    assert space.is_connected(path) == bool(brute_force(path, x).abs().sum() > 0)


# Stand-alone networks


@pytest.mark.parametrize('cell', CELLS)
def test_standalone_network_is_the_benchmarks(space, alone, cell):
    text, facts = list(alone.meta['cells'].items())[cell]
    reference = Reference('', {}, {name: tuple(shape) for name, shape in facts['state_dict']}, {})
    network = space.build(space.from_string(text))
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == reference.state_dict
    network.load_state_dict(filled_state_dict(reference), strict=True)
    images, key = make_input(alone.meta['seed'], alone.meta['input_shape']), facts['key']
    with torch.no_grad():
        assert_relative(network.eval()(images), alone.arrays[f'{key}_logits'])
        # In train mode float32 is not better than this in 85 convolutions: the reference is 2e-5 away from a run in
        # double precision, and two algorithms of the same convolution are up to 4e-5 apart.
        assert_relative(network.train()(images), alone.arrays[f'{key}_logits_train_mode'], 5e-5)

    network = space.build(space.from_string(text)).double()
    network.load_state_dict(filled_state_dict(reference, dtype=torch.float64))
    with torch.no_grad():
        assert_relative(network.eval()(images.double()), alone.arrays[f'{key}_logits_f64'], 1e-12)


def test_networks_have_dropout_and_no_stochastic_depth(space):
    network = nasbench201(4, 1).build('333132', drop_rate=1.0).train()
    with torch.no_grad():
        logits = network(torch.rand(3, 3, 32, 32))
    assert torch.equal(logits, network.classifier.bias.expand(3, -1))  # everything before the classifier is dropped
    with pytest.raises(ValueError, match=r'drop_path_rate is 0\.1: the networks of nasbench201 have none'):
        space.build('333132', drop_path_rate=0.1)


def test_networks_without_head_give_features():
    network = nasbench201(4, 1).build('333132', num_classes=0).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), network.forward_features(images).mean((2, 3)))
    assert network(images).shape == (2, network.num_features)


# Supernet


@pytest.fixture(scope='module')
def filled(shared):
    supernet = NASBench201Supernet(nasbench201(16, 1))
    state = filled_state_dict(shared)
    classifier = nn.Linear(64, 10)
    classifier.load_state_dict({name: state.pop(f'classifier.{name}') for name in ('weight', 'bias')})
    supernet.load_state_dict(state, strict=True)
    return supernet.train(), classifier


def test_names_are_the_authors(shared, filled):
    expected = [name for name in shared.state_dict if not name.startswith('classifier.')]
    assert list(filled[0].state_dict()) == expected
    assert sum(p.numel() for module in filled for p in module.parameters()) == shared.meta['params']


@pytest.mark.parametrize('cell', CELLS)
def test_supernet_is_the_authors(shared, filled, cell):
    supernet, classifier = filled
    path = supernet.space.from_string(shared.meta['cells'][cell])
    with torch.no_grad():
        features = supernet.features(supernet(make_input(shared.meta['seed'], shared.meta['input_shape']), path))
        assert_relative(features, shared.arrays[f'cell{cell}_features'])
        assert_relative(classifier(features), shared.arrays[f'cell{cell}_logits'])


SETTINGS = [(False, False), (True, True), (True, False), (False, True)]


def tiny(affine, track, seed=0):
    """A supernet with weights, biases and statistics that are not trivial, in double precision."""
    torch.manual_seed(seed)
    supernet = NASBench201Supernet(nasbench201(4, 1), affine=affine, track_running_stats=track).double()
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith('var') else -0.5))
    return supernet


@pytest.mark.parametrize(('affine', 'track'), SETTINGS)
@settings(max_examples=15)
@given(path=paths)
def test_skipping_dead_edges_changes_nothing(affine, track, path):
    supernet = tiny(affine, track).train()
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    x = supernet.stem(images)
    for cell in supernet.cells:
        x = run_cell(x, cell.operations(path), range(6)) if hasattr(cell, 'edges') else cell(x)
    # 1e-7: without weights a batch norm divides the rounding of its mean by the square root of 1e-5.
    torch.testing.assert_close(supernet(images, path), supernet.lastact(x), rtol=1e-7, atol=1e-7)


@given(path=paths)
def test_no_working_edge_can_be_left_out(path):
    class Biased(Function):  # a convolution with its batch norm: zeros do not stay zeros
        def forward(self, x):
            return super().forward(x) + (0.1 * self.choice if self.choice in (2, 3) else 0)

    x = torch.linspace(0.1, 0.9, 14, dtype=torch.float64).reshape(1, 1, 2, 7)
    operations = [Biased(choice) for choice in path]
    working = working_edges(path)
    expected = run_cell(x, operations, range(6))
    torch.testing.assert_close(run_cell(x, operations, working), expected, rtol=0, atol=0)
    for edge in working:
        without = run_cell(x, operations, [e for e in working if e != edge])
        assert not torch.equal(without, expected)


@pytest.mark.parametrize(('affine', 'track'), SETTINGS)
@settings(max_examples=8)
@given(path=paths, training=st.booleans())
def test_extract_gives_the_same_network(affine, track, path, training):
    supernet = tiny(affine, track).train(training)
    classifier = nn.Linear(16, 3).double()
    network = supernet.extract(path, classifier)
    assert network.training == training
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = classifier(supernet.features(supernet(images, path)))
        torch.testing.assert_close(network(images), expected, rtol=1e-7, atol=1e-7)
        features = supernet.extract(path)(images)
        assert features.shape == (4, supernet.num_features)


@pytest.mark.parametrize(('affine', 'track'), SETTINGS)
@settings(max_examples=5)
@given(some=st.lists(paths, min_size=1, max_size=30))
def test_many_networks_share_their_beginning(affine, track, some):
    supernet = tiny(affine, track).eval()
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    calls = []
    for edge in supernet.cells[0].edges.values():
        edge[3].op[1].register_forward_hook(lambda module, *_: calls.append(id(module)))
    graph = Graph()
    outputs = {path: supernet.lay_out(graph, path) for path in sorted(some)}
    with torch.no_grad():
        maps = dict(graph.run(images, outputs.values()))
        together, _ = len(calls), calls.clear()
        for path in outputs:
            assert torch.equal(maps[outputs[path]], supernet(images, path))
    assert together <= len(calls)


def test_all_cells_of_the_paper_share_most_of_the_first_cell():
    supernet = tiny(affine=False, track=False).eval()
    calls = []
    for edge in supernet.cells[0].edges.values():
        for choice in (2, 3):
            edge[choice].op[1].register_forward_hook(lambda module, *_: calls.append(module))
    graph = Graph()
    outputs = {supernet.lay_out(graph, path) for path in itertools.product((2, 3, 4), repeat=6)}
    with torch.no_grad():
        assert len(list(graph.run(torch.rand(2, 3, 4, 4, dtype=torch.float64), outputs))) == 729
    # Convolutions by what they depend on: two on the input at three edges, two of three on node 1 at two edges, two on
    # node 2, which comes about in 27 ways.
    assert len(calls) == 2 * 3 + 2 * (2 * 3) + 2 * 27


def test_extracted_networks_have_weights_of_their_own():
    supernet = tiny(affine=True, track=True)
    network = supernet.extract('333132')
    with torch.no_grad():
        network.cells[0].layers[0].op[1].weight.zero_()
    assert supernet.cells[0].edges['1<-0'][3].op[1].weight.abs().sum() > 0


@pytest.mark.parametrize(('affine', 'track'), SETTINGS)
@settings(max_examples=8)
@given(path=paths)
def test_a_step_gives_gradients_to_the_path_and_nothing_else(affine, track, path):
    supernet = tiny(affine, track).train()
    supernet(torch.rand(2, 3, 8, 8, dtype=torch.float64), path).sum().backward()
    active = {id(p) for module in supernet.path_modules(path) for p in module.parameters()}
    assert {id(p) for p in supernet.parameters() if p.grad is not None} == active
    assert {id(p) for module in supernet.shared_modules() for p in module.parameters()} <= active


def test_without_running_statistics_the_batch_decides():
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    for track in (False, True):
        supernet = tiny(affine=False, track=track).eval()
        alone_ = supernet(images[:1], '333333')
        together = supernet(images, '333333')[:1]
        assert torch.allclose(alone_, together) == track


def test_all_restrictions_share_one_supernet():
    space = nasbench201(4, 1)
    names = NASBench201Supernet(space).state_dict().keys()
    assert NASBench201Supernet(space.without('none', 'skip_connect')).state_dict().keys() == names


def test_a_supernet_refuses_other_spaces():
    from pinas_search.spaces import mini

    with pytest.raises(ValueError, match='not of mini'):
        supernet_module.create(mini(), supernet_module.Options())
    built = supernet_module.create(nasbench201(4, 1), supernet_module.Options(affine=True, track_running_stats=True))
    assert built.cells[0].edges['1<-0'][2].op[2].running_mean is not None
    assert not isinstance(built, ResNeStSupernet)


def test_average_pooling_leaves_out_the_border(space):
    x = torch.rand(1, 4, 5, 5)
    pool = NASBench201Supernet(nasbench201(4, 1)).cells[0].edges['1<-0'][4]
    ones = F.conv2d(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), padding=1)
    sums = F.conv2d(x, torch.ones(4, 1, 3, 3), padding=1, groups=4)
    torch.testing.assert_close(pool(x), sums / ones)
