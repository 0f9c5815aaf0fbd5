"""FairNAS, GDAS, ProxylessNAS, TuNAS, WPL, NSAS and FBNetV2: each update against its formula, in double precision."""

from __future__ import annotations

import copy
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm.optim
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pinas_search import testing
from pinas_search.config import LearnConfig, parse_config
from pinas_search.data import Batch
from pinas_search.methods import FairNas, Spos
from pinas_search.methods.architecture import ArchitectureParameters, LogProbability
from pinas_search.methods.fbnetv2 import FbNetV2
from pinas_search.methods.gdas import Gdas
from pinas_search.methods.nsas import Nsas, most_novel, mutate, novelty
from pinas_search.methods.proxylessnas import ProxylessNas
from pinas_search.methods.tunas import TuNas
from pinas_search.methods.wpl import Wpl
from pinas_search.randomness import generator
from pinas_search.spaces import mini, nasbench201
from pinas_search.stages import Run, stage_function
from pinas_search.supernets import NASBench201Supernet
from pinas_search.supernets.resnest_masked import MaskedBlock, MaskedResNeStSupernet

CLASSES, SIZE = 3, 8
PLAIN = LearnConfig(lr=0.1, momentum=0.0, weight_decay=0.0, batch_size=4, epochs=10)
SMALL = nasbench201(channels=4, num_cells=1, num_classes=CLASSES, image_size=SIZE)


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells(space=SMALL):
    torch.manual_seed(0)
    return NASBench201Supernet(space)


def make(cls, supernet=None, **options):
    """A method in double precision, its architecture parameters not at their start."""
    torch.manual_seed(1)
    method = cls(supernet or cells(), CLASSES, **options).double().train()
    if hasattr(method, 'architecture'):
        with torch.no_grad():
            logits = method.architecture.logits
            logits.copy_(torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)))
    return method


class Watched(testing.MemoryStep):
    """A step on images in double precision that notes the gradients and factors of every update."""

    def batch(self, stream='train'):
        batch = super().batch(stream)
        return Batch(batch.images.double(), batch.labels)

    def update(self, optimizer='weights', *, max_norm=None, lr_factor=1.0):
        named = {id(p): name for name, p in self.method.named_parameters()}
        parameters = [p for group in self.all_optimizers[optimizer].param_groups for p in group['params']]
        gradients = {named[id(p)]: p.grad.clone() for p in parameters if p.grad is not None}
        self.updates = {**getattr(self, 'updates', {}), optimizer: (gradients, lr_factor)}
        super().update(optimizer, max_norm=max_norm, lr_factor=lr_factor)

    def gradients(self, optimizer='weights'):
        return self.updates[optimizer][0]


def one_step(method, optimizers=None, **fields):
    step = Watched(method, optimizers or method.optimizers(PLAIN), 4, SIZE, CLASSES, **fields)
    return step, method.step(step)


