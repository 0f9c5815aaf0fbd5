"""Statistics of rankings: against scipy, against cases worked out by hand, and against brute force where scores tie."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pinas_search.report.ranking import draw_ranking
from pinas_search.scoring import ranking
from pinas_search.spaces import mini, nasbench201


def rng(seed=0):
    return np.random.default_rng(seed)


few_values = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n).map(np.array)] * 2)
)


def tau_by_pairs(scores, truth):
    """Tau-b from its definition."""
    pairs = list(itertools.combinations(range(len(truth)), 2))
    signs = [(np.sign(scores[i] - scores[j]), np.sign(truth[i] - truth[j])) for i, j in pairs]
    over = np.sqrt(sum(a != 0 for a, _ in signs)) * np.sqrt(sum(b != 0 for _, b in signs))
    return sum(a * b for a, b in signs) / over if over else 0.0


def all_orders(scores):
    """Every order, best first, that the scores allow."""
    orders = itertools.permutations(range(len(scores)))
    return [order for order in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))]


# Tau and its uncertainty


@given(values=few_values)
def test_tau_by_its_definition(values):
    assert ranking.kendall_tau(*values) == pytest.approx(tau_by_pairs(*values), abs=1e-12)


def test_tau_of_a_case_by_hand():
    # Pairs of truths 1 2 3 4: scores tie once, one pair is discordant, four are concordant.
    assert ranking.kendall_tau(np.array([1, 1, 3, 2]), np.array([1, 2, 3, 4])) == pytest.approx(3 / np.sqrt(5 * 6))


def test_bigger_is_better():
    truth = np.arange(20.0)
    assert ranking.kendall_tau(truth, truth) == pytest.approx(1)
    assert ranking.kendall_tau(-truth, truth) == pytest.approx(-1)


@given(values=few_values)
def test_correlations_are_scipys(values):
    scores, truth = values
    if ranking.is_constant(scores) or ranking.is_constant(truth):
        assert ranking.kendall_tau(scores, truth) == ranking.spearman(scores, truth) == 0
        assert ranking.weighted_tau(scores, truth) == 0
        return
    assert ranking.kendall_tau(scores, truth) == pytest.approx(stats.kendalltau(scores, truth).statistic)
    assert ranking.spearman(scores, truth) == pytest.approx(stats.spearmanr(scores, truth).statistic)
    assert ranking.weighted_tau(scores, truth) == pytest.approx(stats.weightedtau(scores, truth).statistic)


def test_more_networks_than_short_ranks_hold():
    truth = rng().permutation(70_000)
    scores = truth.copy()
    scores[:1000] = rng(1).permutation(scores[:1000])
    assert ranking.kendall_tau(scores, truth) == pytest.approx(stats.kendalltau(scores, truth).statistic, abs=1e-12)


@given(values=few_values, seed=st.integers(0, 3))
def test_the_interval_is_that_of_scipy_on_the_same_samples(values, seed):
    scores, truth = values
    order, generator = np.argsort(truth, kind='stable'), rng(seed)
    taus = []
    for _ in range(20):
        drawn = order[generator.integers(len(truth), size=len(truth))]
        tau = stats.kendalltau(scores[drawn], truth[drawn]).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    expected = np.quantile(taus, [0.025, 0.975])
    assert ranking.kendall_tau_interval(scores, truth, rng(seed), 20) == pytest.approx(expected, abs=1e-12)


def test_the_interval_has_the_width_of_resampling():
    truth = rng(1).normal(size=200)
    scores = truth + rng(2).normal(size=200)
    low, high = ranking.kendall_tau_interval(scores, truth, rng(3), 400)
    assert low < ranking.kendall_tau(scores, truth) < high
    fresh = [
        ranking.kendall_tau((x := g.normal(size=200)) + g.normal(size=200), x) for g in map(rng, range(1000, 1300))
    ]
    # Standard errors of both widths are about 5 %; 30 % is six of them.
    assert high - low == pytest.approx(np.ptp(np.quantile(fresh, [0.025, 0.975])), rel=0.3)


def test_seeds_are_averaged_and_resampled():
    truth = rng(1).normal(size=100)
    seeds = np.stack([truth + rng(s).normal(size=100) * width for s, width in ((2, 0.1), (3, 3.0))])
    taus = [ranking.kendall_tau(row, truth) for row in seeds]
    assert ranking.kendall_tau(seeds, truth) == pytest.approx(np.mean(taus))
    low, high = ranking.kendall_tau_interval(seeds, truth, rng(), 200)
    # Half of the samples draw one seed twice, so both taus are inside; over networks alone they are not.
    assert low < min(taus) + 0.1
    assert high > max(taus) - 0.05
    alone = ranking.kendall_tau_interval(seeds[0], truth, rng(), 200)
    assert not alone[0] < taus[1] < alone[1]


@given(n=st.integers(3, 5), data=st.data())
@settings(max_examples=20)
def test_the_p_value_is_that_of_all_permutations(n, data):
    scores = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    truth = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    observed = abs(tau_by_pairs(scores, truth))
    every = [abs(tau_by_pairs(scores, np.array(p))) >= observed - 1e-9 for p in itertools.permutations(truth)]
    p = np.mean(every)
    # Five standard deviations of 1,000 draws.
    tolerance = 5 * np.sqrt(p * (1 - p) / 1000) + 0.002
    assert ranking.p_value(scores, truth, rng(), 1000) == pytest.approx(p, abs=tolerance)


def test_the_least_p_value():
    assert ranking.p_value(np.arange(30), np.arange(30), rng(), 99) == pytest.approx(0.01)
    assert ranking.p_value(np.ones(30), np.arange(30), rng(), 99) == 1


# Comparisons


def test_comparisons_are_paired():
    truth = rng(1).normal(size=300)
    shared = rng(2).normal(size=300)  # both err alike, so that apart their intervals overlap
    first, second = truth + shared, truth + 1.15 * shared
    intervals = [ranking.kendall_tau_interval(scores, truth, rng(3), 300) for scores in (first, second)]
    assert intervals[0][0] < intervals[1][1]
    better = ranking.compare_taus(first, second, truth, rng(3), 300)
    worse = ranking.compare_taus(second, first, truth, rng(3), 300)
    assert better.verdict == 'better'
    assert worse.verdict == 'worse'
    assert better.difference == -worse.difference
    assert better.difference == pytest.approx(ranking.kendall_tau(first, truth) - ranking.kendall_tau(second, truth))


def test_what_cannot_be_told_is_undecided():
    truth = rng(1).normal(size=13)
    first, second = truth + rng(2).normal(size=13), truth + rng(4).normal(size=13)
    assert ranking.compare_taus(first, second, truth, rng(), 300).verdict == 'undecided at n = 13'
    same = ranking.compare_taus(first, first, truth, rng(), 50)
    assert (same.difference, same.interval, same.verdict) == (0, (0, 0), 'undecided at n = 13')


def test_undecided_is_the_rule_without_a_difference():
    verdicts = []
    for seed in range(60):
        g = rng(seed)
        truth = g.normal(size=40)
        first, second = (truth + g.normal(size=40) for _ in range(2))
        verdicts.append(ranking.compare_taus(first, second, truth, g, 100).verdict)
    # Expected 3 of 60 are decided; 12 or more come with a probability below 0.1 % even if 8 % are.
    assert sum(not verdict.startswith('undecided') for verdict in verdicts) < 12


# The top


@given(values=few_values, data=st.data())
def test_ties_are_broken_at_random(values, data):
    scores, truth = values[0][:6], values[1][:6]
    k = data.draw(st.integers(1, len(truth)))
    orders = all_orders(scores)
    ranks = np.array([1 + (truth > value).sum() for value in truth])
    hits = truth >= np.sort(truth)[-k]
    assert ranking.precision_at(scores, truth, k) == pytest.approx(np.mean([hits[list(o[:k])].mean() for o in orders]))
    best = np.mean([ranks[list(order[:k])].min() for order in orders])
    assert ranking.best_rank_at(scores, truth, k) == pytest.approx(best)
    assert ranking.chosen_true(scores, truth) == pytest.approx(np.mean([truth[order[0]] for order in orders]))


def test_the_top_by_hand():
    truth = np.array([90.0, 91, 92, 93, 94, 95])
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.3, 0.3])
    assert ranking.precision_at(scores, truth, 1) == 0
    assert ranking.precision_at(scores, truth, 2) == 0
    assert ranking.precision_at(scores, truth, 3) == pytest.approx(2 / 3)  # 93, and 94 or 95
    assert ranking.best_rank_at(scores, truth, 2) == 3
    assert ranking.best_rank_at(scores, truth, 3) == 1.5
    assert ranking.chosen_true(scores, truth) == 92
    assert ranking.best_true(truth) == 95
    assert ranking.regret(scores, truth) == 3


def test_which_tops_are_reported():
    assert ranking.top_counts(729) == {'1': 1, '5': 5, '10': 10, '1%': 7, '10%': 73}
    assert ranking.top_counts(7) == {'1': 1, '5': 5, '1%': 1, '10%': 1}


def test_tau_in_the_top_tenth():
    truth = np.arange(40.0)
    scores = truth.copy()
    scores[-4:] = scores[-4:][::-1]
    assert ranking.top_tenth_tau(scores, truth) == pytest.approx(-1)
    assert ranking.top_tenth_tau(scores[:10], truth[:10]) is None  # one network
    tied = np.where(truth >= 30, 30, truth)
    assert ranking.top_tenth_tau(scores, tied) == 0  # all of the top are equal


# Trivial predictors, the report, refusals


def test_trivial_predictors_count():
    space = nasbench201()
    trivial = ranking.trivial_predictors(space, [space.decode('333132'), space.decode('444444')])
    assert {name: list(values) for name, values in trivial.items()} == {
        'params': [1073466, 73306],
        'macs': [153272960, 7783040],
        'choices with weights': [5, 0],
        'number of skip_connect': [1, 0],
        'number of nor_conv_1x1': [1, 0],
        'number of nor_conv_3x3': [4, 0],
        'number of avg_pool_3x3': [0, 6],
    }


def test_trivial_predictors_of_a_space_in_which_all_choices_have_weights():
    trivial = ranking.trivial_predictors(mini(), [(0,) * 8, (1,) * 8, (0, 1) * 4])
    names = [choice.name for choice in mini().describe().choices]
    assert list(trivial) == ['params', 'macs', f'number of {names[0]}', f'number of {names[1]}']
    assert list(trivial[f'number of {names[1]}']) == [0, 8, 4]


def test_the_report_has_everything_and_is_json():
    truth = rng(1).normal(size=60)
    scores = truth + rng(2).normal(size=60)
    report = ranking.ranking_report(scores, truth, rng(), samples=50, known=120, trivial={'size': -truth})
    assert json.loads(json.dumps(report)) == report
    assert report == ranking.ranking_report(scores, truth, rng(), samples=50, known=120, trivial={'size': -truth})
    assert report['n'] == 60
    assert report['coverage'] == 0.5
    assert report['trivial'] == {'size': pytest.approx(-1)}
    assert report['kendall_tau'] == ranking.kendall_tau(scores, truth)
    assert report['regret'] == pytest.approx(report['best_true'] - report['chosen_true'])
    assert not report['constant']


def test_a_constant_predictor_says_nothing():
    report = ranking.ranking_report(np.full(50, 0.5), np.arange(50.0), rng(), samples=20)
    assert report['constant']
    assert report['kendall_tau'] == 0
    assert report['kendall_tau_interval'] == [0, 0]
    assert report['p_value'] == 1
    assert report['chosen_true'] == pytest.approx(24.5)


@pytest.mark.parametrize(
    ('scores', 'truth', 'message'),
    [
        ([1, 2], [1, 2, 3], r'scores of shape \(2,\) do not fit truths of shape \(3,\)'),
        ([1], [1], 'at least two networks, got 1'),
        ([1, np.nan], [1, 2], 'finite'),
        ([1, 2], [1, np.inf], 'finite'),
    ],
)
def test_wrong_input_is_refused(scores, truth, message):
    for statistic in (ranking.kendall_tau, ranking.spearman, ranking.chosen_true):
        with pytest.raises(ValueError, match=message):
            statistic(np.array(scores), np.array(truth))


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match='k is 4: it must be 1 to 3'):
        ranking.precision_at(np.arange(3), np.arange(3), 4)
    with pytest.raises(ValueError, match='samples is 0'):
        ranking.kendall_tau_interval(np.arange(3), np.arange(3), rng(), 0)
    with pytest.raises(ValueError, match='one seed'):
        ranking.precision_at(np.zeros((2, 3)), np.arange(3), 1)


# The picture


def test_the_picture_marks_the_chosen_and_the_best():
    scores, truth = np.array([0.3, 0.9, 0.5]), np.array([90.0, 92.0, 94.0])
    figure, alt = draw_ranking(scores, truth, tau=0.333, interval=(-1, 1), truth_label='CIFAR-10 accuracy (%)')
    axes = figure.axes[0]
    marked = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert marked == {'chosen': (0.9, 92.0), 'best': (0.5, 94.0)}
    assert axes.collections[0].get_offsets().tolist() == [[0.3, 90.0], [0.9, 92.0], [0.5, 94.0]]
    assert axes.get_ylabel() == 'CIFAR-10 accuracy (%)'
    assert '0.33' in alt
    assert '92' in alt
    assert '94' in alt
