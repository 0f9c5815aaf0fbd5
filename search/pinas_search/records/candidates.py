"""The record of a scored path, as the study, its export and the report share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ['Candidate']


@dataclass(frozen=True)
class Candidate:
    """A scored path.

    Attributes:
        number: Order of evaluation, from 0.
        path: The path as digits.
        score: Its score as it is shown: top-1 accuracy inside the supernet, 0..1, where that is the scorer.
        params: Parameters.
        macs: Multiply-accumulates for one image.
        seconds: Time of the evaluation.
        value: What candidates are ordered by; the score, and cross-entropy where scores tie.
        cross_entropy: Mean cross-entropy on the held-out images; None if the scorer does not measure it.
        correct: Which held-out images were right, as ``pinas_search.scoring.pack`` writes it; empty if not known.
        extra: Further costs and measures, by name.
    """

    number: int
    path: str
    score: float
    params: int
    macs: int
    seconds: float
    value: float | None = None
    cross_entropy: float | None = None
    correct: str = ''
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def order(self) -> tuple[float, int]:
        """Sorts the best first; ties go to the one that was evaluated first."""
        return -(self.score if self.value is None else self.value), self.number
