"""Strategies: never twice, within the limits, deterministic, exhaustible."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pinas_search.spaces import Cost, CostTable, Limits, Space
from pinas_search.strategies import SpaceExhaustedError, create_strategy

NAMES = ['lanas', 'random', 'optuna:TPESampler', 'optuna:NSGAIISampler']


class Toy(Space):
    name = 'toy'

    def __init__(self, *num_choices: int) -> None:
        self.num_choices = num_choices

    def _measure_costs(self) -> CostTable:
        costs = np.tile(np.arange(max(self.num_choices)), (self.num_positions, 1))
        return CostTable(Cost(1, 10), costs, 2 * costs)


def value(path: tuple[int, ...]) -> float:
    """Separable: each position has a best choice of its own."""
    return float(sum(((3 * i + 2) % 4 == c) * (1 + i % 3) for i, c in enumerate(path)))


def play(strategy, steps: int) -> list[tuple[int, ...]]:
    paths = []
    for _ in range(steps):
        paths.append(strategy.ask())
        strategy.tell(paths[-1], value(paths[-1]))
    return paths


@pytest.mark.parametrize('name', NAMES)
def test_exhausts_a_space_with_unequal_positions(name: str) -> None:
    strategy = create_strategy(name, Toy(3, 2, 4), seed=0)
    paths = play(strategy, 24)
    assert len(set(paths)) == 24
    assert all(c < m for path in paths for c, m in zip(path, (3, 2, 4), strict=True))
    with pytest.raises(SpaceExhaustedError):
        strategy.ask()


@pytest.mark.parametrize('name', NAMES)
def test_limits_no_duplicates_and_pending(name: str) -> None:
    space, limits = Toy(*(4,) * 8), Limits(max_params=12, max_macs=40)
    strategy = create_strategy(name, space, seed=1, limits=limits)
    paths = play(strategy, 60)
    paths += [strategy.ask() for _ in range(5)]  # not told: other workers evaluate them
    assert len(set(paths)) == 65
    assert limits.allow(space, np.array(paths)).all()


@pytest.mark.parametrize('name', NAMES)
def test_restored_goes_on_as_if_uninterrupted(name: str) -> None:
    space = Toy(*(4,) * 8)
    whole = create_strategy(name, space, seed=2)
    paths = play(whole, 130)
    resumed = create_strategy(name, space, seed=2)
    resumed.restore((path, value(path)) for path in paths[:95])
    assert play(resumed, 35) == paths[95:]
    assert play(create_strategy(name, space, seed=3), 10) != paths[:10]


@pytest.mark.parametrize(
    ('name', 'message'), [('lanass', 'did you mean lanas'), ('optuna:TPESample', 'TPESampler'), ('x', 'Allowed are')]
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_strategy(name, Toy(2, 2), seed=0)


def test_scores_must_be_numbers() -> None:
    strategy = create_strategy('lanas', Toy(2, 2), seed=0)
    with pytest.raises(ValueError, match=r'NaN|nan|finite'):
        strategy.tell(strategy.ask(), float('nan'))


def test_constant_scores_do_not_stop_lanas() -> None:
    strategy = create_strategy('lanas', Toy(*(4,) * 8), seed=0)
    for _ in range(200):
        strategy.tell(strategy.ask(), 0.5)
    assert len(strategy.seen) == 200


def test_an_infeasible_limit_is_refused() -> None:
    with pytest.raises(ValueError, match='the cheapest network of toy has 1'):
        create_strategy('random', Toy(4, 4), seed=0, limits=Limits(max_params=0))


def test_optuna_is_imported_on_use_only() -> None:
    code = "import sys, pinas_search.strategies; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