def cross_entropy(method, batch, feature_map, smoothing=0.0):
    logits = feature_map.mean((2, 3)) @ method.fc.weight.T + method.fc.bias
    target = F.one_hot(batch.labels, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    return -(target * logits.log_softmax(1)).sum(1).mean()


def path_loss(method, batch, path, smoothing=0.0):
    return cross_entropy(method, batch, method.network(batch.images[0], path), smoothing)


def gradients_of(method, loss):
    names, parameters = zip(*((n, p) for n, p in method.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f'{name}: {m}')


def hard(path, value=1.0):
    return [{c: torch.tensor(value, dtype=torch.float64)} for c in path]


def gate_gradients(loss, gates, width=5):
    """∂loss/∂gate of every gate by central differences, [L, m]."""
    table = np.zeros((len(gates), width))
    for position, weights in enumerate(gates):
        for choice in weights:
            values = []
            for change in (1e-5, -1e-5):
                moved = copy.deepcopy(gates)
                moved[position][choice] = weights[choice] + change
                with torch.no_grad():
                    values.append(float(loss(moved)))
            table[position, choice] = (values[0] - values[1]) / 2e-5
    return table


class TestGates:
    @pytest.mark.parametrize('training', [True, False])
    def test_one_gate_of_one_is_the_path(self, training):
        x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        numbers = torch.Generator().manual_seed(1)
        torch.manual_seed(0)
        for network, count in ((cells(), 12), (MaskedResNeStSupernet(mini()), 1)):
            network.train(training)
            for path in (network.space.sample(numbers) for _ in range(count)):
                one, two = copy.deepcopy(network), copy.deepcopy(network)
                expected = one(x, path)
                gated = two.forward_gated(x, [{c: torch.tensor(1.0)} for c in path])
                assert torch.equal(gated, expected)
                assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))

    def test_cells_are_the_weighted_sum_of_all_their_operations(self):
        """Every operation of every edge, node by node, as the cell is defined."""
        network = cells().double().eval()
        x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        weights = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        weights[0, :3] = 0  # without a gate below
        expected = network.stem(x)
        for cell in network.cells:
            if not hasattr(cell, 'edges'):
                expected = cell(expected)
                continue
            nodes = [expected]
            for target in (1, 2, 3):
                rows = [(int(name[3]), e) for e, name in enumerate(cell.edges) if name.startswith(f'{target}<-')]
                choices = [(source, edge, c) for source, edge in rows for c in range(5)]
                edges = list(cell.edges.values())
                nodes.append(sum(edges[e][c](nodes[source]) * weights[e, c] for source, e, c in choices))
            expected = nodes[-1]
        gates = [{c: w for c, w in enumerate(row) if w > 0} for row in weights]
        torch.testing.assert_close(network.forward_gated(x, gates), network.lastact(expected))

    def test_only_what_has_a_gate_runs_and_gates_get_the_scalar_product(self):
        network = cells().double()
        x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
        gates = [{c: torch.tensor(0.5, dtype=torch.float64, requires_grad=True) for c in (3, 4)} for _ in range(6)]
        network.forward_gated(x, gates).square().sum().backward()
        used = {n for n, p in network.named_parameters() if p.grad is not None and '.edges.' in n}
        assert used == {n for n, _ in network.named_parameters() if '.edges.' in n and '.3.op.' in n}
        measured = gate_gradients(lambda g: network.forward_gated(x, g).square().sum(), gates)
        for position, weights in enumerate(gates):
            for choice, gate in weights.items():
                assert float(gate.grad) == pytest.approx(measured[position, choice], rel=1e-5)

    def test_mistakes(self):
        one = torch.tensor(1.0)
        images = torch.zeros(2, 3, SIZE, SIZE)
        with pytest.raises(ValueError, match='has 6 positions, got gates of 5'):
            cells().forward_gated(images, [{0: one}] * 5)
        with pytest.raises(ValueError, match=r'gates\[2\] is of the choices \[\]'):
            cells().forward_gated(images, [{1: one}, {1: one}, {}, {1: one}, {1: one}, {1: one}])
        with pytest.raises(ValueError, match=r'gates\[0\] is of the choices \[0, 2\], allowed are some of 2, 3, 4'):
            cells(SMALL.without('none', 'skip_connect')).forward_gated(images, [{2: one, 0: one}] * 6)


class TestArchitectureParameters:
    @staticmethod
    def parameters(space=SMALL):
        architecture = ArchitectureParameters(space).double()
        with torch.no_grad():
            architecture.logits.normal_(generator=torch.Generator().manual_seed(0))
        return architecture

    def test_probabilities_of_all_paths_add_up_to_one(self):
        space = SMALL.without('none', 'skip_connect')
        architecture = self.parameters(space)
        paths = list(itertools.product(*space.allowed))
        scores = [score.value for score in LogProbability(architecture).score(paths)]
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-9)
        assert paths[int(np.argmax(scores))] == architecture.most_likely()
        logits = architecture.logits.detach().numpy()[:, 2:]
        row = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert scores[77] == pytest.approx(sum(row[i, c - 2] for i, c in enumerate(paths[77])))
        assert architecture.log_probability(paths[77]).item() == pytest.approx(scores[77])
        assert float(architecture.entropy()) == pytest.approx(-(np.exp(row) * row).sum(1).mean())
        facts = LogProbability(architecture).facts
        assert facts['most_likely'] == ''.join(map(str, architecture.most_likely()))

    def test_samples_follow_the_probabilities(self):
        space = SMALL.without('none')
        architecture, numbers = self.parameters(space), torch.Generator().manual_seed(0)
        drawn = np.array([architecture.sample(numbers) for _ in range(2000)])
        frequency = np.stack([(drawn == c).mean(0) for c in range(5)], axis=1)
        expected = architecture.log_probabilities().exp().detach().numpy()
        assert (frequency[:, 0] == 0).all()
        # Five standard errors: 30 frequencies, chance of a false alarm below 2e-5.
        assert (np.abs(frequency - expected) <= 5 * np.sqrt(expected * (1 - expected) / 2000)).all()


