"""The authors' multi-scale evaluation in MMSegmentation: as a test mode, and as a model for ``--tta``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from mmengine.model import BaseTTAModel
from mmseg.models.segmentors import EncoderDecoder
from torch import nn

from .evaluator import MultiEvalSettings, multi_eval

__all__ = ['MultiEval', 'MultiEvalEncoderDecoder']


class MultiEvalEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` with one more test mode.

    ``test_cfg=dict(mode='multi_eval', base_size=520, crop_size=480, scales=(.5, ...), flip=True)``, see
    ``MultiEvalSettings``. The modes ``whole`` and ``slide`` are mmseg's. The images must come in their original size:
    a test pipeline for this mode has no ``Resize``.
    """

    def inference(self, inputs: torch.Tensor, batch_img_metas: list[dict[str, Any]]) -> torch.Tensor:
        """Logits of mmseg, or log scores of the authors' evaluation, [N, classes, H, W] for images [N, 3, H, W]."""
        options = dict(self.test_cfg or {})
        if options.pop('mode', None) != 'multi_eval':
            return super().inference(inputs, batch_img_metas)
        return _score(self, inputs, MultiEvalSettings(**options))


class MultiEval(BaseTTAModel):
    """The same around any segmentor of mmseg, in the place of its ``SegTTAModel``.

    ``tta_model=dict(type='MultiEval', base_size=520, crop_size=480, scales=(.5, ...))``, and a ``tta_pipeline`` that
    loads and packs the image in its original size, without ``Resize`` and without ``TestTimeAug``.
    """

    def __init__(
        self,
        module: nn.Module | dict[str, Any],
        base_size: int,
        crop_size: int,
        scales: Sequence[float] = MultiEvalSettings.scales,
        flip: bool = True,
        data_preprocessor: nn.Module | dict[str, Any] | None = None,
    ) -> None:
        """Wrap a segmentor.

        Args:
            module: Segmentor or its config.
            base_size: See ``MultiEvalSettings``.
            crop_size: See ``MultiEvalSettings``.
            scales: See ``MultiEvalSettings``.
            flip: See ``MultiEvalSettings``.
            data_preprocessor: Replaces that in the segmentor's config.
        """
        super().__init__(module, data_preprocessor)
        self.settings = MultiEvalSettings(base_size, crop_size, scales, flip)

    def test_step(self, data: Mapping[str, Any]) -> list[Any]:
        """Predict a batch of the dataloader: samples with ``pred_sem_seg`` and ``seg_logits`` (log scores)."""
        batch = self.module.data_preprocessor(data, False)
        scores = _score(self.module, batch['inputs'], self.settings)
        return self.module.postprocess_result(scores, batch['data_samples'])

    def merge_preds(self, data_samples_list: list[Any]) -> NoReturn:
        """Not used: the images are not augmented by the pipeline.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('MultiEval merges scales and mirror images itself')


def _score(segmentor: EncoderDecoder, images: torch.Tensor, settings: MultiEvalSettings) -> torch.Tensor:
    if segmentor.out_channels == 1:
        raise ValueError('the multi-scale evaluation ranks classes; this segmentor has a single output and a threshold')

    def logits(window: torch.Tensor) -> torch.Tensor:
        # mmseg enlarges the logits to the size that it finds here.
        return segmentor.encode_decode(window, [{'img_shape': window.shape[2:]}] * len(window))

    mean = getattr(segmentor.data_preprocessor, 'mean', None)
    black = None if mean is None else (-mean / segmentor.data_preprocessor.std).flatten()
    return multi_eval(logits, images, settings, black)
