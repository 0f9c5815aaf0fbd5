"""The Π-NAS model family: ResNet-50 whose 16 blocks are each one of four split-attention bottlenecks.

Paper: `Pi-NAS: Improving Neural Architecture Search by Reducing Supernet Training Consistency Shift`
    - https://arxiv.org/abs/2108.09671 (ICCV 2021)

The networks follow the authors' evaluation code (PyTorch-Encoding fork), re-implemented on timm's ``ResNet``. Parameter
names are the authors' classification names, which are also those of timm's ``resnest50d``. Three things differ from
timm's ResNeSt and are why this module has a bottleneck of its own: the width of the attention is not rounded, a dilated
stage keeps its average pool (``dilation_rule``), and stochastic depth drops the residual branch instead of the block's
input.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SplitAttn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import ResNet
from torch import nn

from .choices import BLOCK_CHOICES, VARIANTS, BlockChoice, parse_choices
from .pretrained import build_pretrained, fit_weights, translate_names

__all__ = ['PinasBottleneck', 'PinasNet']  # a list: register_model appends the entry functions

DILATION_RULES = ('encoding', 'timm')
STEM_STRIDES = (1, 2, 4)


class PinasBottleneck(nn.Module):
    """Bottleneck with a split-attention 3x3 convolution, also at radix 1 (so no ``bn2`` and no ReLU after it).

    Order: 1x1, BN, ReLU, split attention, average pool (``avd``), 1x1, BN, + shortcut, ReLU.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        choice: BlockChoice,
        keep_avd: bool = False,
        first_dilation: int = 1,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        drop_block: type[nn.Module] | None = None,
        drop_path: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build one candidate.

        Args:
            inplanes: Input channels.
            planes: Planes of the stage; the output has ``4 * planes`` channels.
            stride: Stride of the block, carried by the average pool behind the 3x3 convolution.
            downsample: Module of the shortcut, or None for the identity.
            choice: Radix, cardinality and base width of the 3x3 convolution.
            keep_avd: Keep the average pool at stride 1 (first block of a dilated stage, Encoding rule).
            first_dilation: Dilation (and padding) of the 3x3 convolution.
            act_layer: Activation class.
            norm_layer: Normalisation class.
            drop_block: DropBlock factory, applied in the authors' three places.
            drop_path: Stochastic depth, applied to the residual branch.
            device: Where the parameters are created.
            dtype: Type of the parameters.
        """
        super().__init__()
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        width = choice.group_width(planes)
        self.conv1 = nn.Conv2d(inplanes, width, kernel_size=1, bias=False, **dd)
        self.bn1 = norm_layer(width, **dd)
        self.drop_block1 = drop_block() if drop_block is not None else nn.Identity()
        self.act1 = act_layer(inplace=True)
        self.conv2 = SplitAttn(
            width,
            width,
            kernel_size=3,
            padding=first_dilation,
            dilation=first_dilation,
            groups=choice.cardinality,
            radix=choice.radix,
            # timm multiplies by the radix; given so, because timm's default would round 42 to 40 and 84 to 88.
            rd_channels=choice.attention_channels(planes) // choice.radix,
            norm_layer=norm_layer,
            drop_layer=drop_block,
            **dd,
        )
        # The zero padding counts in the mean (count_include_pad=True), as in the authors' code.
        self.avd = nn.AvgPool2d(3, stride, padding=1) if stride > 1 or keep_avd else nn.Identity()
        self.conv3 = nn.Conv2d(width, planes * self.expansion, kernel_size=1, bias=False, **dd)
        self.bn3 = norm_layer(planes * self.expansion, **dd)
        self.drop_block3 = drop_block() if drop_block is not None else nn.Identity()
        self.drop_path = drop_path if drop_path is not None else nn.Identity()
        self.downsample = downsample
        self.act3 = act_layer(inplace=True)

    def zero_init_last(self) -> None:
        """Zero the last BN's gamma, so that the block starts as its shortcut (the supernet's initialisation)."""
        weight = getattr(self.bn3, 'weight', None)
        if weight is not None:
            nn.init.zeros_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, inplanes, H, W] to [N, 4 * planes, H / stride, W / stride]."""
        shortcut = x
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.drop_block1(x)
        x = self.act1(x)
        x = self.conv2(x)
        x = self.avd(x)
        x = self.conv3(x)
        x = self.bn3(x)
        x = self.drop_block3(x)
        x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x += shortcut
        return self.act3(x)