class TestFairNas:
    @settings(max_examples=10)
    @given(st.integers(0, 2**31))
    def test_the_paths_hold_every_choice_once(self, seed):
        for space in (SMALL, SMALL.without('none', 'skip_connect')):
            paths = FairNas(cells(space), CLASSES).draw_paths(torch.Generator().manual_seed(seed))
            for position, choices in enumerate(space.allowed):
                assert sorted(path[position] for path in paths) == list(choices)

    def test_the_update_is_the_formula(self):
        """One step on the sum of the m losses, where what all paths share learns from their mean."""
        ours = make(FairNas)
        reference = copy.deepcopy(ours)
        step, values = one_step(ours)
        paths = reference.draw_paths(step.generator('paths'))
        losses = [path_loss(reference, step.batch(), path) for path in paths]
        expected = gradients_of(reference, sum(losses))
        for name in expected:
            if '.edges.' not in name:
                expected[name] = expected[name] / 5
        assert_equal(step.gradients(), expected)
        assert float(values['loss']) == pytest.approx(sum(losses).item() / 5)
        for name, before in reference.named_parameters():
            after = before - 0.1 * expected[name] if name in expected else before
            torch.testing.assert_close(ours.get_parameter(name), after)

    def test_every_block_is_trained_once_and_what_is_shared_m_times(self, monkeypatch):
        monkeypatch.syspath_prepend(str(Path(__file__).parent / 'toys'))
        import two_branches

        network = two_branches.BranchSupernet(two_branches.Branches(8, SIZE, CLASSES))
        method = make(FairNas, network)
        counts = dict.fromkeys((n for n, _ in method.named_parameters()), 0)
        for name, parameter in method.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: counts.update({name: counts[name] + 1}))
        for number in range(3):
            one_step(method, number=number)
            assert counts == {name: (number + 1) * (3 if name.startswith('fc') else 1) for name in counts}

    def test_without_accumulation_each_path_is_used_once(self):
        """Bug of PA-DA's FairNAS: its list of paths was never emptied, so that an epoch had the first five only."""
        method = make(FairNas, accumulate=False)
        optimizers, used = method.optimizers(PLAIN), []
        method.network.register_forward_pre_hook(lambda module, args: used.append(args[1]))
        for number in range(10):
            one_step(method, optimizers, number=number)
        assert len(used) == 10
        for draw in (used[:5], used[5:]):
            assert all(sorted(column) == [0, 1, 2, 3, 4] for column in zip(*draw, strict=True))
        assert used[:5] != used[5:]
        strict = make(FairNas)
        drawn = []
        strict.network.register_forward_pre_hook(lambda module, args: drawn.append(args[1]))
        for number in range(2):
            one_step(strict, number=number)
        assert drawn[:5] != drawn[5:]

    def test_positions_with_different_numbers_of_choices_are_refused(self):
        class Uneven(type(SMALL)):
            allowed = ((0, 1), *((0, 1, 2, 3, 4),) * 5)

        with pytest.raises(ValueError, match='all positions need equally many; nasbench201 has positions with 2 and 5'):
            FairNas(cells(Uneven(4, 1, CLASSES, SIZE)), CLASSES)


def test_spos_keeps_gradients_that_add_up_to_zero():
    """Bug of SinglePathOneShot: a gradient whose sum is 0 was taken for that of a block off the path."""
    torch.manual_seed(0)
    method = Spos(cells(), 2, label_smoothing=0.0).double()
    nn.init.zeros_(method.fc.weight)
    nn.init.zeros_(method.fc.bias)
    step = Watched(method, method.optimizers(PLAIN), 3, SIZE, 2)
    method.step(step)
    gradient = step.gradients()['fc.bias']
    assert gradient.sum() == 0
    assert (gradient != 0).all()
    torch.testing.assert_close(method.fc.bias.detach(), -0.1 * gradient)


class TestGdas:
    def noisy(self, method, step, purpose, temperature):
        """The path and the softmax of the noisy logits, in numpy."""
        logits = method.architecture.logits.detach()
        noise = -torch.empty_like(logits).exponential_(generator=step.generator(purpose)).log().numpy()
        logits = logits.numpy()
        scores = logits - np.log(np.exp(logits).sum(1, keepdims=True)) + noise
        soft = np.exp(scores / temperature)
        return tuple(scores.argmax(1).tolist()), soft / soft.sum(1, keepdims=True)

    @pytest.mark.parametrize(('number', 'temperature'), [(0, 10.0), (2, 10 - 9.9 * 2 / 3), (3, 0.1)])
    def test_the_update_is_the_formula(self, number, temperature):
        ours = make(Gdas)
        reference = copy.deepcopy(ours)
        step, values = one_step(ours, number=number)
        path, _ = self.noisy(reference, step, 'weights', temperature)
        loss = path_loss(reference, step.batch(), path)
        assert_equal(step.gradients(), gradients_of(reference, loss))
        assert float(values['loss']) == pytest.approx(float(loss))

        for parameter, after in zip(reference.weights, ours.weights, strict=True):
            parameter.data.copy_(after.data)
        path, soft = self.noisy(reference, step, 'architecture', temperature)
        batch = step.batch('architecture')
        slopes = gate_gradients(
            lambda g: cross_entropy(reference, batch, reference.network.forward_gated(batch.images[0], g)), hard(path)
        )
        expected = np.zeros((6, 5))
        for row, c in enumerate(path):  # d softmax_c / d θ_i at the temperature τ
            expected[row] = slopes[row, c] * soft[row, c] * ((np.arange(5) == c) - soft[row]) / temperature
        (gradient,) = step.gradients('architecture').values()
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-9)
        assert np.abs(expected).max() > 1e-6

    def test_the_settings_of_the_benchmark(self):
        method = make(Gdas)
        optimizers = method.optimizers(LearnConfig(nesterov=True))
        adam = optimizers['architecture'].param_groups[0]
        assert (adam['lr'], adam['betas'], adam['weight_decay']) == (3e-4, (0.5, 0.999), 1e-3)
        assert optimizers['weights'].param_groups[0]['nesterov']
        assert {name: stream.share for name, stream in method.streams.items()} == {'train': 0.5, 'architecture': 0.5}

    def test_gradients_are_clipped(self):
        method = make(Gdas, clip=1e-3)
        before = [p.detach().clone() for p in method.weights]
        one_step(method)
        moved = sum(float((a - b).square().sum()) for a, b in zip(before, method.weights, strict=True)) ** 0.5
        assert moved == pytest.approx(0.1 * 1e-3, rel=1e-2)


