"""The heads of the authors' DeepLabV3 (PyTorch-Encoding) for MMSegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads import FCNHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

__all__ = ['EncodingDeepLabHead', 'EncodingFCNHead']

_CROSS_ENTROPY = {'type': 'CrossEntropyLoss', 'use_sigmoid': False, 'loss_weight': 1.0, 'avg_non_ignore': True}


class EncodingDeepLabHead(BaseDecodeHead):
    """ASPP, projection, one 3x3 convolution, classifier.

    mmseg's ``ASPPHead`` has the pooled branch first and no projection. The names are the authors' (``aspp.b0.0``,
    ``aspp.b4.gap.1``, ``aspp.project.0``, ``block.0``), except that their classifier ``block.4`` is ``conv_seg`` here.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        channels: int = 256,
        *,
        num_classes: int,
        in_index: int = -1,
        dilations: Sequence[int] = (12, 24, 36),
        project_dropout_ratio: float = 0.5,
        dropout_ratio: float = 0.1,
        norm_cfg: Mapping[str, Any] | None = None,
        align_corners: bool = True,
        loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        ignore_index: int = 255,
        sampler: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Build the head.

        Args:
            in_channels: Channels of the feature map.
            channels: Channels of every layer.
            num_classes: Classes.
            in_index: Feature map of the backbone that is used.
            dilations: Dilation of the three 3x3 branches, at stride 8.
            project_dropout_ratio: Dropout of whole channels behind the projection.
            dropout_ratio: Dropout of single elements before the classifier.
            norm_cfg: Norm of mmcv; None is BN.
            align_corners: How the logits are enlarged; the authors' weights need True.
            loss_decode: Loss or losses of mmseg; None is cross-entropy, averaged over the pixels that are not ignored.
            ignore_index: Label that does not count.
            sampler: Pixel sampler of mmseg.
            init_cfg: Initialisation of mmengine. None leaves torch's, as the authors did; mmseg's other heads draw
                the classifier from N(0, 0.01).
        """
        super().__init__(
            in_channels,
            channels,
            num_classes=num_classes,
            out_channels=num_classes,
            dropout_ratio=dropout_ratio,
            norm_cfg=dict(norm_cfg or {'type': 'BN'}),
            in_index=in_index,
            loss_decode=_CROSS_ENTROPY if loss_decode is None else loss_decode,
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=init_cfg,
        )
        self.dropout = nn.Dropout(dropout_ratio)  # mmseg's drops whole channels
        self.aspp = _ASPP(in_channels, channels, dilations, project_dropout_ratio, self.norm_cfg)
        self.block = _layer(channels, channels, self.norm_cfg, kernel=3)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [N, classes, H, W] at the stride of the feature map, from the backbone's feature maps."""
        return self.cls_seg(self.block(self.aspp(self._transform_inputs(inputs))))


class EncodingFCNHead(FCNHead):
    """The authors' auxiliary head: mmseg's ``FCNHead`` with one convolution, and dropout of single elements."""

    def __init__(
        self,
        in_channels: int = 1024,
        channels: int = 256,
        *,
        num_classes: int,
        in_index: int = -2,
        dropout_ratio: float = 0.1,
        norm_cfg: Mapping[str, Any] | None = None,
        align_corners: bool = True,
        loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        ignore_index: int = 255,
        sampler: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Build the head; see ``EncodingDeepLabHead``. The default loss weighs 0.2, as PyTorch-Encoding's."""
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            num_classes=num_classes,
            out_channels=num_classes,
            num_convs=1,
            concat_input=False,
            dropout_ratio=dropout_ratio,
            norm_cfg=dict(norm_cfg or {'type': 'BN'}),
            in_index=in_index,
            loss_decode={**_CROSS_ENTROPY, 'loss_weight': 0.2} if loss_decode is None else loss_decode,
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=init_cfg,
        )
        self.dropout = nn.Dropout(dropout_ratio)


class _ASPP(nn.Module):
    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        dropout_ratio: float,
        norm_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.b0 = _layer(in_channels, channels, norm_cfg)
        for index, dilation in enumerate(dilations, start=1):
            self.add_module(f'b{index}', _layer(in_channels, channels, norm_cfg, kernel=3, dilation=dilation))
        self.add_module(f'b{len(dilations) + 1}', _Pool(in_channels, channels, norm_cfg))  # last in the concatenation
        self.branches = tuple(f'b{index}' for index in range(len(dilations) + 2))
        self.project = nn.Sequential(
            *_layer(len(self.branches) * channels, channels, norm_cfg), nn.Dropout2d(dropout_ratio)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(torch.cat([self.get_submodule(branch)(x) for branch in self.branches], dim=1))


class _Pool(nn.Module):
    """The mean over the whole map, everywhere."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_layer(in_channels, channels, norm_cfg))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gap(x).expand(-1, -1, *x.shape[2:])  # the authors' bilinear enlargement of one pixel is this


def _layer(
    in_channels: int, channels: int, norm_cfg: Mapping[str, Any], kernel: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation if kernel == 3 else 0
    conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, build_norm_layer(dict(norm_cfg), channels)[1], nn.ReLU(inplace=True))
