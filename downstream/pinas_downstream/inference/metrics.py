"""mmseg's IoU metric with the value of each class in its result, where mmseg prints a table and forgets it."""

from __future__ import annotations

from mmengine.registry import METRICS
from mmseg.evaluation.metrics import IoUMetric

__all__ = ['ClassIoUMetric']


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """``IoUMetric`` that also returns ``IoU.<class>`` and ``Acc.<class>`` in percent."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics.

        Args:
            results: Per image the pixels, per class, of intersection, union, prediction and label.

        Returns:
            mmseg's means, and the values of the classes. A class that is in no image has NaN.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        areas = [sum(area) for area in zip(*results, strict=True)]
        values = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        for name in ('IoU', 'Acc'):
            for label, value in zip(self.dataset_meta['classes'], values.get(name, ()), strict=False):
                metrics[f'{name}.{label}'] = round(100 * float(value), 2)
        return metrics
