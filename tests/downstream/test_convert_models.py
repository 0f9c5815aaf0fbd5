"""The authors' detector and segmentor, whole: every tensor arrives where it belongs, and nothing wrong passes.

No checkpoint of the detector was published in a form that could be looked into, so its names are written out here from
the modules of Detectron2, apart from the tables of the package. What the converted DeepLabV3 computes is compared with
the authors' in ``test_segmentation.py``.
"""

import hashlib
import json
import subprocess
import sys
from collections import OrderedDict

import mmdet.registry
import mmseg.registry
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from reference import load_fixture
from safetensors import safe_open
from safetensors.torch import load_file

from pinas_downstream.cli import main
from pinas_downstream.config import load_config
from pinas_downstream.convert import convert_model, convert_state_dict, reverse_backbone
from pinas_downstream.patches.checkpoints import load_weights
from pinas_models import PINAS_MINI, PINAS_TRANS

LARGE, MINI = (3, 4, 6, 3), (2, 2, 2, 2)
NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
LEAVES = {'conv': ('weight',), 'dense': ('weight', 'bias'), 'norm': NORM}

# Their module, ours, what it is, and the shape of its weight in the published model.
DETECTOR_HEADS = """
backbone.fpn_lateral2                            neck.lateral_convs.0.conv                   conv   256 256 1 1
backbone.fpn_lateral2.norm                       neck.lateral_convs.0.bn                     norm   256
backbone.fpn_output2                             neck.fpn_convs.0.conv                       conv   256 256 3 3
backbone.fpn_output2.norm                        neck.fpn_convs.0.bn                         norm   256
backbone.fpn_lateral3                            neck.lateral_convs.1.conv                   conv   256 512 1 1
backbone.fpn_lateral3.norm                       neck.lateral_convs.1.bn                     norm   256
backbone.fpn_output3                             neck.fpn_convs.1.conv                       conv   256 256 3 3
backbone.fpn_output3.norm                        neck.fpn_convs.1.bn                         norm   256
backbone.fpn_lateral4                            neck.lateral_convs.2.conv                   conv   256 1024 1 1
backbone.fpn_lateral4.norm                       neck.lateral_convs.2.bn                     norm   256
backbone.fpn_output4                             neck.fpn_convs.2.conv                       conv   256 256 3 3
backbone.fpn_output4.norm                        neck.fpn_convs.2.bn                         norm   256
backbone.fpn_lateral5                            neck.lateral_convs.3.conv                   conv   256 2048 1 1
backbone.fpn_lateral5.norm                       neck.lateral_convs.3.bn                     norm   256
backbone.fpn_output5                             neck.fpn_convs.3.conv                       conv   256 256 3 3
backbone.fpn_output5.norm                        neck.fpn_convs.3.bn                         norm   256
proposal_generator.rpn_head.conv                 rpn_head.rpn_conv                           dense  256 256 3 3
proposal_generator.rpn_head.objectness_logits    rpn_head.rpn_cls                            dense  3 256 1 1
proposal_generator.rpn_head.anchor_deltas        rpn_head.rpn_reg                            dense  12 256 1 1
roi_heads.box_head.conv1                         roi_head.bbox_head.shared_convs.0.conv      conv   256 256 3 3
roi_heads.box_head.conv1.norm                    roi_head.bbox_head.shared_convs.0.bn        norm   256
roi_heads.box_head.conv2                         roi_head.bbox_head.shared_convs.1.conv      conv   256 256 3 3
roi_heads.box_head.conv2.norm                    roi_head.bbox_head.shared_convs.1.bn        norm   256
roi_heads.box_head.conv3                         roi_head.bbox_head.shared_convs.2.conv      conv   256 256 3 3
roi_heads.box_head.conv3.norm                    roi_head.bbox_head.shared_convs.2.bn        norm   256
roi_heads.box_head.conv4                         roi_head.bbox_head.shared_convs.3.conv      conv   256 256 3 3
roi_heads.box_head.conv4.norm                    roi_head.bbox_head.shared_convs.3.bn        norm   256
roi_heads.box_head.fc1                           roi_head.bbox_head.shared_fcs.0             dense  1024 12544
roi_heads.box_predictor.cls_score                roi_head.bbox_head.fc_cls                   dense  81 1024
roi_heads.box_predictor.bbox_pred                roi_head.bbox_head.fc_reg                   dense  320 1024
roi_heads.mask_head.mask_fcn1                    roi_head.mask_head.convs.0.conv             conv   256 256 3 3
roi_heads.mask_head.mask_fcn1.norm               roi_head.mask_head.convs.0.bn               norm   256
roi_heads.mask_head.mask_fcn2                    roi_head.mask_head.convs.1.conv             conv   256 256 3 3
roi_heads.mask_head.mask_fcn2.norm               roi_head.mask_head.convs.1.bn               norm   256
roi_heads.mask_head.mask_fcn3                    roi_head.mask_head.convs.2.conv             conv   256 256 3 3
roi_heads.mask_head.mask_fcn3.norm               roi_head.mask_head.convs.2.bn               norm   256
roi_heads.mask_head.mask_fcn4                    roi_head.mask_head.convs.3.conv             conv   256 256 3 3
roi_heads.mask_head.mask_fcn4.norm               roi_head.mask_head.convs.3.bn               norm   256
roi_heads.mask_head.deconv                       roi_head.mask_head.upsample                 dense  256 256 2 2
roi_heads.mask_head.predictor                    roi_head.mask_head.conv_logits              dense  80 256 1 1
"""
DEEPLAB_HEADS = """
head.aspp.b0.0           decode_head.aspp.b0.0           conv
head.aspp.b0.1           decode_head.aspp.b0.1           norm
head.aspp.b1.0           decode_head.aspp.b1.0           conv
head.aspp.b1.1           decode_head.aspp.b1.1           norm
head.aspp.b2.0           decode_head.aspp.b2.0           conv
head.aspp.b2.1           decode_head.aspp.b2.1           norm
head.aspp.b3.0           decode_head.aspp.b3.0           conv
head.aspp.b3.1           decode_head.aspp.b3.1           norm
head.aspp.b4.gap.1       decode_head.aspp.b4.gap.1       conv
head.aspp.b4.gap.2       decode_head.aspp.b4.gap.2       norm
head.aspp.project.0      decode_head.aspp.project.0      conv
head.aspp.project.1      decode_head.aspp.project.1      norm
head.block.0             decode_head.block.0             conv
head.block.1             decode_head.block.1             norm
head.block.4             decode_head.conv_seg            dense
auxlayer.conv5.0         auxiliary_head.convs.0.conv     conv
auxlayer.conv5.1         auxiliary_head.convs.0.bn       norm
auxlayer.conv5.4         auxiliary_head.conv_seg         dense
"""
STEM = """
stem.conv1.0             conv1.0                         conv
stem.conv1.0.norm        conv1.1                         norm
stem.conv1.1             conv1.3                         conv
stem.conv1.1.norm        conv1.4                         norm
stem.conv1.2             conv1.6                         conv
stem.conv1.2.norm        bn1                             norm
"""
BLOCK = """
conv1                    conv1                           conv
conv1.norm               bn1                             norm
conv2.conv               conv2.conv                      conv
conv2.bn0                conv2.bn0                       norm
conv2.fc1                conv2.fc1                       dense
conv2.bn1                conv2.bn1                       norm
conv2.fc2                conv2.fc2                       dense
conv3                    conv3                           conv
conv3.norm               bn3                             norm
"""
SHORTCUT = """
shortcut                 downsample.1                    conv
shortcut.norm            downsample.2                    norm
"""