class _StageBlocks:
    """Block factory of one stage: gives timm's ``make_blocks`` the stage's candidates in the order of the path."""

    expansion = PinasBottleneck.expansion

    def __init__(self, choices: Sequence[int], encoding_avd: bool) -> None:
        self.choices = enumerate(choices)
        self.encoding_avd = encoding_avd

    def __call__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        downsample: nn.Sequential | None,
        *,
        reduce_first: int,
        cardinality: int,
        base_width: int,
        dilation: int,
        first_dilation: int,
        aa_layer: type[nn.Module] | None,
        **block_args: Any,  # norm and activation layers, drop layers, device, dtype: passed through from make_blocks
    ) -> PinasBottleneck:
        # Only the first block of layer2..4 keeps the pool. The width comes from the choice, not from cardinality and
        # base_width; first_dilation, not dilation, is the convolution's: timm and the authors agree on 1/2 and 2/4.
        index, choice = next(self.choices)
        is_first = self.encoding_avd and index == 0
        if is_first and stride == 1 and downsample is not None:
            # A dilated shortcut is not pooled. timm would put AvgPool2dSame(2, 1) here, half a pixel off.
            downsample[0] = nn.Identity()
        return PinasBottleneck(
            inplanes,
            planes,
            stride,
            downsample,
            choice=BLOCK_CHOICES[choice],
            keep_avd=is_first,
            first_dilation=first_dilation,
            **block_args,
        )


