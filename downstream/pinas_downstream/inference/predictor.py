"""A trained detector or segmentor, applied to image files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope

from pinas_models.common.images import opened

from ..checks.datasets import build_datasets
from ..checks.model import check_channels, check_num_classes
from ..config.classes import set_classes
from ..patches.checkpoints import load_weights, read

__all__ = ['Predictor', 'read_image']


class Predictor:
    """A model with its weights and its preparation of images.

    Attributes:
        model: In eval mode.
        metainfo: Of the test dataset: ``classes``, ``palette``.
    """

    def __init__(self, config: Config, checkpoint: str, device: torch.device) -> None:
        """Build the model and load its weights.

        Args:
            config: Complete; the data need not be there. Its classes become those that the checkpoint names.
            checkpoint: All weights of the model.
            device: Where it runs.

        Raises:
            OSError: If the checkpoint is missing.
            ValueError: If it does not fit the model, or the model does not fit the classes.
        """
        content = read(checkpoint, map_location='cpu')
        known = content.get('meta', {}).get('dataset_meta') if isinstance(content, dict) else None
        if isinstance(known, Mapping) and known.get('classes'):
            set_classes(config, known['classes'], known.get('palette'))
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmengine')):
            self.model = MODELS.build(config.model)
            name, dataset = next(build_datasets(config.test_dataloader.dataset, 'test_dataloader.dataset'))
            self.metainfo: dict[str, Any] = dataset.metainfo
            check_num_classes(config, self.metainfo.get('classes'), name)
            steps = [step for step in dataset.pipeline.transforms if 'Annotations' not in type(step).__name__]
            self._pipeline = Compose(steps)
        check_channels(self.model)
        load_weights(self.model, checkpoint, content)
        self.model.to(device).eval()

    @torch.no_grad()
    def __call__(self, path: Path) -> Any:
        """Predict an image; returns the data sample of mmdet or mmseg, on the CPU."""
        data = self._pipeline({'img_path': str(path), 'img_id': 0})
        return self.model.test_step({'inputs': [data['inputs']], 'data_samples': [data['data_samples']]})[0].cpu()


def read_image(path: Path) -> np.ndarray:
    """Read an image, turned upright as its EXIF orientation says.

    Args:
        path: File.

    Returns:
        [H, W, 3], RGB, uint8, as the pipelines of mmdet and mmseg read it.

    Raises:
        OSError: If it cannot be read, is cut off, or is none.
    """
    try:
        with opened(path) as image:  # OpenCV fills the rest of a file that is cut off with grey
            image.load()
        pixels = mmcv.imread(path, channel_order='rgb')
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise OSError(f'cannot read {path} ({" ".join(str(error).split()) or type(error).__name__})') from error
    if pixels is None:
        raise OSError(f'cannot read {path} (OpenCV does not know this kind of image)')
    return pixels
