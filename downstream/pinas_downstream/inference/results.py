"""What a detector or segmentor found in an image, as JSON and as a map of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ['CocoPredictions', 'class_shares', 'save_class_map']


class CocoPredictions:
    """Objects of many images, in COCO's format.

    A category's id is the model's class + 1. Masks are compressed run lengths.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Start without images.

        Args:
            classes: Names in the model's order.
        """
        self.classes = list(classes)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, path: Path, sample: Any, score_thr: float) -> list[dict[str, Any]]:
        """Add the objects of an image.

        Args:
            path: The image.
            sample: Data sample of mmdet, in the original size.
            score_thr: Objects with a lower score are left out.

        Returns:
            The new annotations: ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score``,
            ``segmentation``, ``area`` in pixels.
        """
        from pycocotools import mask as rle

        height, width = sample.ori_shape
        image = {'id': len(self._images) + 1, 'file_name': str(path), 'height': height, 'width': width}
        self._images.append(image)
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr].numpy()
        added = []
        for index, (box, label, score) in enumerate(zip(found.bboxes, found.labels, found.scores, strict=True)):
            x1, y1, x2, y2 = (round(float(value), 2) for value in box)
            annotation = {
                'id': len(self._annotations) + 1,
                'image_id': image['id'],
                'category_id': int(label) + 1,
                'bbox': [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                'area': round((x2 - x1) * (y2 - y1), 2),
                'iscrowd': 0,
                'score': round(float(score), 4),
            }
            if 'masks' in found:
                mask = rle.encode(np.asfortranarray(found.masks[index], dtype=np.uint8))
                annotation['area'] = int(rle.area(mask))
                annotation['segmentation'] = {'size': mask['size'], 'counts': mask['counts'].decode()}
            self._annotations.append(annotation)
            added.append(annotation)
        return added

    def content(self) -> dict[str, Any]:
        """All images, as the content of a file that pycocotools reads."""
        categories = [{'id': index + 1, 'name': name} for index, name in enumerate(self.classes)]
        return {'images': self._images, 'annotations': self._annotations, 'categories': categories}


def class_shares(sample: Any, classes: Sequence[str]) -> dict[str, float]:
    """Share of the pixels of each class that is in an image, the largest first.

    Args:
        sample: Data sample of mmseg.
        classes: Names in the model's order.
    """
    labels, counts = np.unique(sample.pred_sem_seg.data.numpy(), return_counts=True)
    pairs = sorted(zip(counts.tolist(), labels.tolist(), strict=True), reverse=True)
    return {classes[label]: round(count / counts.sum().item(), 4) for count, label in pairs}


def save_class_map(sample: Any, file: Path) -> None:
    """Write the class of each pixel as a grey PNG, 0 the first class of the model.

    Args:
        sample: Data sample of mmseg.
        file: Ends in ``.png``.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = sample.pred_sem_seg.data[0].numpy()
    Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16)).save(file)
