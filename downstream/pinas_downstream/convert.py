"""Whole models of the authors for MMDetection and MMSegmentation, and our backbone for their detector.

Converted are Detectron2's Mask R-CNN (4conv1fc box head, norm in FPN and heads) and PyTorch-Encoding's DeepLabV3. The
backbone is converted by ``pinas_models.checkpoints``; the tables here hold neck and heads. The authors' names are those
of the code that wrote the checkpoints; ours are those of mmdet's ``FPN``, ``RPNHead``, ``Shared4Conv1FCBBoxHead`` and
``FCNMaskHead``, and of ``EncodingDeepLabHead`` and ``EncodingFCNHead`` of this package.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pinas_models.checkpoints import audit, convert_checkpoint, to_detectron2
from pinas_models.checkpoints.convert import unwrap
from pinas_models.checkpoints.families import FAMILIES, Family, detectron2_name, recognise
from pinas_models.choices import Choices

__all__ = ['ModelConversion', 'convert_model', 'convert_state_dict', 'reverse_backbone']

_BACKBONE = 'backbone.'  # in a model of OpenMMLab
_COUNTER = 'num_batches_tracked'
_REMEDIES = {
    audit.MISSING: "the file is incomplete, or of a model with other heads than the authors'",
    audit.UNKNOWN: "the authors' model has no such part; take them out if they are not needed",
    audit.WRONG_SHAPES: 'the heads do not fit each other or the backbone',
    audit.NO_WEIGHTS: 'is it quantised?',
}


@dataclass(frozen=True)
class ModelConversion:
    """Converted weights and the report on them.

    Attributes:
        state_dict: The weights under their new names. Tensors are those of the checkpoint, not copies.
        family: Kind of checkpoint: detectron2 or deeplabv3; openmmlab for a model of ours.
        choices: The path of the backbone.
        num_classes: Classes of the heads, without background; 0 for a backbone alone.
        mapped: Pairs of a name in the checkpoint, without the prefix of a wrapper, and the name it got.
        left_out: Everything else in the checkpoint: names of tensors, and of what lies beside the weights.
    """

    state_dict: dict[str, torch.Tensor]
    family: str
    choices: Choices
    num_classes: int
    mapped: list[tuple[str, str]]
    left_out: list[str]


def convert_state_dict(state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Convert the authors' Mask R-CNN or DeepLabV3 to the names of the same model in mmdet or mmseg.

    Args:
        state_dict: A state dict or a whole checkpoint; see ``convert_model``, which also tells what is left out.

    Returns:
        The weights; those of a whole model load strictly (586 entries for the published detector).

    Raises:
        ValueError: See ``convert_model``.
    """
    return convert_model(state_dict).state_dict


def convert_model(checkpoint: Mapping[str, Any]) -> ModelConversion:
    """Convert the authors' Mask R-CNN or DeepLabV3, and report what was found and what is left out.

    Widths of neck and heads and the number of classes are taken from the tensors, and must agree among them. What a
    checkpoint may leave away as a whole are the heads (the result is a backbone, ``backbone....``), DeepLabV3's
    auxiliary head (its model is built with ``auxiliary_head=None``) and the counters of BN.

    Args:
        checkpoint: What ``pinas_models.checkpoints.load_checkpoint`` returns: a state dict, or a dict that holds one
            under ``model`` or ``state_dict``. A prefix ``module.`` is removed.

    Returns:
        The conversion.

    Raises:
        ValueError: If it is no such checkpoint, or names are missing or unknown, or shapes are wrong; the message says
            which kind was recognised, the first offending names and what to do.
    """
    tensors, beside = unwrap(checkpoint)
    if _is_ours(tensors):
        raise ValueError(
            'this has the names of a model of OpenMMLab already: there is nothing to convert, load it as it is'
        )
    family = recognise(tensors)
    if family.name not in _HEADS:
        raise ValueError(
            f'this is {family.title}, not a Mask R-CNN or DeepLabV3; for a backbone it needs no conversion: '
            "init_cfg=dict(type='Pretrained', checkpoint=...) in its config takes the file"
        )
    backbone = convert_checkpoint(tensors)
    mapped = [(spelled, f'{_BACKBONE}{name}') for name in backbone.state_dict for spelled in family.spell(name)]
    widths = {f'layer{stage}': len(backbone.state_dict[f'layer{stage}.0.bn3.weight']) for stage in range(1, 5)}
    heads = {
        name: tensor
        for name, tensor in tensors.items()
        if family.parse(name) is None and not _NO_WEIGHTS.fullmatch(name)
    }
    if heads:
        modules = [module for module in _HEADS[family.name] if _is_expected(module, heads)]
        widths |= _infer_widths(modules, heads, widths)
        slots = {slot.theirs: slot for module in modules for slot in module.slots(widths)}
        _check(family, slots, heads)
        mapped += [(name, slot.ours) for name, slot in slots.items() if name in heads]
    done = {name for name, _ in mapped}
    return ModelConversion(
        state_dict={ours: tensors[theirs].detach() for theirs, ours in mapped},
        family=family.name,
        choices=backbone.choices,
        num_classes=widths.get(_CLASSES.name, 0),
        mapped=mapped,
        left_out=[*(name for name in tensors if name not in done), *beside],
    )