class TestProxylessNas:
    @pytest.mark.parametrize('regularizer', ['none', 'mul#log', 'add#linear'])
    def test_the_architecture_gradient_is_the_formula(self, regularizer):
        ours = make(ProxylessNas, regularizer=regularizer, cost_target=1e5, steps_per_update=1)
        reference = copy.deepcopy(ours)
        step, _ = one_step(ours, number=5, epoch=1)
        probabilities = reference.architecture.log_probabilities().exp().detach()
        numbers = step.generator('gates')
        path = [int(torch.multinomial(row, 1, generator=numbers)) for row in probabilities]
        for parameter, after in zip(reference.weights, ours.weights, strict=True):
            parameter.data.copy_(after.data)
        batch, p = step.batch('architecture'), probabilities.numpy()
        gates = [{c: torch.tensor(float(c == a), dtype=torch.float64) for c in range(5)} for a in path]

        def loss(gates):
            feature_map = reference.network.forward_gated(batch.images[0], gates)
            return cross_entropy(reference, batch, feature_map, 0.1)

        def through_softmax(slopes):
            """Σ_j slope_j p_j (δ_ij - p_i), [L, m]."""
            jacobians = [np.diag(row) - np.outer(row, row) for row in p]
            return np.stack([jacobian @ row for jacobian, row in zip(jacobians, slopes, strict=True)])

        expected = through_softmax(gate_gradients(loss, gates))
        table = SMALL.cost_table
        cost = table.fixed['macs'] + (p * table.per_choice['macs']).sum()
        slope = through_softmax(table.per_choice['macs'].astype(float))
        if regularizer == 'mul#log':
            ratio, ce = np.log(cost) / np.log(1e5), float(loss(gates))
            expected = 0.2 * (ratio**0.3 * expected + ce * 0.3 * ratio**-0.7 / (cost * np.log(1e5)) * slope)
        if regularizer == 'add#linear':
            expected = expected + 0.1 * slope / 1e5
        (gradient,) = step.gradients('architecture').values()
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize('regularizer', ['none', 'add#linear'])
    def test_of_two_choices_the_others_keep_their_probabilities(self, regularizer):
        method = make(
            ProxylessNas, gates='two', steps_per_update=1, architecture_lr=0.3, regularizer=regularizer, cost_target=1e5
        )
        before = method.architecture.log_probabilities().exp().detach()
        ran = []
        method.network.forward_gated = lambda x, gates: (
            ran.append(gates),
            NASBench201Supernet.forward_gated(method.network, x, gates),
        )[1]
        one_step(method, number=5, epoch=1)
        after = method.architecture.log_probabilities().exp().detach()
        pairs = torch.zeros(6, 5, dtype=torch.bool)
        for row, gates in enumerate(ran[0]):
            pairs[row, list(gates)] = True
            assert sorted(map(float, gates.values())) == [0, 1]
        assert (pairs.sum(1) == 2).all()
        torch.testing.assert_close(after[~pairs], before[~pairs], rtol=1e-12, atol=1e-14)
        assert ((after - before).abs() > 1e-4)[pairs].any()

    def test_weights_follow_uniform_paths_first_then_the_probabilities(self):
        method = make(ProxylessNas, warmup=0.5)
        with torch.no_grad():
            method.architecture.logits[:, 3] += 50
        used, optimizers = [], method.optimizers(PLAIN)
        method.network.register_forward_pre_hook(lambda module, args: used.append(args[1]))
        for number in range(20):
            one_step(method, optimizers, number=number, total=20)
        assert all(path == (3,) * 6 for path in used[10:])
        assert not all(path == (3,) * 6 for path in used[:10])

    def test_the_phase_is_resumed(self):
        """Bug of the released code: its checkpoint held ``epoch,``, a tuple, as the epoch of the warm-up."""

        def steps(method, optimizers, numbers):
            moved = []
            for number in numbers:
                before = method.architecture.logits.detach().clone()
                one_step(method, optimizers, number=number, total=40, epoch=number // 10)
                if not torch.equal(before, method.architecture.logits):
                    moved.append(number)
            return moved

        whole = make(ProxylessNas)
        assert steps(whole, whole.optimizers(PLAIN), range(40)) == [14, 19, 24, 29, 34, 39]
        first, second = make(ProxylessNas), make(ProxylessNas)
        optimizers, resumed = first.optimizers(PLAIN), second.optimizers(PLAIN)
        assert steps(first, optimizers, range(13)) == []
        assert all(isinstance(value, torch.Tensor) for value in first.state_dict().values())
        second.load_state_dict(first.state_dict())
        for name, optimizer in resumed.items():
            optimizer.load_state_dict(optimizers[name].state_dict())
        assert steps(second, resumed, range(13, 40)) == [14, 19, 24, 29, 34, 39]
        assert all(map(torch.equal, whole.state_dict().values(), second.state_dict().values()))

    def test_mistakes(self):
        with pytest.raises(ValueError, match=r'set learn\.options\.cost_target'):
            make(ProxylessNas, regularizer='mul#log')
        with pytest.raises(ValueError, match=r"'latency': nasbench201 has no such cost .* params, macs"):
            make(ProxylessNas, regularizer='mul#log', cost='latency', cost_target=1.0)
        with pytest.raises(ValueError, match=r'architecture_share is 1\.0: weights and'):
            make(ProxylessNas, architecture_share=1.0)


class TestTuNas:
    def test_the_architecture_update_is_reinforce(self):
        ours = make(TuNas, warmup=0.0, lr_warmup=0.0, cost_target=1e5, reward_batches=2)
        ours.baseline.fill_(0.9)
        ours.rewards.fill_(7)
        reference = copy.deepcopy(ours)
        step, values = one_step(ours, number=1, total=4)
        path = reference.architecture.sample(step.generator('path'))
        assert_equal(step.gradients(), gradients_of(reference, path_loss(reference, step.batch(), path, 0.1)))
        batch = step.batch('architecture')
        with torch.no_grad():
            logits = ours.fc(ours.network(batch.images[0], path).mean((2, 3)))
        accuracy = (logits.numpy().argmax(1) == batch.labels.numpy()).mean()
        reward = accuracy - 0.1 * abs(SMALL.cost(path).macs / 1e5 - 1)
        p = reference.architecture.log_probabilities().exp().detach().numpy()
        chosen = np.eye(5)[list(path)]
        (gradient,) = step.gradients('architecture').values()
        np.testing.assert_allclose(gradient.numpy(), -(reward - 0.9) * (chosen - p), rtol=1e-6)
        assert float(values['baseline']) == pytest.approx(0.95 * 0.9 + 0.05 * reward)
        assert step.updates['architecture'][1] == pytest.approx(10 ** (1 / 3))

    def test_the_first_reward_is_its_own_baseline(self):
        method = make(TuNas, warmup=0.0)
        step, values = one_step(method)
        assert not step.gradients('architecture')['architecture.logits'].any()
        assert int(method.rewards) == 1
        assert 0 <= float(values['baseline']) <= 1

    def test_the_warm_up_runs_all_choices_and_leaves_the_parameters(self):
        method = make(TuNas)
        reference, optimizers = copy.deepcopy(method), method.optimizers(PLAIN)
        before = method.architecture.logits.detach().clone()
        step, _ = one_step(method, optimizers, number=0, total=400)
        batch = step.batch()
        mean = reference.network.forward_gated(
            batch.images[0], [{c: torch.tensor(0.2, dtype=torch.float64) for c in range(5)}] * 6
        )
        assert_equal(step.gradients(), gradients_of(reference, cross_entropy(reference, batch, mean, 0.1)))
        assert step.updates['weights'][1] == pytest.approx(1 / 10)  # 2.5 % of 400 steps
        many = [method._all_at_once(Watched(method, {}, 4, SIZE, CLASSES, number=n, total=400)) for n in range(400)]
        assert not any(many[100:])
        # A mean of 50.5 steps of 100 with the probability falling from 1 to 0; the standard deviation is 4.1.
        assert abs(sum(many) - 50.5) < 5 * 4.1
        assert sum(many[:50]) > sum(many[50:100])
        one_step(method, optimizers, number=99, total=400)
        assert torch.equal(method.architecture.logits, before)
        one_step(method, optimizers, number=100, total=400)
        one_step(method, optimizers, number=101, total=400)
        assert int(method.rewards) == 2

    def test_the_optimizers_are_the_authors(self):
        optimizers = make(TuNas).optimizers(LearnConfig(batch_size=512, lr=0.33, weight_decay=4e-5))
        weights = optimizers['weights']
        assert isinstance(weights, timm.optim.RMSpropTF)
        for group in weights.param_groups:
            assert (group['alpha'], group['momentum'], group['eps'], group['lr']) == (0.9, 0.9, 1.0, 0.33)
        assert sorted({group['weight_decay'] for group in weights.param_groups}) == [0.0, 4e-5]
        adam = optimizers['architecture'].param_groups[0]
        assert (adam['lr'], adam['betas']) == (6e-4, (0.0, 0.999))
        plain = make(TuNas, optimizer='sgd').optimizers(PLAIN)['weights']
        assert type(plain) is torch.optim.SGD

    def test_a_cost_that_the_space_lacks(self):
        with pytest.raises(ValueError, match="cost is 'latency'; the costs of nasbench201 are params, macs"):
            make(TuNas, cost='latency')


class TestWpl:
    def test_the_penalty_is_the_formula(self):
        ours = make(Wpl, steps_per_path=2, clip=1e9)
        optimizers, start = ours.optimizers(PLAIN), copy.deepcopy(ours)
        step, values = one_step(ours, optimizers, number=0)
        path = SMALL.sample(step.generator('paths'))
        first = gradients_of(start, path_loss(start, step.batch(), path))
        assert_equal(step.gradients(), first)
        assert float(values['penalty']) == 0
        middle = copy.deepcopy(ours)
        step, values = one_step(ours, optimizers, number=1)
        loss = path_loss(middle, step.batch(), path)
        penalty = (
            60
            / 2
            * sum(
                (first[n] ** 2 * (p - start.get_parameter(n).detach()) ** 2).sum()
                for n, p in middle.named_parameters()
                if n in first
            )
        )
        assert penalty.item() > 0
        assert_equal(step.gradients(), gradients_of(middle, loss + penalty))
        assert float(values['loss']) == pytest.approx(float(loss))
        assert float(values['penalty']) == pytest.approx(penalty.item())
        second = gradients_of(middle, path_loss(middle, step.batch(), path))
        names = [n for n, p in ours.named_parameters() if p.requires_grad]
        for name, fisher in zip(names, ours.fisher, strict=True):
            expected = 0.9 * first[name] ** 2 + second[name] ** 2 if name in first else torch.zeros_like(fisher)
            torch.testing.assert_close(fisher.detach(), expected.detach())

    def test_what_is_off_the_path_does_not_change(self):
        method = make(Wpl, steps_per_path=1)
        optimizers, before = method.optimizers(LearnConfig(momentum=0.9)), copy.deepcopy(method)
        for number in range(3):
            step, values = one_step(method, optimizers, number=number)
            assert float(values['penalty']) == 0  # with one step per path there is nothing to be moved back
            path = SMALL.sample(step.generator('paths'))
            own = {id(p) for m in method.network.path_modules(path) for p in m.parameters()}
            own |= {id(p) for p in method.fc.parameters()}
            rows = zip(method.weights, before.weights, method.fisher, before.fisher, strict=True)
            for weight, old_weight, fisher, old_fisher in rows:
                if id(weight) not in own:
                    assert torch.equal(weight, old_weight)
                    assert torch.equal(fisher, old_fisher)
            before = copy.deepcopy(method)

    def test_schedules(self):
        method = make(Wpl)
        assert [method.weight_of_penalty(epoch) for epoch in (0, 15, 16, 20, 75, 90)] == [60, 60, 59, 55, 0, 0]
        optimizers = method.optimizers(PLAIN)
        one_step(method, optimizers, number=0, epoch=2)
        kept = method.fisher[0].detach().clone()
        assert kept.any()
        one_step(method, optimizers, number=1, epoch=2)
        grown = method.fisher[0].detach().clone()
        assert not torch.equal(kept, grown)
        fresh = copy.deepcopy(method)
        step, _ = one_step(method, optimizers, number=2, epoch=3)  # F begins anew, so the penalty is 0
        path = tuple(method.path.tolist())
        expected = gradients_of(fresh, path_loss(fresh, step.batch(), path))
        torch.testing.assert_close(method.fisher[0].detach(), next(iter(expected.values())) ** 2)


class TestNsas:
    @pytest.mark.parametrize('archive_gradients', [True, False])
    def test_the_update_is_the_formula(self, archive_gradients):
        """Bug of the released code: the losses of the archive were plain numbers (``.item()``), without a gradient."""
        ours = make(Nsas, archive_size=3, beta=0.4, clip=1e9, archive_gradients=archive_gradients)
        optimizers = ours.optimizers(PLAIN)
        one_step(ours, optimizers, number=0)
        reference = copy.deepcopy(ours)
        step, values = one_step(ours, optimizers, number=1)
        path, _ = TestGdas().noisy(reference, step, 'weights', 10 - 9.9 / 3)
        own = path_loss(reference, step.batch(), path)
        members = [path_loss(reference, step.batch(), tuple(m)) for m in reference.archive.tolist()]
        assert float(values['loss']) == pytest.approx(float(0.6 * own + 0.4 / 3 * sum(members)))
        expected = 0.6 * own + (0.4 / 3 * sum(members) if archive_gradients else 0)
        assert_equal(step.gradients(), gradients_of(reference, expected))

    def test_the_most_similar_member_makes_room(self):
        method = make(Nsas, archive_size=4)
        optimizers = method.optimizers(PLAIN)
        one_step(method, optimizers, number=0)
        for number in range(1, 5):
            before = [tuple(m) for m in method.archive.tolist()]
            reference = copy.deepcopy(method)
            step, _ = one_step(method, optimizers, number=number, total=8)
            path, _ = TestGdas().noisy(reference, step, 'weights', 10 - 9.9 * number / 7)
            after = [tuple(m) for m in method.archive.tolist()]
            alike = [sum(a == b for a, b in zip(member, path, strict=True)) for member in before]
            replaced = alike.index(max(alike))
            assert [m for i, m in enumerate(after) if i != replaced] == [
                m for i, m in enumerate(before) if i != replaced
            ]
            assert after[replaced] == most_novel(SMALL, before, 10, 10, 5, step.generator('novelty'))

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 4), min_size=6, max_size=6).map(tuple), st.integers(0, 2**31))
    def test_a_mutant_differs_in_one_position_and_its_parent_stays(self, path, seed):
        """Bug of the released code: ``random_gene`` changed the list that it was given."""
        parent = tuple(path)
        child = mutate(path, SMALL, torch.Generator().manual_seed(seed))
        assert path == parent
        assert SMALL.validate(child) == child
        assert sum(a != b for a, b in zip(path, child, strict=True)) == 1

    def test_novelty_is_the_mean_distance_to_the_nearest(self):
        archive = [(0, 0, 0, 0, 0, 0), (0, 0, 0, 1, 1, 1), (4, 4, 4, 4, 4, 4)]
        assert novelty([(0, 0, 0, 0, 0, 1)], archive, 10).tolist() == [(1 + 2 + 6) / 3]
        assert novelty([(0, 0, 0, 0, 0, 1)], archive, 2).tolist() == [(1 + 2) / 2]

    def test_evolution_finds_more_novelty_than_its_first_generation(self):
        numbers = generator(0, 'archive')
        archive = [SMALL.sample(numbers) for _ in range(8)]
        found, first = (
            [
                novelty([most_novel(SMALL, archive, 10, 10, generations, generator(seed, 'test'))], archive, 10)[0]
                for seed in range(20)
            ]
            for generations in (5, 0)
        )
        assert all(a >= b for a, b in zip(found, first, strict=True))
        assert sum(found) > sum(first)


