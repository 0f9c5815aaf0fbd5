"""Predictions drawn onto images, by the visualizers of mmdet and mmseg, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .files import output_names

__all__ = ['Painter', 'PaintingHook']

_ALPHA = 0.6  # of the colours over the image


class Painter:
    """Draws boxes and masks, or a segmentation, into files."""

    def __init__(self, metainfo: Mapping[str, Any], score_thr: float = 0.3) -> None:
        """Take the names and colours of the classes.

        Args:
            metainfo: Of a dataset.
            score_thr: Objects with a lower score are left out.
        """
        self.score_thr = score_thr
        palette = metainfo.get('palette')
        # A tuple would be one colour for all.
        self._meta = {**metainfo, 'palette': list(palette) if isinstance(palette, (list, tuple)) else palette}
        self._visualizers: dict[str, Any] = {}

    def __call__(self, image: np.ndarray, sample: Any, file: Path) -> None:
        """Draw a prediction.

        Args:
            image: [H, W, 3], RGB, uint8.
            sample: Data sample of mmdet or mmseg, of the size of the image.
            file: The suffix says the format.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {'draw_gt': False, 'out_file': str(file)}
        if 'pred_sem_seg' not in sample:
            options['pred_score_thr'] = np.nextafter(
                np.float32(self.score_thr), np.float32(-1)
            )  # it leaves out equal ones
        self._visualizer('pred_sem_seg' in sample).add_datasample(file.stem, image, sample, **options)

    def _visualizer(self, segmentation: bool) -> Any:
        if segmentation:
            from mmseg.visualization import SegLocalVisualizer as Visualizer
        else:
            from mmdet.visualization import DetLocalVisualizer as Visualizer
        if Visualizer.__name__ not in self._visualizers:
            visualizer = Visualizer(alpha=_ALPHA)
            visualizer.dataset_meta = self._meta
            self._visualizers[Visualizer.__name__] = visualizer
        return self._visualizers[Visualizer.__name__]


class PaintingHook(Hook):
    """Draws the predictions of a test."""

    def __init__(self, painter: Painter, folder: Path) -> None:
        """Write into a folder.

        Args:
            painter: Draws.
            folder: Made when it is needed.
        """
        self.painter = painter
        self.folder = folder
        self._names: dict[Path, str] = {}

    def before_test(self, runner: Runner) -> None:
        """Give each image of the dataset a name."""
        dataset = runner.test_dataloader.dataset
        self._names = output_names([Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))])

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        for sample in outputs or ():
            path = Path(sample.img_path)
            image = mmcv.imread(path, channel_order='rgb')
            self.painter(image, sample, self.folder / f'{self._names[path]}.jpg')