class PinasNet(ResNet):
    """A network of the Π-NAS space as a timm model.

    Everything that timm expects of a model (features, pruning, classifier, checkpointing, scripting) comes from
    ``ResNet``; this class chooses the blocks, the dilation rule and the stem.
    """

    def __init__(
        self,
        choices: str | Sequence[int],
        layers: tuple[int, ...] = VARIANTS['pinas_subnet'].layers,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int | None = None,
        global_pool: str = 'avg',
        dilation_rule: str = 'encoding',
        channels: tuple[int, ...] = (64, 128, 256, 512),
        stem_width: int = 32,
        stem_stride: int = 4,
        act_layer: str | type[nn.Module] = nn.ReLU,
        norm_layer: str | type[nn.Module] = nn.BatchNorm2d,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        zero_init_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the network of one path.

        Args:
            choices: The path, one choice (0..3) per block: a string of digits or a sequence of ints.
            layers: Blocks per stage.
            num_classes: Classes of the head; 0 gives pooled features.
            in_chans: Input channels.
            output_stride: Pixels per step of the last feature map: ``8 * stem_stride`` (None), its half or its quarter.
            global_pool: Pooling of timm's classifier.
            dilation_rule: ``'encoding'`` is the authors' rule for strides below the largest, the only one their dense
                weights were trained with; ``'timm'`` is the rule of timm's ResNet. Equal at the largest stride.
            channels: Planes per stage.
            stem_width: Channels of the stem's first two convolutions, half of its output.
            stem_stride: Stride of the stem in pixels: 4 as published; 2 leaves out the max pool, 1 the stride as well.
            act_layer: Activation class or its timm name.
            norm_layer: Normalisation class or its timm name.
            drop_rate: Dropout before the classifier.
            drop_path_rate: Stochastic depth of the last block, growing linearly.
            drop_block_rate: DropBlock probability in layer3 and layer4.
            zero_init_last: Zero the last BN of each block; off in the authors' stand-alone network.
            device: Where the parameters are created.
            dtype: Type of the parameters.

        Raises:
            ValueError: For a path, an output stride, a stem stride or a dilation rule that does not exist, a number of
                classes or channels that cannot be, or a rate of dropping that is no probability.
        """
        if num_classes < 0:
            raise ValueError(f'num_classes is {num_classes}; it must be 0 (no classifier) or more')
        if in_chans < 1:
            raise ValueError(f'in_chans is {in_chans}; it must be 1 or more')
        rates = {'drop_rate': drop_rate, 'drop_path_rate': drop_path_rate, 'drop_block_rate': drop_block_rate}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f'{name} is {rate}; it must be between 0 and 1')
        path = parse_choices(choices, sum(layers))
        if dilation_rule not in DILATION_RULES:
            raise ValueError(f'dilation_rule is {dilation_rule!r}; allowed are {", ".join(map(repr, DILATION_RULES))}')
        if stem_stride not in STEM_STRIDES:
            raise ValueError(f'stem_stride is {stem_stride!r}; allowed are {", ".join(map(str, STEM_STRIDES))}')
        strides = (8 * stem_stride, 4 * stem_stride, 2 * stem_stride)
        output_stride = strides[0] if output_stride is None else output_stride
        if output_stride not in strides:
            raise ValueError(f'output_stride is {output_stride!r}; this network has {", ".join(map(str, strides))}')
        starts = [sum(layers[:stage]) for stage in range(len(layers))]
        stages = [
            _StageBlocks(path[start : start + depth], encoding_avd=dilation_rule == 'encoding' and stage > 0)
            for stage, (start, depth) in enumerate(zip(starts, layers, strict=True))
        ]
        super().__init__(
            block=stages,
            layers=layers,
            num_classes=num_classes,
            in_chans=in_chans,
            output_stride=output_stride * 4 // stem_stride,
            global_pool=global_pool,
            stem_width=stem_width,
            stem_type='deep',
            avg_down=True,
            channels=channels,
            act_layer=act_layer,
            norm_layer=norm_layer,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            drop_block_rate=drop_block_rate,
            zero_init_last=zero_init_last,
            device=device,
            dtype=dtype,
        )
        self.choices = path
        self._set_stem_stride(stem_stride)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights under our names, or under those of the authors' checkpoints of networks that contain ours.

        timm's ``checkpoint_path=`` comes here without asking ``checkpoint_filter_fn``.

        Args:
            state_dict: Tensors by name.
            strict: Our names must match exactly. A checkpoint of the authors must be complete in any case.
            assign: Take the tensors themselves instead of their values.

        Raises:
            RuntimeError: If names or shapes do not match.
            ValueError: If a checkpoint of the authors does not fit this network.
        """
        if isinstance(state_dict, Mapping) and not state_dict.keys() <= self.state_dict().keys():
            state_dict = translate_names(state_dict, self)
        return super().load_state_dict(state_dict, strict, assign)

    def _set_stem_stride(self, stem_stride: int) -> None:
        """Turn ResNet's stem of stride 4 into one of stride 2 or 1, for small images."""
        if stem_stride < 4:
            self.maxpool = nn.Identity()
        if stem_stride < 2:
            self.conv1[0].stride = (1, 1)
        for stage, info in enumerate(self.feature_info):
            info['reduction'] = min(2, stem_stride) if stage == 0 else info['reduction'] * stem_stride // 4


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: PinasNet) -> dict[str, torch.Tensor]:
    """Convert what timm has read to the names of a model (timm's contract).

    Args:
        state_dict: Weights of ours or of any of the authors' checkpoints, with or without wrappers.
        model: The model to load into; its path names the network to take out of a supernet.

    Returns:
        The state dict with our names.

    Raises:
        ValueError: If the weights are no such checkpoint, are damaged, or are those of another path.
    """
    return fit_weights(state_dict, model)