class TestFbNetV2:
    @staticmethod
    def masked(**options):
        torch.manual_seed(0)
        return make(FbNetV2, MaskedResNeStSupernet(mini(SIZE, CLASSES)), warmup_epochs=0, **options)

    @pytest.mark.parametrize('choice', range(4))
    def test_a_masked_block_is_a_narrow_one(self, choice):
        """The convolutions with only the channels that the choice keeps, without any mask."""
        space = mini()
        candidates = [space.build((c,) * 8, num_classes=0).layer2[0] for c in range(4)]
        torch.manual_seed(0)
        block = MaskedBlock(candidates).double().eval()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.normal_()
        width = candidates[choice].conv2.conv.out_channels
        assert block.widths[choice] == width
        x = torch.randn(2, block.conv1.in_channels, 6, 6, dtype=torch.float64)
        narrow = copy.deepcopy(block)
        narrow.conv2.weight.data = block.conv2.weight.data[:width]
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            getattr(narrow.bn2, name).data = getattr(block.bn2, name).data[:width]
        narrow.conv3.weight.data = block.conv3.weight.data[:, :width]
        y = narrow.bn2(F.conv2d(narrow.bn1(narrow.conv1(x)).relu(), narrow.conv2.weight, padding=1)).relu()
        expected = (narrow.bn3(narrow.conv3(narrow.avd(y))) + narrow.downsample(x)).relu()
        actual = block(x, {choice: torch.tensor(1.0, dtype=torch.float64)})
        torch.testing.assert_close(actual, expected)

    def test_choices_rank_by_the_outputs_of_their_convolution(self):
        network = MaskedResNeStSupernet(mini())
        assert network._blocks[0].widths == (16, 32, 20, 40)
        masks = network._blocks[0].masks
        assert masks.sum(1).tolist() == [16, 32, 20, 40]
        assert (masks[:, :-1] >= masks[:, 1:]).all()

    def test_the_update_is_the_formula(self):
        ours = self.masked()
        reference = copy.deepcopy(ours)
        step, values = one_step(ours, number=3, epoch=7)
        table = reference.network.space.cost_table

        def loss(logits, stream):
            noise = -torch.empty_like(logits).exponential_(generator=step.generator(f'gates/{stream}')).log()
            gates = ((logits.log_softmax(1) + noise) / (5 * np.exp(-0.045 * 7))).softmax(1)
            cost = table.fixed['macs'] + (gates * torch.tensor(table.per_choice['macs'])).sum()
            batch = step.batch(stream)
            feature_map = reference.network.forward_gated(batch.images[0], [dict(enumerate(row)) for row in gates])
            return cross_entropy(reference, batch, feature_map) * 0.2 * cost.log() ** 0.6

        expected = loss(reference.architecture.logits.detach(), 'train')
        assert float(values['loss']) == pytest.approx(float(expected))
        found = gradients_of(reference, expected)
        actual = step.gradients()
        assert set(found) == set(actual)
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient, found[name], rtol=1e-8, atol=1e-10)
        for parameter, after in zip(reference.weights, ours.weights, strict=True):
            parameter.data.copy_(after.data)
        (gradient,) = step.gradients('architecture').values()
        logits = reference.architecture.logits.detach()
        for row, column in ((0, 1), (5, 3)):
            change = torch.zeros_like(logits)
            change[row, column] = 1e-5
            with torch.no_grad():
                slope = (loss(logits + change, 'architecture') - loss(logits - change, 'architecture')) / 2e-5
            assert float(gradient[row, column]) == pytest.approx(float(slope), rel=1e-4)

    def test_parameters_rest_in_the_warm_up(self):
        method = self.masked()
        method.warmup_epochs = 2
        optimizers, before = method.optimizers(PLAIN), method.architecture.logits.detach().clone()
        one_step(method, optimizers, epoch=1)
        assert torch.equal(method.architecture.logits, before)
        one_step(method, optimizers, number=1, epoch=2)
        assert not torch.equal(method.architecture.logits, before)
        adam = optimizers['architecture'].param_groups[0]
        assert (adam['lr'], adam['weight_decay']) == (0.01, 5e-4)
        with pytest.raises(ValueError, match=r'warmup_epochs is 2 and learn\.epochs 2: the'):
            method.optimizers(LearnConfig(epochs=2))


