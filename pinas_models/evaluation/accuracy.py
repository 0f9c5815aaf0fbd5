"""Counting what a classifier gets right, and how sure that makes us."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from timm.data import RealLabelsImagenet
from torch import Tensor

__all__ = ['Counts', 'RealLabels', 'wilson_interval']


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a probability that was seen as ``correct`` out of ``total`` (Wilson 1927).

    Unlike the normal approximation it stays in [0, 1] and keeps its coverage near 0 and 1.

    Args:
        correct: Number of successes.
        total: Number of trials.
        confidence: Coverage of the interval.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: If ``correct`` is not within 0 and ``total``, or ``total`` is 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f'{correct} of {total} is no proportion')
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt((share * (1 - share) + z * z / (4 * total)) / total)
    scale = 1 + z * z / total
    # At 0 and 1 the ends are exact; the formula leaves a rounding error there.
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == total else (centre + half) / scale
    return low, high


class RealLabels:
    """The reassessed labels of ImageNet's validation images (ReaL, Beyer et al. 2020, arXiv:2006.07159).

    An image may have several labels, each of which is right, or none, and is then not counted.
    """

    def __init__(self, names: Sequence[str], path: str | Path | None = None) -> None:
        """Read the labels.

        Args:
            names: File names of the images in their order, ``ILSVRC2012_val_00000001.JPEG`` to ``..._00050000.JPEG``.
            path: The published ``real.json``; None for the copy that comes with timm.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it does not hold a list of labels, or the images are not those it belongs to.
        """
        try:
            known = RealLabelsImagenet(list(names), real_json=path).real_labels
        except AssertionError:
            raise ValueError(
                f'ReaL labels and images differ in number ({len(names)} images): they are for the 50,000 images of '
                "ImageNet's validation set"
            ) from None
        except (ValueError, TypeError) as error:
            raise ValueError(f'{path} holds no ReaL labels, a JSON list with a list of classes per image') from error
        missing = next((name for name in names if Path(name).name not in known), None)
        if missing is not None:
            raise ValueError(
                f"there is no ReaL label for the image {missing}: they are for the file names of ImageNet's validation "
                'set, ILSVRC2012_val_00000001.JPEG and so on'
            )
        self._labels: list[frozenset[int]] = [frozenset(known[Path(name).name]) for name in names]

    def __getitem__(self, index: int) -> frozenset[int]:
        """The right classes of an image; empty if it is not to be counted."""
        return self._labels[index]


@dataclass
class Counts:
    """How many images were classified, and how many rightly.

    Attributes:
        images: Images with a label.
        top1: Of these, those whose class has the highest score.
        top5: Those whose class is among the five highest scores.
        real_images: Images with at least one ReaL label.
        real_top1: Of these, those for which the class with the highest score is such a label.
        real_top5: Those for which one of the five highest scores is.
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    real_images: int = 0
    real_top1: int = 0
    real_top5: int = 0

    def add(
        self, logits: Tensor, targets: Tensor, indices: Sequence[int], real_labels: RealLabels | None = None
    ) -> Tensor:
        """Count a batch.

        Args:
            logits: Scores [N, classes].
            targets: Classes of the images, int64 [N].
            indices: Positions of the images in the data set.
            real_labels: Labels to count ``real_*`` by.

        Returns:
            Whether the highest score is right, bool [N], on the CPU.
        """
        best = logits.topk(min(5, logits.shape[1])).indices.cpu()
        hits = best == targets.cpu().unsqueeze(1)
        self.images += len(targets)
        self.top1 += int(hits[:, 0].sum())
        self.top5 += int(hits.sum())
        if real_labels is not None:
            for index, classes in zip(indices, best.tolist(), strict=True):
                labels = real_labels[index]
                self.real_images += bool(labels)
                self.real_top1 += classes[0] in labels
                self.real_top5 += not labels.isdisjoint(classes)
        return hits[:, 0]
