"""Random search, the baseline of every strategy."""

from __future__ import annotations

from ..spaces import Path
from .base import Strategy

__all__ = ['RandomStrategy']


class RandomStrategy(Strategy):
    """Uniform over the paths that satisfy the limits, without repeats."""

    def _propose(self) -> Path:
        return self._pool.draw(self._generator(), self.seen)