def run_config(method, *settings):
    """Digits, 3 epochs, on the smallest cells, or the smallest ResNeSt for FBNetV2."""
    space = (
        ['space=mini'] if method == 'fbnetv2' else ['space=nasbench201', 'space_options={channels: 4, num_cells: 1}']
    )
    return [
        *space, 'threads=1', 'data.image_size=8', 'data.held_out_per_class=30', f'learn.method={method}',
        'learn.epochs=3', 'learn.batch_size=64', 'learn.lr=0.1', 'learn.checkpoint_seconds=0.01',
        'learn.views={scale: [0.8, 1.0], jitter_prob: 0.0, grayscale_prob: 0.0, blur_prob: 0.0, flip_prob: 0.0}',
        'search.strategy=random', 'search.options={}', 'search.evaluate={batches: 2, batch_size: 128}', *settings,
    ]  # fmt: skip


RUNS = {
    'fairnas': '{}',
    'fairnas-one-by-one': '{accumulate: false}',
    'fbnetv2': '{warmup_epochs: 1}',
    'gdas': '{architecture_lr: 0.01, temperature_end: 1.0}',
    'nsas': '{archive_size: 2, architecture_lr: 0.01}',
    'proxylessnas': '{gates: two, warmup: 0.3, steps_per_update: 1, architecture_lr: 0.01}',
    'tunas': '{optimizer: sgd, reward_batches: 1, architecture_lr: 0.01}',
    'wpl': '{}',
}