def pairs(table, theirs='', ours=''):
    """Names of tensors, theirs and ours, of a table of modules."""
    rows = [line.split() for line in table.split('\n') if line]
    return [(f'{theirs}{r[0]}.{leaf}', f'{ours}{r[1]}.{leaf}') for r in rows for leaf in LEAVES[r[2]]]


def bottom_up(layers):
    names = pairs(STEM, 'backbone.bottom_up.', 'backbone.')
    for stage, depth in enumerate(layers):
        for block in range(depth):
            for table in (SHORTCUT, BLOCK) if block == 0 else (BLOCK,):
                prefixes = f'backbone.bottom_up.res{stage + 2}.{block}.', f'backbone.layer{stage + 1}.{block}.'
                names += pairs(table, *prefixes)
    return dict(names)


DETECTOR = bottom_up(LARGE) | dict(pairs(DETECTOR_HEADS))
SEGMENTOR = dict(pairs(DEEPLAB_HEADS)) | {
    ours.replace('backbone.', 'pretrained.', 1): ours for ours in bottom_up(LARGE).values()
}
TITLES = {'detectron2': 'a Mask R-CNN of Detectron2', 'deeplabv3': 'a DeepLabV3 of the authors'}


def shapes_of_detector():
    fixture = load_fixture('deeplab_ade').state_dict
    shapes = {theirs: fixture[ours.replace('backbone.', 'pretrained.', 1)] for theirs, ours in bottom_up(LARGE).items()}
    for row in (line.split() for line in DETECTOR_HEADS.split('\n') if line):
        weight = tuple(map(int, row[3:]))
        for leaf in LEAVES[row[2]]:
            leaves = {'weight': weight, 'num_batches_tracked': ()}
            shapes[f'{row[0]}.{leaf}'] = leaves.get(leaf, weight[:1])
    return shapes