def reverse_backbone(checkpoint: Mapping[str, Any]) -> ModelConversion:
    """Convert a backbone to the names of the authors' Detectron2 model, and report what is left out.

    Args:
        checkpoint: Weights of a model of mmdet or mmseg with our backbone (``backbone.conv1.0.weight``, ...), or of the
            backbone alone (``conv1.0.weight``, ...); or a dict that holds them under ``state_dict``, as a Runner's
            checkpoint does.

    Returns:
        The conversion; without neck and heads.

    Raises:
        ValueError: If there is no backbone of ours in it, or it is incomplete or damaged.
    """
    tensors, beside = unwrap(checkpoint)
    prefix = _BACKBONE if _is_ours(tensors) else ''
    backbone = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    state_dict = to_detectron2(backbone)
    theirs = {name: f'backbone.bottom_up.{detectron2_name(name)}' for name in backbone if not name.startswith('fc.')}
    mapped = [(f'{prefix}{name}', spelled) for name, spelled in theirs.items()]
    done = {name for name, _ in mapped}
    return ModelConversion(
        state_dict=state_dict,
        family='openmmlab',
        choices=convert_checkpoint(backbone).choices,
        num_classes=0,
        mapped=mapped,
        left_out=[*(name for name in tensors if name not in done), *beside],
    )


def _is_ours(tensors: Iterable[str]) -> bool:
    """Whether these are the names of a model of OpenMMLab; a supernet's begin with ``backbone.`` as well."""
    ours = next(family for family in FAMILIES if family.name == 'classification')
    inner = [name.removeprefix(_BACKBONE) for name in tensors if name.startswith(_BACKBONE)]
    return bool(inner) and all(ours.claims(name) for name in inner)


@dataclass(frozen=True)
class _Width:
    """A number of channels that the tensors of a checkpoint tell: ``times`` the width ``name``, ``plus`` some."""

    name: str
    times: int = 1
    plus: int = 0

    def of(self, widths: Mapping[str, int]) -> int:
        return self.times * widths[self.name] + self.plus

    def solve(self, channels: int) -> int | None:
        """The width that gives so many channels, if there is one."""
        width, rest = divmod(channels - self.plus, self.times)
        return width if width > 0 and rest == 0 else None


_Dims = tuple[_Width | int, ...]


@dataclass(frozen=True)
class _Slot:
    """A tensor that a checkpoint should hold: its name there, ours, and its shape."""

    theirs: str
    ours: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Module:
    """A layer with weights: the authors' name of it, ours, its leaves and the dimensions of each."""

    theirs: str
    ours: str
    leaves: Mapping[str, _Dims]

    def slots(self, widths: Mapping[str, int]) -> Iterator[_Slot]:
        for leaf, dims in self.leaves.items():
            shape = tuple(dim if isinstance(dim, int) else dim.of(widths) for dim in dims)
            yield _Slot(f'{self.theirs}.{leaf}', f'{self.ours}.{leaf}', shape)


def _conv(theirs: str, ours: str, *dims: _Width | int) -> _Module:
    """A convolution whose bias is the norm's."""
    return _Module(theirs, ours, {'weight': dims})


def _norm(theirs: str, ours: str, width: _Width) -> _Module:
    leaves: dict[str, _Dims] = dict.fromkeys(('weight', 'bias', 'running_mean', 'running_var'), (width,))
    return _Module(theirs, ours, {**leaves, _COUNTER: ()})


def _dense(theirs: str, ours: str, *dims: _Width | int) -> _Module:
    """A convolution or linear layer with bias."""
    return _Module(theirs, ours, {'weight': dims, 'bias': dims[:1]})


_CLASSES = _Width('classes')
_STAGES = tuple(_Width(f'layer{stage}') for stage in range(1, 5))  # known from the backbone
_FPN, _RPN, _BOX, _FC, _MASK = map(_Width, ('fpn', 'rpn', 'box', 'fc', 'mask'))
_ANCHORS = _Width('anchors')