def _create_pinas(variant: str, pretrained: bool = False, **kwargs: Any) -> PinasNet:
    known = VARIANTS[variant]
    defaults = dict(layers=known.layers) if known.choices is None else dict(layers=known.layers, choices=known.choices)
    kwargs = {**defaults, **kwargs}
    choices, layers = kwargs['choices'], kwargs['layers']
    if pretrained:
        model = build_pretrained(PinasNet, variant, checkpoint_filter_fn, kwargs)
    else:
        model = build_model_with_cfg(PinasNet, variant, False, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)
    if not isinstance(model, PinasNet):  # with features_only it is timm's wrapper
        model.choices = parse_choices(choices, sum(layers))
    return model


# People who host weights of their own set it; it is read once, because timm keeps the cfgs.
_HUB_NAMESPACE = os.environ.get('PINAS_HUB_NAMESPACE') or 'pinas-models'


def _cfg(url: str = '', **kwargs: Any) -> dict[str, Any]:
    return {
        'url': url,
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'conv1.0',
        'classifier': 'fc',
        'paper_ids': 'arXiv:2108.09671',
        **kwargs,
    }


def _published_cfg(name: str, **kwargs: Any) -> dict[str, Any]:
    """Cfg of weights that the authors trained."""
    return _cfg(hf_hub_id=f'{_HUB_NAMESPACE}/{name}', origin_url='https://github.com/Ernie1/Pi-NAS', **kwargs)


default_cfgs = generate_default_cfgs(
    {
        'pinas_cls.in1k': _published_cfg('pinas_cls.in1k'),
        # Backbones of a detector and of two segmentation networks: there is no classifier.
        'pinas_trans.coco': _published_cfg('pinas_trans.coco', num_classes=0),
        'pinas_trans.ade20k': _published_cfg('pinas_trans.ade20k', num_classes=0),
        'pinas_trans.cityscapes': _published_cfg('pinas_trans.cityscapes', num_classes=0),
        'pinas_resnest50.untrained': _cfg(),
        'pinas_subnet.untrained': _cfg(),
        'pinas_mini.cifar10': _cfg(
            file=str(Path(__file__).parent / 'weights' / 'pinas_mini.cifar10.safetensors'),
            num_classes=10,
            input_size=(3, 32, 32),
            pool_size=(2, 2),
            crop_pct=1.0,
            interpolation='bilinear',
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            label_names=(
                'airplane',
                'automobile',
                'bird',
                'cat',
                'deer',
                'dog',
                'frog',
                'horse',
                'ship',
                'truck',
            ),
            license='apache-2.0',
        ),
    }
)


@register_model
def pinas_cls(pretrained: bool = False, **kwargs: Any) -> PinasNet:
    """Π-NAS-cls, the network found for ImageNet classification (paper Table 2; α of Table 1)."""
    return _create_pinas('pinas_cls', pretrained, **kwargs)


@register_model
def pinas_trans(pretrained: bool = False, **kwargs: Any) -> PinasNet:
    """Π-NAS-trans, the network that transfers best to detection and segmentation (paper Tables 5, 6; γ of Table 1)."""
    return _create_pinas('pinas_trans', pretrained, **kwargs)


@register_model
def pinas_resnest50(pretrained: bool = False, **kwargs: Any) -> PinasNet:
    """ResNeSt-50 (2s1x64d in all 16 blocks): the baseline, in the same code."""
    return _create_pinas('pinas_resnest50', pretrained, **kwargs)


@register_model
def pinas_subnet(pretrained: bool = False, *, choices: str | Sequence[int], **kwargs: Any) -> PinasNet:
    """Any of the 4^16 networks of the paper's space; ``choices`` is a string of 16 digits or 16 ints (0..3)."""
    return _create_pinas('pinas_subnet', pretrained, choices=choices, **kwargs)


@register_model
def pinas_mini(pretrained: bool = False, **kwargs: Any) -> PinasNet:
    """A small member of the family for 32-pixel images: 2-2-2-2 blocks, 16 to 128 planes, any of 4^8 paths.

    Without ``choices`` it is the network that was found on CIFAR-10, whose weights come with the package.
    """
    model_args = dict(channels=(16, 32, 64, 128), stem_width=8, stem_stride=2)
    return _create_pinas('pinas_mini', pretrained, **dict(model_args, **kwargs))