def tensors_of(shapes):
    """One element each, however large the tensor: what counts is which one it is."""
    return {
        name: torch.zeros((), dtype=torch.int64 if name.endswith('num_batches_tracked') else torch.float32).expand(
            shape
        )
        for name, shape in shapes.items()
    }


@pytest.fixture(scope='module')
def detector():
    """The published detector in Detectron2's names."""
    return tensors_of(shapes_of_detector())


@pytest.fixture(scope='module')
def segmentor():
    """The published segmentor in PyTorch-Encoding's names."""
    return tensors_of(load_fixture('deeplab_ade').state_dict)


@pytest.fixture(scope='module')
def published(detector, segmentor):
    return {'detectron2': (detector, DETECTOR), 'deeplabv3': (segmentor, SEGMENTOR)}


def as_saved(family, tensors):
    """A whole checkpoint, as the authors' programs write it."""
    if family == 'detectron2':
        constants = {'pixel_mean': torch.zeros(3, 1, 1), 'pixel_std': torch.ones(3, 1, 1)}
        for level in range(5):
            constants[f'proposal_generator.anchor_generator.cell_anchors.{level}'] = torch.zeros(3, 4)
        return {'model': constants | tensors, 'optimizer': {'state': {}}, 'scheduler': {}, 'iteration': 89_999}
    return {'epoch': 120, 'state_dict': tensors, 'optimizer': {'state': {}}, 'best_pred': np.float64(0.45)}


def built(name, size=None, device='meta'):
    """A model of a configuration; ``size`` changes it to a small one."""
    scope, model = 'mmdet' if name.startswith('mask') else 'mmseg', load_config(name).model
    if size is not None:
        size(model)
    registry = mmdet.registry if scope == 'mmdet' else mmseg.registry
    with torch.device(device), DefaultScope.overwrite_default_scope(scope):
        return registry.MODELS.build(model).eval()


def small_detector(model):
    """All widths differ, so that none stands for another."""
    model.backbone.update(choices='mini', stem_stride=4)
    model.neck.update(in_channels=[64, 128, 256, 512], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=20)
    heads = model.roi_head
    for extractor in (heads.bbox_roi_extractor, heads.mask_roi_extractor):
        extractor.out_channels = 16
    heads.bbox_head.update(in_channels=16, conv_out_channels=8, fc_out_channels=24, num_classes=5)
    heads.mask_head.update(in_channels=16, conv_out_channels=12, num_classes=5)


def small_segmentor(model):
    model.backbone.update(choices='mini', stem_stride=4)
    model.decode_head.update(in_channels=512, channels=16, num_classes=7)
    model.auxiliary_head.update(in_channels=256, channels=12, num_classes=7)


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(0.5, 0.2, generator=generator)
        elif not tensor.is_floating_point():
            tensor.fill_(7)
    return model


@pytest.fixture(scope='module')
def small():
    """Small models with random weights, and the same weights in the authors' names."""
    torch.manual_seed(0)
    result = {}
    for family, name, size, names in (
        ('detectron2', 'mask-rcnn_pinas-trans_coco', small_detector, bottom_up(MINI) | dict(pairs(DETECTOR_HEADS))),
        ('deeplabv3', 'deeplabv3_pinas-trans_ade20k', small_segmentor, small_segmentor_names()),
    ):
        model = randomised(built(name, size, 'cpu'))
        weights = model.state_dict()
        result[family] = model, {theirs: weights[ours] for theirs, ours in names.items()}
    return result


