"""The boundary between what scores paths and everything else."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..config import Config, ViewConfig
from ..data import Splits
from ..spaces import ChoicePath, Space
from ..supernets import Supernet

__all__ = ['OffersScorers', 'Predictor', 'Score', 'Scorer', 'Tools', 'pack', 'unpack']


@dataclass(frozen=True)
class Score:
    """What is known about a path.

    Attributes:
        value: What paths are ordered by; bigger is better.
        extra: Further measures by name, such as ``accuracy`` and ``cross_entropy``.
        correct: Which images were right, from ``pack``; empty if the scorer does not look at images.
    """

    value: float
    extra: Mapping[str, float] = field(default_factory=dict)
    correct: str = ''


class Scorer(Protocol):
    """Scores paths. A new scorer is one module with ``Options`` and ``create(tools, options) -> Scorer``.

    Its module may say ``NEEDS = frozenset()`` if it works without what earlier stages leave; by default it needs the
    ``supernet`` and the ``classifier``.
    """

    @property
    def facts(self) -> Mapping[str, object]:
        """What a reader must know of the scores, in the types of JSON: how many images, how calibrated."""

    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Score paths, in any order; one score per path."""


class Predictor(Scorer, Protocol):
    """A scorer that learns from labelled paths."""

    def observe(self, paths: Sequence[ChoicePath], values: Sequence[float]) -> None:
        """Take paths and their values; bigger is better."""


class OffersScorers(Protocol):
    """A trained method, as far as scoring knows it."""

    def scorers(self, tools: Tools) -> dict[str, Scorer]:
        """Scores of the method's own, by name."""


class Tools(Protocol):
    """What a scorer may use of a run."""

    @property
    def config(self) -> Config:
        """The configuration."""

    @property
    def space(self) -> Space:
        """The space."""

    @property
    def splits(self) -> Splits:
        """The images."""

    def autocast(self) -> torch.autocast:
        """Context of forward passes."""

    def augment(self, images: torch.Tensor, views: ViewConfig, purpose: str, step: int) -> torch.Tensor:
        """Change colours, blur, flip and normalise random crops [V, N, 3, S, S] in 0..1; same shape."""

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images [N, 3, S, S] in 0..1; same shape."""

    def load_supernet(self) -> Supernet:
        """The supernet that the learning stage left."""

    def load_classifier(self) -> nn.Linear:
        """The classifier that the linear stage left."""

    def build_method(self) -> OffersScorers:
        """The method before its first step."""

    def load_method(self) -> OffersScorers:
        """The method with everything that the learning stage left."""


def pack(correct: torch.Tensor) -> str:
    """Write which images were right, bool [N], as text: count, colon, compressed bits."""
    bits = zlib.compress(np.packbits(correct.cpu().numpy()).tobytes(), 9)
    return f'{len(correct)}:{base64.b85encode(bits).decode("ascii")}'


def unpack(text: str) -> np.ndarray:
    """Read what ``pack`` wrote: bool [N].

    Raises:
        ValueError: If it is damaged.
    """
    count, _, bits = text.partition(':')
    try:
        return np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(bits)), np.uint8), count=int(count)) == 1
    except (ValueError, zlib.error) as error:
        raise ValueError(f'the record of right and wrong images is damaged: {text[:40]!r}') from error
