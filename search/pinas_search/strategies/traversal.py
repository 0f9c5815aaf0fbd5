"""The best paths of a network whose blocks are rated one by one (Li et al., CVPR 2020, DNA: traversal search)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from ..spaces import AdditiveSpace, ChoicePath, Limits, Space

__all__ = ['best_paths']

_ROUNDING = 1e-9  # relative: sums in another order differ by less


def best_paths(
    space: Space, losses: Sequence[Mapping[ChoicePath, float]], limits: Limits | None = None, count: int = 1
) -> list[tuple[ChoicePath, float]]:
    """Find the paths with the lowest sums of block losses under limits.

    All combinations are gone through depth first, each block's choices from the lowest loss on; a branch ends where the
    best that could follow is no better than what was found, or where even the cheapest rest exceeds a limit. The result
    is exact.

    Args:
        space: The space; blocks are consecutive positions.
        losses: For each block the loss of each of its choices: part of a path -> loss.
        limits: Largest allowed costs; no limit if None. Only costs that add up over the positions end branches early.
        count: Number of paths.

    Returns:
        Up to ``count`` paths with their sums, the lowest first, equal ones by path; fewer if the limits allow fewer.

    Raises:
        ValueError: If the blocks do not make up a path, ``count`` is not positive, or a limit cannot be met.
    """
    limits = limits or Limits()
    limits.check(space)
    if count < 1:
        raise ValueError(f'count is {count}: at least one path must be asked for')
    if not all(losses) or sum(len(next(iter(block))) for block in losses) != space.num_positions:
        raise ValueError(f'the blocks do not make up a path of {space.name}, which has {space.num_positions} positions')
    blocks = [sorted(block.items(), key=lambda item: (item[1], item[0])) for block in losses]
    costs = _block_costs(space, blocks, limits)
    allowed = np.array([float(value) for value in limits.largest.values()]) * (1 + _ROUNDING)
    # What the blocks from each one on cost and lose at least.
    least_loss = np.append(np.cumsum([block[0][1] for block in reversed(blocks)])[::-1], 0.0)
    least_cost = np.zeros((len(blocks) + 1, len(limits.largest)))
    for depth in reversed(range(len(blocks))):
        least_cost[depth] = least_cost[depth + 1] + costs[depth].min(axis=0)
    worst_first: list[tuple[float, tuple[int, ...], ChoicePath]] = []  # a heap of (-loss, -path, path)

    def visit(depth: int, beginning: ChoicePath, loss: float, cost: np.ndarray) -> None:
        if depth == len(blocks):
            if limits.allow(space, np.array([beginning]))[0]:
                item = (-loss, tuple(-choice for choice in beginning), beginning)
                if len(worst_first) < count:
                    heapq.heappush(worst_first, item)
                else:
                    heapq.heappushpop(worst_first, item)
            return
        for (part, own), price in zip(blocks[depth], costs[depth], strict=True):
            bound = loss + own + least_loss[depth + 1]
            if len(worst_first) == count and bound > -worst_first[0][0] + _ROUNDING * abs(bound):
                break  # the rest of the list loses more
            if (cost + price + least_cost[depth + 1] <= allowed).all():
                visit(depth + 1, beginning + part, loss + own, cost + price)

    visit(0, (), 0.0, _fixed_costs(space, limits))
    return [(path, -negative) for negative, _, path in sorted(worst_first, reverse=True)]


def _block_costs(
    space: Space, blocks: Sequence[Sequence[tuple[ChoicePath, float]]], limits: Limits
) -> list[np.ndarray]:
    """Limited costs of each block's choices, [M, number of limits] per block; 0 where costs do not add up."""
    if not isinstance(space, AdditiveSpace):
        return [np.zeros((len(block), len(limits.largest))) for block in blocks]
    costs, start = [], 0
    for block in blocks:
        parts = np.array([part for part, _ in block])
        positions = np.arange(start, start + parts.shape[1])
        tables = [space.cost_table.per_choice[name][positions, parts].sum(axis=1) for name in limits.largest]
        costs.append(np.stack(tables, axis=1) if tables else np.zeros((len(block), 0)))
        start += parts.shape[1]
    return costs


def _fixed_costs(space: Space, limits: Limits) -> np.ndarray:
    fixed = space.cost_table.fixed if isinstance(space, AdditiveSpace) else {}
    return np.array([float(fixed.get(name, 0.0)) for name in limits.largest])