def small_segmentor_names():
    backbone = {ours.replace('backbone.', 'pretrained.', 1): ours for ours in bottom_up(MINI).values()}
    return backbone | dict(pairs(DEEPLAB_HEADS))


# Every name


def test_the_lists_are_those_of_the_published_models(detector, segmentor):
    assert len(bottom_up(LARGE)) == len(set(bottom_up(LARGE).values())) == 474
    assert len(DETECTOR) == len(set(DETECTOR.values())) == len(detector) == 474 + 112
    assert set(SEGMENTOR) == set(segmentor)


@pytest.mark.parametrize(
    ('family', 'config', 'classes'),
    [('detectron2', 'mask-rcnn_pinas-trans_coco', 80), ('deeplabv3', 'deeplabv3_pinas-trans_ade20k', 150)],
)
def test_every_tensor_arrives_where_it_belongs(family, config, classes, published):
    tensors, names = published[family]
    checkpoint = as_saved(family, tensors)
    conversion = convert_model(checkpoint)
    assert (conversion.family, conversion.choices, conversion.num_classes) == (family, PINAS_TRANS, classes)
    assert dict(conversion.mapped) == names
    assert len(conversion.mapped) == len(names)
    everything = {*checkpoint, *checkpoint['model' if family == 'detectron2' else 'state_dict']}
    expected = everything - set(names) - {'model', 'state_dict'}
    assert sorted(conversion.left_out) == sorted(expected)
    model = built(config)
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)
    loaded = model.state_dict()
    assert len(loaded) == len(names)
    for theirs, ours in names.items():
        assert loaded[ours].data_ptr() == tensors[theirs].data_ptr(), ours


def test_left_out_of_a_detector(detector):
    constants = [f'proposal_generator.anchor_generator.cell_anchors.{level}' for level in range(5)]
    assert convert_model(as_saved('detectron2', detector)).left_out == [
        *('pixel_mean', 'pixel_std', *constants),
        *('optimizer', 'scheduler', 'iteration'),
    ]


@pytest.mark.parametrize('family', TITLES)
def test_wrappers_and_old_files(family, published):
    tensors, names = published[family]
    expected = convert_state_dict(tensors)
    prefixed = {f'module.{name}': tensor for name, tensor in tensors.items()}
    for checkpoint in (OrderedDict(tensors), prefixed, {'state_dict': prefixed}, {'model': tensors}):
        converted = convert_state_dict(checkpoint)
        assert list(converted) == list(expected)
        assert all(converted[name].data_ptr() == tensor.data_ptr() for name, tensor in expected.items())
    old = {name: tensor for name, tensor in tensors.items() if not name.endswith('num_batches_tracked')}
    assert set(convert_state_dict(old)) == {names[name] for name in old}


def test_backbone_there_and_back(detector):
    alone = {name: tensor for name, tensor in detector.items() if name.startswith('backbone.bottom_up.')}
    converted = convert_model(alone)
    assert set(converted.state_dict) == set(bottom_up(LARGE).values())
    assert (converted.choices, converted.num_classes, converted.left_out) == (PINAS_TRANS, 0, [])
    bare = {name.removeprefix('backbone.'): tensor for name, tensor in converted.state_dict.items()}
    model = convert_state_dict(detector)
    prefixed = {f'module.{name}': tensor for name, tensor in model.items()}
    for ours in (converted.state_dict, bare, model, {'state_dict': prefixed, 'meta': {}}):
        theirs = reverse_backbone(ours).state_dict
        assert set(theirs) == set(alone)
        assert all(theirs[name].data_ptr() == tensor.data_ptr() for name, tensor in alone.items())
    conversion = reverse_backbone({'state_dict': model, 'meta': {}})
    assert dict(conversion.mapped) == {ours: theirs for theirs, ours in bottom_up(LARGE).items()}
    assert conversion.left_out == [name for name in model if not name.startswith('backbone.')] + ['meta']


