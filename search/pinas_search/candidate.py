"""The record of a scored path, as the journal, its export and the report share it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ['Candidate']


@dataclass(frozen=True)
class Candidate:
    """A scored path.

    Attributes:
        number: Order of evaluation, from 0.
        path: The path as digits.
        score: Top-1 accuracy inside the supernet on the held-out images, 0..1.
        params: Parameters.
        macs: Multiply-accumulates for one image.
        seconds: Time of the evaluation.
    """

    number: int
    path: str
    score: float
    params: int
    macs: int
    seconds: float
