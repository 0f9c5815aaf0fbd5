"""Candidate evaluation: recalibrate a path's BN, then top-1 of the linear classifier on the held-out images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..spaces import ChoicePath
from .base import Score, Tools, pack
from .images import EvaluationImages
from .recalibrate import keeps_statistics, recalibrate_bn
from .sharing import ManyPaths

__all__ = ['NEEDS', 'CandidateEvaluator', 'Judgement', 'Options', 'check', 'create', 'judge']

NEEDS = frozenset({'supernet', 'classifier'})
# Cross-entropy decides between equal accuracies and nothing else: up to 100 nats it moves a score by at most 5e-6, and
# different accuracies on up to 100,000 images are at least 1e-5 apart.
_TIE = 5e-8
# Sorted paths that are scored together. More share little more; their statistics take memory.
_TOGETHER = 256


@dataclass(frozen=True)
class Options:
    """The evaluation is configured at ``search.evaluate``; there is nothing more to choose."""


@dataclass(frozen=True)
class Judgement:
    """What a network does with labelled images.

    Attributes:
        correct: Which images were right, bool [N] on the CPU.
        cross_entropy: Mean cross-entropy, in nats.
    """

    correct: torch.Tensor
    cross_entropy: float

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0..1."""
        return int(self.correct.sum()) / len(self.correct)

    @property
    def score(self) -> Score:
        """Accuracy, and the lower cross-entropy where accuracies tie."""
        value = self.accuracy - _TIE * min(self.cross_entropy, 100.0)
        return Score(value, {'accuracy': self.accuracy, 'cross_entropy': self.cross_entropy}, pack(self.correct))


class _Tally:
    """Counts what a network does, batch by batch; nothing waits for the device before the end."""

    def __init__(self) -> None:
        self._correct: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self._correct.append(logits.argmax(1) == labels)
        self._losses.append(F.cross_entropy(logits.float(), labels, reduction='none').double())

    def judgement(self) -> Judgement:
        loss = float(torch.cat(self._losses).mean())
        return Judgement(torch.cat(self._correct).cpu(), loss if loss == loss else float('inf'))


@torch.no_grad()
def judge(
    network: Callable[[torch.Tensor], torch.Tensor], batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> Judgement:
    """Judge ``network`` (normalised images [N, 3, H, W] -> logits [N, C]) by batches of (images, labels)."""
    tally = _Tally()
    for images, labels in batches:
        tally.add(network(images), labels)
    return tally.judgement()


class CandidateEvaluator:
    """Scores paths of a supernet (paper section 3.3). Every path sees the same images in the same order.

    Attributes:
        num_calibration: Images of the recalibration; 0 without it.
        num_scored: Images behind a score.
        facts: The same, for the report.
    """

    def __init__(self, tools: Tools) -> None:
        """Prepare the evaluation.

        Args:
            tools: Supernet, classifier, images and settings; BN statistics of the supernet are overwritten path by
                path.

        Raises:
            ValueError: If there are no held-out images.
        """
        config = tools.config.search.evaluate
        self._images = EvaluationImages(tools)
        if not config.recalibrate:
            warnings.warn(
                'search.evaluate.recalibrate is off: scores then mix the BN statistics of all paths and rank them '
                'hardly better than chance; use it for comparison only',
                stacklevel=2,
            )
        self.supernet, self.classifier = tools.load_supernet(), tools.load_classifier()
        self.config, self.autocast = config, tools.autocast
        self.num_calibration, self.num_scored = self._images.num_calibration, self._images.num_scored
        tracked = 'recalibrated' if config.recalibrate else 'running statistics'
        # Layers without running statistics, if the supernet has any, use those of the batch that is scored.
        batch_norm = tracked if keeps_statistics(self.supernet) else 'batch statistics'
        self.facts: dict[str, object] = {**self._images.facts, 'batch_norm': batch_norm}

    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Top-1 accuracy of paths on the held-out images, after recalibration.

        With ``share_prefixes`` the score of a path does not depend on the others: what they share has the same bits as
        what a path computes alone.
        """
        if not self.config.share_prefixes:
            return [self._judge(path).score for path in paths]
        judged: dict[ChoicePath, Judgement] = {}
        distinct = sorted(set(paths))
        for start in range(0, len(distinct), _TOGETHER):
            judged |= self._judge_together(distinct[start : start + _TOGETHER])
        return [judged[path].score for path in paths]

    @torch.no_grad()
    def _judge_together(self, paths: Sequence[ChoicePath]) -> dict[ChoicePath, Judgement]:
        tallies = {path: _Tally() for path in paths}
        with self.autocast():
            together = ManyPaths(self.supernet.eval(), paths)
            if self.config.recalibrate:
                together.recalibrate(
                    (images for images, _ in self._images.calibration()), variance=self.config.variance
                )
            for images, labels in self._images.scored():
                for path, feature_map in together.run(images):
                    tallies[path].add(self.classifier(self.supernet.features(feature_map)), labels)
        return {path: tally.judgement() for path, tally in tallies.items()}

    def _judge(self, path: ChoicePath) -> Judgement:
        supernet = self.supernet.eval()
        with self.autocast():
            if self.config.recalibrate:
                images = (images for images, _ in self._images.calibration())
                recalibrate_bn(supernet, path, images, variance=self.config.variance)
            return judge(lambda x: self.classifier(supernet.features(supernet(x, path))), self._images.scored())


def check(tools: Tools, options: Options) -> None:
    """Make sure before the learning that there will be something to score on.

    Raises:
        ValueError: If there are no held-out images.
    """
    EvaluationImages(tools)


def create(tools: Tools, options: Options) -> CandidateEvaluator:
    """Build the evaluator."""
    return CandidateEvaluator(tools)