def test_backbone_of_a_segmentor(segmentor):
    alone = {name: tensor for name, tensor in segmentor.items() if name.startswith('pretrained.')}
    assert set(convert_state_dict(alone)) == set(bottom_up(LARGE).values())


def test_segmentor_without_auxiliary_head(segmentor):
    without = {name: tensor for name, tensor in segmentor.items() if not name.startswith('auxlayer.')}
    conversion = convert_model(without)
    assert conversion.num_classes == 150
    assert set(conversion.state_dict) == {ours for theirs, ours in SEGMENTOR.items() if theirs in without}


# What the small models compute


def detectron2_forward(weights, maps, boxes, masks):
    """FPN, RPN and heads as Detectron2 computes them, on its own names."""

    def conv(name, x, **options):
        return F.conv2d(x, weights[f'{name}.weight'], weights.get(f'{name}.bias'), **options)

    def normed(name, x, **options):
        norm = {leaf: weights[f'{name}.norm.{leaf}'] for leaf in NORM[:4]}
        return F.batch_norm(conv(name, x, **options), **norm)

    def dense(name, x):
        return F.linear(x, weights[f'{name}.weight'], weights[f'{name}.bias'])

    pyramid, above = [], None
    for level, features in reversed(list(enumerate(maps, start=2))):
        lateral = normed(f'backbone.fpn_lateral{level}', features)
        above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2.0, mode='nearest')
        pyramid.insert(0, normed(f'backbone.fpn_output{level}', above, padding=1))
    pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
    hidden = [conv('proposal_generator.rpn_head.conv', x, padding=1).relu() for x in pyramid]
    for index in range(1, 5):
        boxes = normed(f'roi_heads.box_head.conv{index}', boxes, padding=1).relu()
        masks = normed(f'roi_heads.mask_head.mask_fcn{index}', masks, padding=1).relu()
    boxes = dense('roi_heads.box_head.fc1', boxes.flatten(1)).relu()
    deconv = (weights[f'roi_heads.mask_head.deconv.{leaf}'] for leaf in ('weight', 'bias'))
    return [
        *pyramid,
        *(conv('proposal_generator.rpn_head.objectness_logits', x) for x in hidden),
        *(conv('proposal_generator.rpn_head.anchor_deltas', x) for x in hidden),
        dense('roi_heads.box_predictor.cls_score', boxes),
        dense('roi_heads.box_predictor.bbox_pred', boxes),
        conv('roi_heads.mask_head.predictor', F.conv_transpose2d(masks, *deconv, stride=2).relu()),
    ]


