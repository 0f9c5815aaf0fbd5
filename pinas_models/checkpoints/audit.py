"""Do the names and shapes of weights fit? One comparison, and one sentence per kind of fault, for all checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ..common.text import first_names

__all__ = ['COUNTER', 'MISSING', 'NO_WEIGHTS', 'UNKNOWN', 'WRONG_SHAPES', 'compare', 'describe']

COUNTER = 'num_batches_tracked'  # old checkpoints have none
MISSING, UNKNOWN, WRONG_SHAPES = 'missing names', 'unknown names', 'wrong shapes'
NO_WEIGHTS = 'tensors that are no floating-point numbers'


def compare(
    tensors: Mapping[str, torch.Tensor], expected: Iterable[tuple[Sequence[str], Sequence[int]]]
) -> dict[str, list[str]]:
    """Compare what a checkpoint holds with what it should hold.

    Args:
        tensors: What it holds.
        expected: The names that a tensor may have, one of which must be there, and its shape.

    Returns:
        Kind of fault -> what has it: names, with shapes or types where those are wrong. Counters may be missing.
    """
    faults: dict[str, list[str]] = {MISSING: [], UNKNOWN: [], WRONG_SHAPES: [], NO_WEIGHTS: []}
    known = set[str]()
    for names, shape in expected:
        known.update(names)
        present = [name for name in names if name in tensors]
        if not present and not names[0].endswith(COUNTER):
            faults[MISSING].append(names[0])
        for name in present:
            tensor = tensors[name]
            if tuple(tensor.shape) != tuple(shape):
                faults[WRONG_SHAPES].append(f'{name} {list(tensor.shape)} instead of {list(shape)}')
            elif not tensor.is_floating_point() and not name.endswith(COUNTER):
                faults[NO_WEIGHTS].append(f'{name} ({tensor.dtype})')
    faults[UNKNOWN] = [name for name in tensors if name not in known]
    return faults


def describe(faults: Mapping[str, Sequence[str]], remedies: Mapping[str, str] | None = None) -> str:
    """Put faults into words: how many of each kind, the first of them, what to do; nothing if there are none.

    Args:
        faults: See ``compare``; further kinds may be added.
        remedies: Kind of fault -> what to do about it.
    """
    remedies = remedies or {}
    return '; '.join(
        f'{kind}: {len(found)} ({first_names(found)})' + (f', {remedies[kind]}' if kind in remedies else '')
        for kind, found in faults.items()
        if found
    )
