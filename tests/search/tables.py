"""Spaces with made-up costs, for whatever looks at paths and not at networks."""

from __future__ import annotations

import numpy as np

from pinas_search.spaces import AdditiveSpace, Choice, CostTable, Description, Group


class TableSpace(AdditiveSpace):
    """A space whose costs are given: tables [L, m], in which choices that a position lacks cost 0."""

    def __init__(self, name, num_choices, params, macs, fixed):
        self.name, self.num_choices = name, num_choices
        self._tables = {'params': np.asarray(params), 'macs': np.asarray(macs)}
        self._fixed = dict(zip(('params', 'macs'), fixed, strict=True))

    def _measure_costs(self):
        return CostTable(self._fixed, self._tables)

    def describe(self):
        positions = tuple(f'position {i}' for i in range(self.num_positions))
        choices = tuple(Choice(f'op{i}') for i in range(max(self.num_choices)))
        return Description(positions, (Group('all', tuple(range(self.num_positions))),), choices)

    def build(self, path, **options):
        raise NotImplementedError('these networks exist as costs only')


def toy(*num_choices):
    """Costs that differ at each position and choice."""
    rng = np.random.default_rng(0)
    exists = np.arange(max(num_choices)) < np.array(num_choices)[:, None]
    params, macs = (rng.integers(1, 100, size=exists.shape) * exists for _ in range(2))
    return TableSpace('toy', num_choices, params, macs, fixed=(100, 200))


def all_paths(space):
    """Every path [N, L] of a small space."""
    return np.array(list(np.ndindex(*space.num_choices)))