@torch.no_grad()
def test_a_converted_detector_computes_what_detectron2_does(small):
    _, theirs = small['detectron2']
    model = built('mask-rcnn_pinas-trans_coco', small_detector, 'cpu')
    model.load_state_dict(convert_state_dict(as_saved('detectron2', theirs)), strict=True)
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 64 << level, 32 >> level, 24 >> level, generator=generator) for level in range(4)]
    boxes, masks = (torch.randn(3, 16, size, size, generator=generator) for size in (7, 14))
    pyramid = model.neck(maps)
    scores, deltas = model.rpn_head(pyramid)
    heads = model.roi_head
    actual = [*pyramid, *scores, *deltas, *heads.bbox_head(boxes), heads.mask_head(masks)]
    expected = detectron2_forward(theirs, maps, boxes, masks)
    assert len(actual) == len(expected) == 18
    for a, b in zip(actual, expected, strict=True):
        assert b.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_converted_small_segmentor(small):
    model, theirs = small['deeplabv3']
    conversion = convert_model(as_saved('deeplabv3', theirs))
    assert (conversion.choices, conversion.num_classes) == (PINAS_MINI, 7)
    other = built('deeplabv3_pinas-trans_ade20k', small_segmentor, 'cpu')
    other.load_state_dict(conversion.state_dict, strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    metas = [dict(img_shape=(64, 64))]
    assert torch.equal(other.encode_decode(x, metas), model.encode_decode(x, metas))


# Errors


def refused(checkpoint, *words, convert=convert_model):
    with pytest.raises(ValueError, match=r'\S') as info:
        convert(checkpoint)
    text = str(info.value)
    assert '\n' not in text
    assert len(text) < 1000
    for word in words:
        assert word in text
    return text


@settings(max_examples=120)
@given(data=st.data())
def test_any_fault_is_found_and_named(data, published):
    family = data.draw(st.sampled_from(list(TITLES)))
    tensors, names = dict(published[family][0]), published[family][1]
    heads = [name for name in tensors if 'bottom_up' not in name and not name.startswith('pretrained.')]
    name = data.draw(st.one_of(st.sampled_from(heads), st.sampled_from(list(names))))
    fault = data.draw(st.sampled_from(['drop', 'rename', 'widen', 'add a dimension', 'add a bias', 'quantise']))
    counter = name.endswith('num_batches_tracked')
    tensor = tensors[name]
    if fault == 'drop':
        del tensors[name]
        if counter:  # old files have none
            assert names[name] not in convert_state_dict(tensors)
            return
    elif fault == 'rename':
        tensors[f'{name}_'] = tensors.pop(name)
    elif fault == 'widen' and not counter:
        axis = data.draw(st.integers(0, tensor.ndim - 1))
        shape = [size + (i == axis) for i, size in enumerate(tensor.shape)]
        tensors[name] = torch.zeros(()).expand(shape)
    elif fault == 'add a bias' and not counter and name.replace('.weight', '.bias') not in names:
        name = name.replace('.weight', '.bias')
        tensors[name] = torch.zeros(tensor.shape[0])
    elif fault == 'quantise' and not counter:
        tensors[name] = torch.zeros((), dtype=torch.int8).expand(tensor.shape)
    else:
        tensors[name] = tensor[None]
    # A block's choice is told by the shape of this convolution: if it is wrong, the rest of the block is named first.
    misleading = name.endswith('.conv2.conv.weight') and name in tensors and tensors[name].shape != tensor.shape
    refused(as_saved(family, tensors), TITLES[family], 'wrong shapes' if misleading else name)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'mask_head.predictor': 20}, ['mask_head.predictor.weight [20, 256, 1, 1] instead of [80, 256, 1, 1]']),
        ({'box_predictor.cls_score': 21}, ['cls_score.weight [21, 1024] instead of [81, 1024]']),
        ({'box_predictor.bbox_pred': 4}, ['bbox_pred.weight [4, 1024] instead of [320, 1024]']),  # class agnostic
        ({'box_head.fc1': 512}, ['cls_score.weight [81, 1024] instead of [81, 512]']),  # one is as likely as the other
    ],
)
def test_parts_of_a_detector_that_do_not_fit_each_other(changes, words, detector):
    tensors = dict(detector)
    for module, size in changes.items():
        for leaf in ('weight', 'bias'):
            name = f'roi_heads.{module}.{leaf}'
            tensors[name] = torch.zeros(()).expand(size, *tensors[name].shape[1:])
    refused(tensors, 'wrong shapes', *words)


def test_other_numbers_of_classes(detector, segmentor):
    tensors = dict(detector)
    for module, size in (('box_predictor.cls_score', 4), ('box_predictor.bbox_pred', 12), ('mask_head.predictor', 3)):
        for leaf in ('weight', 'bias'):
            name = f'roi_heads.{module}.{leaf}'
            tensors[name] = torch.zeros(()).expand(size, *tensors[name].shape[1:])
    assert convert_model(tensors).num_classes == 3
    tensors = dict(segmentor)
    for leaf in ('weight', 'bias'):
        name = f'auxlayer.conv5.4.{leaf}'
        tensors[name] = torch.zeros(()).expand(19, *tensors[name].shape[1:])
    refused(tensors, TITLES['deeplabv3'], 'auxlayer.conv5.4.weight [19, 256, 1, 1] instead of [150, 256, 1, 1]')


def test_other_detectors_and_other_checkpoints(detector):
    two_layers = {name: tensor for name, tensor in detector.items() if '.box_head.conv' not in name}
    two_layers['roi_heads.box_head.fc2.weight'] = torch.zeros(1024, 1024)
    refused(two_layers, 'missing names', 'box_head.conv1.weight', 'unknown names', 'box_head.fc2.weight', 'take them')
    no_masks = {name: tensor for name, tensor in detector.items() if 'mask_head' not in name}
    refused(no_masks, 'missing names: 24', 'mask_head.mask_fcn1.weight', 'other heads')
    ours = convert_state_dict(detector)
    refused(ours, 'nothing to convert')
    bare = {name.removeprefix('backbone.'): t for name, t in ours.items() if name.startswith('backbone.')}
    refused(bare, 'classification', 'init_cfg')
    refused({'conv.weight': torch.zeros(1)}, 'no known kind')
    refused({}, 'no state dict')
    refused([1], 'a checkpoint is a dict')