@pytest.mark.parametrize('name', RUNS)
def test_learning_digits_and_going_on_after_a_kill(name, tmp_path):
    method = name.split('-')[0]
    overrides = run_config(method, f'learn.options={RUNS[name]}')
    config = parse_config(['digits'], overrides)
    run = Run(config, tmp_path / 'whole')
    for stage in ('learn', 'linear'):
        stage_function(stage)(run)
    metrics = [json.loads(line) for line in (run.path / 'learn' / 'metrics.jsonl').read_text().splitlines()]
    losses = [line['loss'] for line in metrics]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third])

    numbers = generator(0, 'test')
    paths = [run.space.sample(numbers) for _ in range(20)]
    accuracies = [score.extra['accuracy'] for score in run.scorer().score(paths)]
    assert max(accuracies) > max(min(accuracies), 0.1)  # 0.1 is chance
    trained = run.load_method()
    for scorer in trained.scorers(run).values():
        chosen = trained.architecture.most_likely()
        best, *others = (score.value for score in scorer.score([chosen, *paths]))
        assert best > min(others)
        assert metrics[-1]['entropy'] < metrics[0]['entropy']
        assert scorer.facts['most_likely'] == run.space.encode(chosen)

    command = [sys.executable, '-m', 'pinas_search', 'learn', '--config', 'digits', '--out', 'killed', *overrides]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    killed = Run(config, tmp_path / 'killed')
    while not (killed.path / 'learn' / 'checkpoint.pt').exists() and process.poll() is None:
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    stage_function('learn')(killed)
    names = sorted(file.name for file in (run.path / 'learn').glob('*.safetensors'))
    expected = {'supernet', 'classifier'} | ({'architecture'} if trained.scorers(run) else set())
    assert names == sorted(f'{artifact}.safetensors' for artifact in expected)
    for file in names:
        assert (killed.path / 'learn' / file).read_bytes() == (run.path / 'learn' / file).read_bytes()


def test_what_does_not_fit_is_said_before_work_begins(tmp_path):
    def refused(*settings):
        command = [sys.executable, '-m', 'pinas_search', 'check', '--config', 'digits', *settings]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        (line,) = result.stderr.strip().splitlines()
        return line

    cells = ['space=nasbench201', 'learn.method=fbnetv2', 'learn.options={}']
    assert 'one widest convolution at each position, which nasbench201 does not have' in refused(*cells)
    masked = ['learn.method=fbnetv2', 'learn.options={warmup_epochs: 1}', 'retrain.start=inherited']
    assert 'no weights that fit the networks of mini: set retrain.start=scratch' in refused(*masked)
