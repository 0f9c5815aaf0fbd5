"""Random numbers as a function of (seed, purpose, step), so that a resumed run draws what an unbroken one would."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['derive_seed', 'generator', 'seeded_scope']


def derive_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed for one purpose and step of the run ``seed``; different arguments give unrelated streams."""
    digest = hashlib.blake2b(f'{seed}/{purpose}/{step}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one purpose and step of the run ``seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, step))


@contextmanager
def seeded_scope(seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """Seed the global generators inside the block and restore them after it.

    Only for third-party code that takes no generator: weight initialisation, DropPath, timm's Mixup and RandomErasing.
    """
    value = derive_seed(seed, purpose, step)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