def test_only_a_backbone_of_ours_is_reversed(detector):
    ours = convert_state_dict(detector)
    del ours['backbone.layer3.2.bn1.weight']
    refused(ours, 'missing names: 1 (layer3.2.bn1.weight)', convert=reverse_backbone)
    refused(detector, 'detectron2 checkpoint', convert=reverse_backbone)
    heads = {name: tensor for name, tensor in ours.items() if not name.startswith('backbone.')}
    refused(heads, 'no known kind', convert=reverse_backbone)


# The command


def saved(small, family, path):
    torch.save(as_saved(family, small[family][1]), path)
    return path


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
@pytest.mark.parametrize('family', TITLES)
def test_command(family, suffix, small, tmp_path, capsys):
    model, theirs = small[family]
    source, target, report = saved(small, family, tmp_path / 'in.pth'), tmp_path / f'out.{suffix}', tmp_path / 'r.json'
    assert main(['convert', str(source), str(target), '--report', str(report)]) == 0
    output = capsys.readouterr().out
    facts = json.loads(report.read_text())
    assert facts['target_sha256'] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert facts['source_sha256'] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (facts['family'], facts['choices']) == (family, ''.join(map(str, PINAS_MINI)))
    assert {name for name, _ in facts['mapped']} == set(theirs)
    assert 'optimizer' in facts['left_out']
    classes = 5 if family == 'detectron2' else 7
    for text in (
        f'in.pth: {family}, {classes} classes',
        facts['choices'],
        facts['target_sha256'],
        f'{len(theirs)} names',
    ):
        assert text in output
    expected = model.state_dict()
    if suffix == 'safetensors':
        with safe_open(target, 'pt') as file:
            assert file.metadata()['num_classes'] == str(classes)
    other = built(
        *(
            ('mask-rcnn_pinas-trans_coco', small_detector)
            if family == 'detectron2'
            else ('deeplabv3_pinas-trans_ade20k', small_segmentor)
        ),
        'cpu',
    )
    load_weights(other, target)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())

    assert main(['convert', str(source), str(target)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main(['convert', str(source), str(target), '--force']) == 0
    assert main(['convert', str(source), str(source), '--force']) == 2
    assert main(['convert', str(source), str(target), '--force', '--report', str(target)]) == 2
    assert main(['convert', str(source), str(tmp_path / 'out.txt')]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.pth', target.name, 'r.json']


def test_command_back_to_detectron2(small, tmp_path, capsys):
    model, theirs = small['detectron2']
    records = {'message_hub': {'loss': HistoryBuffer([1.0], [1])}, 'meta': {'iter': 1}}
    torch.save({'state_dict': model.state_dict(), **records}, tmp_path / 'iter_1.pth')
    for target in (tmp_path / 'b.pth', tmp_path / 'b.safetensors'):
        assert main(['convert', str(tmp_path / 'iter_1.pth'), str(target), '--to', 'detectron2']) == 0
    output = capsys.readouterr().out
    assert 'its backbone' in output
    assert f'{len(bottom_up(MINI))} names (backbone.*' in output
    assert 'message_hub' in output
    for weights in (torch.load(tmp_path / 'b.pth')['model'], load_file(tmp_path / 'b.safetensors')):
        assert set(weights) == set(bottom_up(MINI))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights.items())


def test_command_loads_neither_mmdet_nor_mmseg(small, tmp_path):
    source = saved(small, 'detectron2', tmp_path / 'in.pth')
    code = (
        'import sys; from pinas_downstream.cli import main; code = main(); '
        "print('loaded', [name for name in ('mmcv', 'mmdet', 'mmseg') if name in sys.modules]); sys.exit(code)"
    )
    command = [sys.executable, '-c', code, 'convert', str(source), str(tmp_path / 'out.safetensors')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert done.stdout.startswith('in.pth: detectron2, 5 classes\n')
    assert done.stdout.endswith('loaded []\n')
