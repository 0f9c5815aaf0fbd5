"""The backbone ``PiNAS``: our timm networks as a module of mmengine, with the conventions of mmdet's ``ResNet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit, update_init_info
from timm.models import checkpoint_seq
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import pinas_models  # noqa: F401  # registers the networks
from pinas_models.choices import VARIANTS, Choices, parse_choices
from pinas_models.common.text import one_line

from .weights import read_backbone

__all__ = ['PiNAS', 'resolve_choices']

_NAMED = {name.removeprefix('pinas_'): variant.choices for name, variant in VARIANTS.items() if variant.choices}
# By the length of the path.
_ARCHITECTURES = {sum(variant.layers): name for name, variant in VARIANTS.items() if variant.any_path}
_STAGES = 4
_STEM = ('conv1', 'bn1', 'act1', 'maxpool')


class PiNAS(BaseModule):
    """A network of the Π-NAS space as a backbone for MMDetection and MMSegmentation.

    The parameters have the names of our timm models (``conv1.0.weight``, ``layer1.0.conv1.weight``, ...), so in a
    detector they are ``backbone.`` and these names.

    Attributes:
        choices: The path.
        layers: Blocks per stage, of all four.
        out_channels: Channels of each feature map.
        out_strides: Pixels of the image per step of each feature map.
    """

    def __init__(
        self,
        choices: str | Sequence[int] | int,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_stride: int | None = None,
        stem_stride: int | None = None,
        frozen_stages: int = -1,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Build the network.

        Args:
            choices: ``'cls'``, ``'trans'``, ``'resnest50'`` (the baseline), ``'mini'`` (small), or a path: 16 digits
                0..3 as a string or sequence, 8 for a small network.
            in_channels: Channels of the image.
            out_indices: Stages whose feature maps are returned, 0..3 in rising order. Stages behind the last one are
                not built.
            output_stride: Pixels per step of the last feature map: 32 (None), 16 or 8 by the authors' dilation rule;
                a small network has half of that unless ``stem_stride`` is 4.
            stem_stride: Pixels per step behind the stem. None: 4, in a small network 2.
            frozen_stages: Stages that are not trained and whose BN keeps its statistics: -1 none, 0 the stem, k the
                stem and stages 1..k.
            norm_cfg: ``dict(type='BN')`` (None) or ``dict(type='SyncBN')``, with ``eps`` and ``momentum`` if they
                should differ. SyncBN is BN where there is no GPU. ``requires_grad=False`` does not train weight and
                bias of any BN; together with ``norm_eval`` this is a frozen BN.
            norm_eval: Keep the statistics of all BN in training.
            with_cp: Compute each block again in the backward pass, to save memory. As with mmdet's, BN statistics
                are then updated twice.
            pretrained: None. mmseg hands over the weights that a base config names for another backbone.
            init_cfg: Initialisation of mmengine. ``dict(type='Pretrained', checkpoint=...)`` takes a file of ours or of
                the authors, a name of timm (``'pinas_cls.in1k'``, ``'resnest50d.in1k'`` for ``'resnest50'``),
                ``'local-dir:FOLDER'``, ``'hf-hub:ORG/name'`` or a URL; with ``prefix='backbone.'`` if it is the
                checkpoint of a whole model. These weights must fit exactly.

        Raises:
            ValueError: For a value that is not allowed; the message says what is.
        """
        super().__init__(_with_our_loader(init_cfg))
        if pretrained is not None:
            raise ValueError(
                f'pretrained={pretrained!r} names the weights of another backbone, mostly by a base config: write '
                "pretrained=None in the model and init_cfg=dict(type='Pretrained', checkpoint=...) in the backbone"
            )
        out_indices = tuple(out_indices)
        if not out_indices or out_indices != tuple(sorted(set(out_indices) & set(range(_STAGES)))):
            raise ValueError(f'out_indices is {out_indices}; allowed are stages 0..{_STAGES - 1} in rising order')
        if frozen_stages not in range(-1, _STAGES + 1):
            raise ValueError(f'frozen_stages is {frozen_stages!r}; allowed are -1..{_STAGES}')
        architecture, path = resolve_choices(choices)
        norm_cfg = dict(norm_cfg or {'type': 'BN'})
        trains_norm = norm_cfg.pop('requires_grad', True)
        network = timm.create_model(
            architecture,
            choices=path,
            num_classes=0,
            in_chans=in_channels,
            output_stride=output_stride,
            stem_stride=stem_stride,
            norm_layer=_norm_layer(norm_cfg),
        )
        self.choices = path
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.out_channels = [network.feature_info[i + 1]['num_chs'] for i in out_indices]
        self.out_strides = [network.feature_info[i + 1]['reduction'] for i in out_indices]
        self.layers = tuple(len(network.get_submodule(f'layer{s}')) for s in range(1, _STAGES + 1))
        self._stages = tuple(f'layer{s}' for s in range(1, out_indices[-1] + 2))
        # The modules themselves, not the network that holds them, so that names in a detector have no word between.
        for name in (*_STEM, *self._stages):
            self.add_module(name, network.get_submodule(name))
        if not trains_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        self._freeze_stages()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images [N, C, H, W] to a tuple of feature maps, one per index in ``out_indices``."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        features = []
        for index, name in enumerate(self._stages):
            stage = self.get_submodule(name)
            recompute = self.with_cp and torch.is_grad_enabled()
            x = checkpoint_seq(stage, x, use_reentrant=False) if recompute else stage(x)
            if index in self.out_indices:
                features.append(x)
        return tuple(features)

    def train(self, mode: bool = True) -> PiNAS:
        """Switch to training or evaluation; what is frozen stays so.

        Args:
            mode: Training.
        """
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        frozen = [] if self.frozen_stages < 0 else [*_STEM, *self._stages[: self.frozen_stages]]
        for name in frozen:
            self.get_submodule(name).eval().requires_grad_(False)


