"""The authors' greedy tree and the evolution of SPOS: where their proposals come from."""

import numpy as np
from tables import toy

from pinas_search.plugins import find_plugin
from pinas_search.spaces import Limits
from pinas_search.strategies import Proposer

SPACE = toy(*(4,) * 16)


def play(name, options, steps, score):
    plugin = find_plugin('strategy', name, options)
    proposer = Proposer(plugin.create(SPACE, plugin.options, Limits()), seed=0)
    paths = []
    for _ in range(steps):
        paths.append(proposer.ask())
        proposer.tell(paths[-1], score(paths[-1]))
    return paths


def score(path):
    return float(path[0]) + path[5] / 100


def test_the_greedy_tree_samples_only_the_leaf_that_is_good():
    """No exploration: the first choice is among the better half, always; a second level asks for more."""
    shallow = play('pinas', {'initial': 80, 'selects': 8}, 96, score)
    assert {path[0] for path in shallow[:80]} == {0, 1, 2, 3}
    assert {path[0] for path in shallow[80:]} <= {2, 3}
    deep = play('pinas', {'initial': 80, 'selects': 8, 'deeper_at': (40,)}, 96, score)
    assert np.mean([score(path) for path in deep[80:]]) > np.mean([score(path) for path in shallow[80:]])


def test_crossovers_mix_two_of_the_best_and_mutants_change_one():
    options = {'population': 40, 'parents': 2}
    for mutations in (0, 40):
        paths = play('evolution', {**options, 'mutations': mutations}, 80, score)
        best = sorted(paths[:40], key=score, reverse=True)[:2]
        parents, children = np.array(best), np.array(paths[40:])
        same = children[:, None] == parents[None]
        if mutations:
            changed = (~same).sum(2).min(1)
            assert 0 < changed.mean() < 4  # 16 positions, a tenth of them drawn anew
        else:
            assert same.any(1).all()
            assert (same.sum(2) < 16).all()
