"""Comparing networks that saw the same images: paired tests, and the place of one network among others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

__all__ = ['Paired', 'Place', 'compare', 'place_among']


@dataclass(frozen=True)
class Paired:
    """Two networks on the same images (McNemar 1947).

    Attributes:
        gained: Images that only the first network has right.
        lost: Images that only the second network has right.
        difference: Accuracy of the first minus that of the second.
        p_value: Probability of a split of ``gained`` and ``lost`` at least as uneven, if both networks were equally
            good: the exact binomial test, two-sided.
    """

    gained: int
    lost: int
    difference: float
    p_value: float


def compare(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two networks by which of the same images they have right.

    Args:
        first: Bool [N].
        second: Bool [N].

    Raises:
        ValueError: If the numbers of images differ.
    """
    if first.shape != second.shape:
        raise ValueError(f'a paired comparison needs the same images, got {len(first)} and {len(second)}')
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Paired(gained, lost, (gained - lost) / len(first), float(p_value))


@dataclass(frozen=True)
class Place:
    """Where a chosen network stands among others that were chosen at random.

    Attributes:
        best: Its rank from 1 among all, if it comes first among equals.
        worst: Its rank if it comes last among equals.
        count: Number of all, itself included.
        chance: Probability that a network chosen at random would be at least this good: permuting all values gives the
            first one a value as large in this share of the permutations.
    """

    best: int
    worst: int
    count: int
    chance: float


def place_among(value: float, others: Sequence[float]) -> Place:
    """Rank a value among 1 + n; bigger is better.

    Args:
        value: Of the chosen network.
        others: Of the n others.
    """
    better, equal = sum(other > value for other in others), sum(other == value for other in others)
    count = 1 + len(others)
    return Place(better + 1, better + equal + 1, count, (better + equal + 1) / count)