_DETECTRON2 = (
    *(
        module
        for level, width in enumerate(_STAGES)
        for theirs, ours, dims in (
            (f'backbone.fpn_lateral{level + 2}', f'neck.lateral_convs.{level}', (_FPN, width, 1, 1)),
            (f'backbone.fpn_output{level + 2}', f'neck.fpn_convs.{level}', (_FPN, _FPN, 3, 3)),
        )
        for module in (_conv(theirs, f'{ours}.conv', *dims), _norm(f'{theirs}.norm', f'{ours}.bn', _FPN))
    ),
    _dense('proposal_generator.rpn_head.conv', 'rpn_head.rpn_conv', _RPN, _FPN, 3, 3),
    _dense('proposal_generator.rpn_head.objectness_logits', 'rpn_head.rpn_cls', _ANCHORS, _RPN, 1, 1),
    _dense('proposal_generator.rpn_head.anchor_deltas', 'rpn_head.rpn_reg', _Width('anchors', times=4), _RPN, 1, 1),
    *(
        module
        for index in range(4)
        for theirs, ours, width in (
            (f'roi_heads.box_head.conv{index + 1}', f'roi_head.bbox_head.shared_convs.{index}', _BOX),
            (f'roi_heads.mask_head.mask_fcn{index + 1}', f'roi_head.mask_head.convs.{index}', _MASK),
        )
        for module in (
            _conv(theirs, f'{ours}.conv', width, width if index else _FPN, 3, 3),
            _norm(f'{theirs}.norm', f'{ours}.bn', width),
        )
    ),
    # Both programs flatten a RoI's map of 7 x 7 channel by channel, and put the background behind the classes.
    _dense('roi_heads.box_head.fc1', 'roi_head.bbox_head.shared_fcs.0', _FC, _Width('box', times=7 * 7)),
    _dense('roi_heads.box_predictor.cls_score', 'roi_head.bbox_head.fc_cls', _Width('classes', plus=1), _FC),
    _dense('roi_heads.box_predictor.bbox_pred', 'roi_head.bbox_head.fc_reg', _Width('classes', times=4), _FC),
    _dense('roi_heads.mask_head.deconv', 'roi_head.mask_head.upsample', _MASK, _MASK, 2, 2),
    _dense('roi_heads.mask_head.predictor', 'roi_head.mask_head.conv_logits', _CLASSES, _MASK, 1, 1),
)

_HEAD, _AUXILIARY = _Width('head'), _Width('auxiliary')
_AUXILIARY_PREFIX = 'auxlayer.'

_DEEPLABV3 = (
    *(
        module
        for branch, kernel in enumerate((1, 3, 3, 3))
        for module in (
            _conv(f'head.aspp.b{branch}.0', f'decode_head.aspp.b{branch}.0', _HEAD, _STAGES[3], kernel, kernel),
            _norm(f'head.aspp.b{branch}.1', f'decode_head.aspp.b{branch}.1', _HEAD),
        )
    ),
    _conv('head.aspp.b4.gap.1', 'decode_head.aspp.b4.gap.1', _HEAD, _STAGES[3], 1, 1),
    _norm('head.aspp.b4.gap.2', 'decode_head.aspp.b4.gap.2', _HEAD),
    _conv('head.aspp.project.0', 'decode_head.aspp.project.0', _HEAD, _Width('head', times=5), 1, 1),
    _norm('head.aspp.project.1', 'decode_head.aspp.project.1', _HEAD),
    _conv('head.block.0', 'decode_head.block.0', _HEAD, _HEAD, 3, 3),
    _norm('head.block.1', 'decode_head.block.1', _HEAD),
    _dense('head.block.4', 'decode_head.conv_seg', _CLASSES, _HEAD, 1, 1),
    _conv('auxlayer.conv5.0', 'auxiliary_head.convs.0.conv', _AUXILIARY, _STAGES[2], 3, 3),
    _norm('auxlayer.conv5.1', 'auxiliary_head.convs.0.bn', _AUXILIARY),
    _dense('auxlayer.conv5.4', 'auxiliary_head.conv_seg', _CLASSES, _AUXILIARY, 1, 1),
)

_HEADS: Mapping[str, Sequence[_Module]] = {'detectron2': _DETECTRON2, 'deeplabv3': _DEEPLABV3}

# Constants that older versions of Detectron2 save; here they are settings of data_preprocessor and anchor_generator.
_NO_WEIGHTS = re.compile(r'pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+')


def _is_expected(module: _Module, heads: Iterable[str]) -> bool:
    """Whether a module must be there; DeepLabV3 can be trained without auxiliary head."""
    if not module.theirs.startswith(_AUXILIARY_PREFIX):
        return True
    return any(name.startswith(_AUXILIARY_PREFIX) for name in heads)


def _infer_widths(
    modules: Iterable[_Module], heads: Mapping[str, torch.Tensor], known: Mapping[str, int]
) -> dict[str, int]:
    """Find the widths that most of the tensors agree on, so that a wrong one can be told from the rest."""
    votes: dict[str, Counter[int]] = {}
    for module in modules:
        for leaf, dims in module.leaves.items():
            tensor = heads.get(f'{module.theirs}.{leaf}')
            for axis, dim in enumerate(dims):
                if isinstance(dim, int) or dim.name in known:
                    continue
                found = votes.setdefault(dim.name, Counter())
                if tensor is not None and tensor.ndim == len(dims) and (width := dim.solve(tensor.shape[axis])):
                    found[width] += 1
    # 1 where nothing can be told: something is missing or misshapen then, and that is reported.
    return {name: found.most_common(1)[0][0] if found else 1 for name, found in votes.items()}


def _check(family: Family, slots: Mapping[str, _Slot], heads: Mapping[str, torch.Tensor]) -> None:
    """Compare neck and heads of a checkpoint with what they should be; raises ``ValueError``."""
    faults = audit.compare(heads, (((name,), slot.shape) for name, slot in slots.items()))
    if text := audit.describe(faults, _REMEDIES):
        raise ValueError(f'this is {family.title}, but its heads cannot be converted: {text}')