class _Weights:
    """mmengine's initializer ``Pretrained`` for this backbone: mmengine's own loads what matches and logs the rest."""

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: object = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix  # the weights are copied to wherever the backbone is, whatever map_location says

    def __call__(self, backbone: PiNAS) -> None:
        weights = read_backbone(self.checkpoint, backbone.choices, backbone.layers, self.prefix)
        built = {name for name, _ in backbone.named_children()}
        weights = {name: tensor for name, tensor in weights.items() if name.split('.')[0] in built}
        try:
            backbone.load_state_dict(weights, strict=True)
        except RuntimeError as error:  # other input channels
            raise ValueError(f'{self.checkpoint} does not fit this backbone: {one_line(error)}') from error
        update_init_info(backbone, init_info=f'PiNAS: weights of {self.checkpoint}')


def _with_our_loader(
    init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> list[Mapping[str, Any]] | None:
    """Replace mmengine's ``Pretrained``, last so that it overwrites other initialisations."""
    if init_cfg is None:
        return None
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg)
    pretrained = [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', PretrainedInit)]
    return [cfg for cfg in cfgs if cfg not in pretrained] + [{**cfg, 'type': _Weights} for cfg in pretrained]


def resolve_choices(choices: str | Sequence[int] | int) -> tuple[str, Choices]:
    """Find the network that a config names.

    Args:
        choices: See ``PiNAS``. An integer is what the command line makes of digits.

    Returns:
        Name of timm, and the path.

    Raises:
        ValueError: If there is no such network.
    """
    if isinstance(choices, str) and choices in _NAMED:
        path = _NAMED[choices]
        return _ARCHITECTURES[len(path)], path
    if isinstance(choices, int) and len(str(choices)) in _ARCHITECTURES:
        choices = str(choices)
    if isinstance(choices, int):
        raise ValueError(
            f'choices is the number {choices}: digits on a command line lose the zeros in front; write a list, '
            'choices=[0,0,1,...]'
        )
    if (isinstance(choices, str) and not choices.isdigit()) or not isinstance(choices, (str, Sequence)):
        names = ', '.join(map(repr, _NAMED))
        raise ValueError(f'choices is {choices!r}; allowed are {names}, 16 digits 0..3, or 8 for a small network')
    length = len(choices) if len(choices) in _ARCHITECTURES else 16
    return _ARCHITECTURES[length], parse_choices(choices, length)


def _norm_layer(norm_cfg: Mapping[str, Any]) -> partial[nn.Module]:
    options = dict(norm_cfg)
    kind = options.pop('type', None)
    layers: dict[Any, type[nn.Module]] = {'BN': nn.BatchNorm2d, 'BN2d': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}
    if kind not in layers or options.keys() - {'eps', 'momentum'}:
        raise ValueError(
            f'norm_cfg is {dict(norm_cfg)}; allowed are type BN or SyncBN, and eps, momentum, requires_grad (the '
            'groups of choices 2 and 3 have widths that other norms cannot divide)'
        )
    # SyncBatchNorm refuses to train on a CPU in a process group. The names in a state dict are the same.
    synchronised = kind == 'SyncBN' and torch.cuda.is_available()
    return partial(layers[kind] if synchronised else nn.BatchNorm2d, **options)
