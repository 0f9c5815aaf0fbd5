"""arch2vec: the auto-encoder against the authors' outputs, the regression and the acquisition against closed forms."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kendalltau, norm

from pinas_search.cli import main
from pinas_search.plugins import find_plugin
from pinas_search.scoring import Score
from pinas_search.scoring.arch2vec import Arch2vec, LatentOptions, LatentSpace
from pinas_search.scoring.dngo import Dngo
from pinas_search.scoring.vgae import Objective, Vgae, losses, pretrain, stack_graphs
from pinas_search.spaces import Limits, mini, nasbench201
from pinas_search.strategies import Observation, Proposal, Seen
from pinas_search.strategies.arch2vec import Arch2vecStrategy, Options, log_expected_improvement

SMALL = {'graphs': 200, 'epochs': 1}
CELLS = nasbench201().without('none', 'skip_connect')  # 729


@pytest.fixture(scope='module')
def fixture():
    return reference.load_fixture('arch2vec')


@pytest.fixture(scope='module')
def cells(fixture):
    space = nasbench201()
    return stack_graphs([space.graph(space.decode(cell)) for cell in fixture.meta['cells']])


@pytest.fixture(scope='module')
def latent():
    return LatentSpace(CELLS, LatentOptions(**SMALL))


def filled(fixture, **options):
    state = reference.filled_state_dict(fixture)
    for name, scale in fixture.meta['scale'].items():
        state[name] = scale * state[name]
    model = Vgae(7, **options).eval()
    model.load_state_dict(state)
    return model


def test_a_cell_is_the_authors_graph(fixture):
    graph = nasbench201().graph((3, 3, 3, 1, 3, 2))
    assert graph.adjacency.tolist() == fixture.meta['adjacency']
    assert {name: label for label, name in enumerate(graph.vocabulary)} == fixture.meta['vocabulary']
    named = [graph.vocabulary[label] for label in graph.operations]
    assert named == ['input', *['nor_conv_3x3'] * 3, 'skip_connect', 'nor_conv_3x3', 'nor_conv_1x1', 'output']


def test_blocks_in_a_row_are_a_chain():
    graph = mini().graph((0, 3, 1, 2, 2, 1, 3, 0))
    assert np.array_equal(graph.adjacency, np.eye(10, k=1))
    assert graph.operations == (0, 1, 4, 2, 3, 3, 2, 4, 1, 5)


def test_encoder_decoder_and_losses_equal_the_authors(fixture, cells):
    with torch.no_grad():
        result = filled(fixture)(cells)
    expected = fixture.arrays
    neighbours = cells.adjacency + cells.adjacency.transpose(1, 2)
    reference.assert_close(neighbours[0], expected['adjacency_seen'], 'adjacency')
    for actual, name in zip(result, ('ops_recon', 'adj_recon', 'mu', 'logvar'), strict=True):
        reference.assert_close(actual, expected[name], name, rtol=1e-6, atol=1e-6)
    parts = losses(cells, result)
    assert float(parts['operations']) == pytest.approx(float(expected['bce_ops']), rel=1e-6)
    assert float(parts['adjacency']) == pytest.approx(float(expected['bce_adj']), rel=1e-6)


def test_the_kl_divergence_is_divided_twice_as_the_released_code_or_once(fixture, cells):
    """What is called logvar there is the logarithm of the standard deviation."""
    with torch.no_grad():
        result = filled(fixture)(cells)
    mean, std = fixture.arrays['mu'].astype(float), np.exp(fixture.arrays['logvar'].astype(float))
    divergence = (np.log(1 / std) + (std**2 + mean**2) / 2 - 0.5).sum(-1)  # KL(N(mean, std²) | N(0, 1)), [B, V]
    assert float(losses(cells, result, 'mean')['kl']) == pytest.approx(divergence.mean(), rel=1e-5)
    assert float(losses(cells, result)['kl']) == pytest.approx(divergence.mean() / divergence.size, rel=1e-5)


def test_operations_go_through_the_sigmoid_of_the_edges_unless_softmax_is_asked_for(fixture, cells):
    weight, bias = (filled(fixture).state_dict()[f'decoder.weight.{name}'].double() for name in ('weight', 'bias'))
    logits = torch.from_numpy(fixture.arrays['mu']).double() @ weight.T + bias
    with torch.no_grad():
        by_code, by_name = filled(fixture)(cells).operations, filled(fixture, operations='softmax')(cells).operations
    torch.testing.assert_close(by_code.double(), 1 / (1 + (-logits).exp()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        by_name.double(), logits.exp() / logits.exp().sum(-1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_pretraining_is_a_function_of_the_seed_and_lowers_the_loss():
    graphs = stack_graphs([CELLS.graph(CELLS.sample(torch.Generator().manual_seed(i))) for i in range(128)])

    def train(epochs, seed):
        torch.manual_seed(epochs * 100 + seed)  # must not matter
        return pretrain(graphs, epochs=epochs, objective=Objective(), seed=seed)

    one, two, other = train(3, 0).state_dict(), train(3, 0).state_dict(), train(3, 1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one['fc1.weight'], other['fc1.weight'])
    with torch.no_grad():
        before, after = (float(sum(losses(graphs, train(n, 0)(graphs)).values())) for n in (0, 3))
    assert after < before


def test_a_trained_encoder_is_kept_in_a_file(tmp_path):
    file = tmp_path / 'encoders' / 'cells.safetensors'
    options = LatentOptions(encoder=str(file), **SMALL)
    paths = [(2, 3, 4, 2, 3, 4), (4, 4, 4, 4, 4, 4)]
    points = LatentSpace(CELLS, options).embed(paths)
    assert points.shape == (2, 16)
    assert np.array_equal(LatentSpace(CELLS, LatentOptions(**SMALL)).embed(paths), points)
    written = file.stat().st_mtime_ns
    assert np.array_equal(LatentSpace(CELLS, options).embed(paths), points)
    assert file.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r'another encoder \(seed 0, here 1\): name another file'):
        LatentSpace(CELLS, LatentOptions(encoder=str(file), seed=1, **SMALL)).embed(paths)
    with pytest.raises(ValueError, match="space 'nasbench201 without none and skip_connect', here 'mini'"):
        LatentSpace(mini(), options).embed([(0,) * 8])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match='is no encoder of arch2vec'):
        LatentSpace(CELLS, options).embed(paths)


def test_the_posterior_is_that_of_bayesian_linear_regression():
    """Snoek et al., equations 4 and 5, with the precisions that were found; they maximise the evidence."""
    rng = np.random.default_rng(0)
    features, new = rng.normal(size=(60, 5)), rng.normal(size=(9, 5))
    values = 7 + 3 * np.sin(features).sum(1) + 0.3 * rng.normal(size=60)
    model = Dngo(features, values, epochs=5)
    phi, at = (model._basis(model._inputs(x)) for x in (features, new))
    phi, at, targets = phi - phi.mean(0), at - phi.mean(0), (values - values.mean()) / values.std()
    noise, prior = model._regression.alpha_, model._regression.lambda_
    posterior = np.linalg.inv(noise * phi.T @ phi + prior * np.eye(phi.shape[1]))
    mean = noise * at @ posterior @ phi.T @ targets
    std = np.sqrt(np.einsum('nd,de,ne->n', at, posterior, at) + 1 / noise)
    predicted = model.predict(new)
    np.testing.assert_allclose(predicted.mean, values.mean() + values.std() * mean, rtol=1e-6)
    np.testing.assert_allclose(predicted.std, values.std() * std, rtol=1e-6)

    def evidence(noise, prior):
        covariance = np.eye(len(targets)) / noise + phi @ phi.T / prior
        return -np.linalg.slogdet(covariance)[1] - targets @ np.linalg.solve(covariance, targets)

    best = evidence(noise, prior)
    assert all(best > evidence(noise * a, prior * b) for a, b in ((1.5, 1), (1 / 1.5, 1), (1, 1.5), (1, 1 / 1.5)))


def test_the_regression_needs_two_finite_values():
    with pytest.raises(ValueError, match='at least two samples with finite values'):
        Dngo(np.zeros((1, 3)), np.zeros(1))
    with pytest.raises(ValueError, match='at least two samples with finite values'):
        Dngo(np.zeros((2, 3)), np.array([0.5, -np.inf]))


@given(st.floats(-3, 3), st.floats(0.05, 3), st.floats(-3, 3))
@settings(max_examples=60)
def test_expected_improvement_is_the_integral(mean, std, target):
    if (mean - target) / std < -6:
        return  # left to the next test: quadrature has no digits there
    upper = max(mean, target) + 12 * std
    integral, _ = quad(lambda v: (v - target) * norm.pdf(v, mean, std), target, upper, epsabs=1e-14, limit=200)
    log_gain = log_expected_improvement(np.array([mean]), np.array([std]), target)[0]
    assert math.exp(log_gain) == pytest.approx(integral, rel=1e-6, abs=1e-13)


@pytest.mark.parametrize('u', [0.0, -0.999, -1.001, -6.0, -40.0, -900.0, -9.9e3, -1.01e4, -1e8])
def test_expected_improvement_orders_paths_that_are_far_below_the_target(u):
    with mpmath.workdps(60):
        x = mpmath.mpf(u)
        exact = mpmath.log(mpmath.npdf(x) + x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2)
        assert log_expected_improvement(np.array([u]), np.array([1.0]), 0.0)[0] == pytest.approx(float(exact), rel=1e-7)


def test_a_predictor_learns_from_what_it_observes(latent):
    rng = np.random.default_rng(0)
    paths = [tuple(rng.integers(2, 5, 6).tolist()) for _ in range(200)]
    values = [float(sum(choice == 3 for choice in path)) for path in paths]
    predictor = Arch2vec(latent, epochs=20)
    with pytest.raises(ValueError, match='0 labels: it ranks nothing'):
        predictor.score(paths)
    predictor.observe(paths[:99], values[:99])
    predictor.observe(paths[99:101], [values[99], -math.inf])  # a candidate that failed teaches nothing
    assert predictor.facts == {'labels': 100}
    scores = predictor.score(paths[101:])
    assert all(isinstance(score, Score) and score.extra['std'] > 0 for score in scores)
    assert kendalltau([score.value for score in scores], values[101:])[0] > 0.4  # 3-sigma of chance is 0.2


def test_a_search_proposes_the_unseen_path_with_the_largest_expected_improvement(latent):
    strategy = Arch2vecStrategy(CELLS, Limits(), Options(initial=4, fit_epochs=10, target=None, **SMALL))
    strategy.latent = latent
    rng = np.random.default_rng(1)
    tried = [tuple(rng.integers(2, 5, 6).tolist()) for _ in range(12)]
    history = [Observation(path, float(path.count(3))) for path in tried[:-1]] + [Observation(tried[-1], -math.inf)]
    seen = Seen(CELLS)
    for path in tried:
        seen.add(path)
    proposed = strategy.propose(history, [], seen, np.random.default_rng(2)).path
    predictor = Arch2vec(latent, epochs=10)
    predictor.observe(tried[:-1], [float(path.count(3)) for path in tried[:-1]])
    everything = np.stack(np.meshgrid(*[[2, 3, 4]] * 6, indexing='ij'), -1).reshape(-1, 6)
    gains = log_expected_improvement(*predictor.predict(everything), max(float(path.count(3)) for path in tried[:-1]))
    order = [tuple(everything[row].tolist()) for row in np.argsort(-gains)]
    assert proposed == next(path for path in order if path not in tried)
    seen.add(proposed)  # asked for, not told: the regression is the same, the path is not proposed again
    second = strategy.propose(history, [Proposal(proposed)], seen, np.random.default_rng(3)).path
    assert second == [path for path in order if path not in tried][1]
    few = strategy.propose(history[:3], [], seen, np.random.default_rng(4)).path
    assert few == strategy.pool.draw(np.random.default_rng(4), seen)


def test_a_space_without_graphs_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path, str(Path(__file__).parent / 'toys')])
    plugin = find_plugin('space', 'two_branches', {})
    with pytest.raises(ValueError, match='two-branches does not say what its networks are as graphs') as error:
        Arch2vecStrategy(plugin.create(plugin.options, image_size=32, num_classes=10))
    assert '\n' not in str(error.value)


def test_the_scorer_takes_labels_from_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = ['arch,top1', *(f'{c}{d}001230,0.{c}{d}' for c in range(4) for d in range(4))]
    Path('labels.csv').write_text('\n'.join(table) + '\n')
    settings = ['search.scorer=arch2vec', 'search.scorer_options={graphs: 40, epochs: 1, num_labels: 12}']
    check = ['check', '--config', 'digits', '--out', 'run', 'threads=1', *settings]
    for more, message in (
        ([], 'name a CSV file of them at search.scorer_options.labels'),
        (['search.scorer_options.labels=absent.csv'], 'absent.csv is missing'),
        (['search.scorer_options.labels=labels.csv'], "no column 'accuracy'"),
    ):
        assert main([*check, *more]) == 2
        assert message in capsys.readouterr().err
    right = ['search.scorer_options.labels=labels.csv', 'search.scorer_options.column=top1']
    run = ['search', *check[1:], *right, 'search.candidates=3', 'search.strategy=random', 'search.options={}']
    assert main(run) == 0, capsys.readouterr().err
    result = Path('run/search/result.json').read_text()
    assert '"labels": 12' in result
