"""Checkpoints as the authors' programs write them, made of networks of ours: names, order, wrappers and company."""

from __future__ import annotations

import numpy as np
import timm
import torch
from reference import randomize

import pinas_models  # noqa: F401  # registers the models

BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
CONV = ('weight',)
DENSE = ('weight', 'bias')

# Detectron2's name of every module of the backbone and ours, written out from the table of names.
DETECTRON2_STEM = (
    ('stem.conv1.0', 'conv1.0', CONV),
    ('stem.conv1.0.norm', 'conv1.1', BN),
    ('stem.conv1.1', 'conv1.3', CONV),
    ('stem.conv1.1.norm', 'conv1.4', BN),
    ('stem.conv1.2', 'conv1.6', CONV),
    ('stem.conv1.2.norm', 'bn1', BN),
)
DETECTRON2_BLOCK = (
    ('conv1', 'conv1', CONV),
    ('conv1.norm', 'bn1', BN),
    ('conv2.conv', 'conv2.conv', CONV),
    ('conv2.bn0', 'conv2.bn0', BN),
    ('conv2.fc1', 'conv2.fc1', DENSE),
    ('conv2.bn1', 'conv2.bn1', BN),
    ('conv2.fc2', 'conv2.fc2', DENSE),
    ('conv3', 'conv3', CONV),
    ('conv3.norm', 'bn3', BN),
)
DETECTRON2_SHORTCUT = (('shortcut', 'downsample.1', CONV), ('shortcut.norm', 'downsample.2', BN))


def network(name='pinas_mini', seed=0, **kwargs):
    """A network with distinct values everywhere."""
    torch.manual_seed(seed)
    model = randomize(timm.create_model(name, **kwargs).eval(), seed)
    for tensor in model.buffers():
        if not tensor.is_floating_point():
            tensor.fill_(7)
    return model


def backbone_of(weights):
    return {name: tensor for name, tensor in weights.items() if not name.startswith('fc.')}


def _random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _bn(prefix, width):
    return {f'{prefix}.{leaf}': _random(width) for leaf in BN[:4]} | {f'{prefix}.num_batches_tracked': torch.tensor(3)}


def classification(weights):
    """As PyTorch-Encoding's classification training saves it, with NumPy numbers."""
    return {
        'epoch': 270,
        'state_dict': dict(weights),
        'optimizer': {'state': {0: {'momentum_buffer': torch.ones(2)}}, 'param_groups': [{'lr': np.float64(0.2)}]},
        'best_pred': np.float64(81.6),
        'acclist_val': [np.float64(18.4), np.float32(17.5)],
    }


def deeplab_heads(width, classes):
    """The heads of DeepLabV3 over ``width`` channels."""
    heads = {}
    for branch in range(4):
        heads[f'head.aspp.b{branch}.0.weight'] = _random(16, width, *((1, 1) if branch == 0 else (3, 3)))
        heads |= _bn(f'head.aspp.b{branch}.1', 16)
    heads |= {'head.aspp.b4.gap.1.weight': _random(16, width, 1, 1)} | _bn('head.aspp.b4.gap.2', 16)
    heads |= {'head.aspp.project.0.weight': _random(16, 80, 1, 1)} | _bn('head.aspp.project.1', 16)
    for name, channels in (('head.block', 16), ('auxlayer.conv5', width // 2)):
        heads |= {f'{name}.0.weight': _random(16, channels, 3, 3)} | _bn(f'{name}.1', 16)
        heads |= {f'{name}.4.weight': _random(classes, 16, 1, 1), f'{name}.4.bias': _random(classes)}
    return heads


def deeplab(weights, classes=19):
    """As PyTorch-Encoding's segmentation training saves it."""
    tensors = {f'pretrained.{name}': tensor for name, tensor in backbone_of(weights).items()}
    tensors |= deeplab_heads(len(weights['layer4.0.bn3.weight']), classes)
    return {'epoch': 120, 'state_dict': tensors, 'optimizer': {'state': {}}, 'best_pred': np.float64(0.45)}


def detectron2_names(layers):
    """Pairs of Detectron2's name and ours, in Detectron2's order of modules."""
    rows = list(DETECTRON2_STEM)
    for stage, depth in enumerate(layers):
        for block in range(depth):
            modules = (*(DETECTRON2_SHORTCUT if block == 0 else ()), *DETECTRON2_BLOCK)
            rows += [
                (f'res{stage + 2}.{block}.{theirs}', f'layer{stage + 1}.{block}.{ours}', leaves)
                for theirs, ours, leaves in modules
            ]
    return [(f'{theirs}.{leaf}', f'{ours}.{leaf}') for theirs, ours, leaves in rows for leaf in leaves]


def detectron2_heads():
    """What a Mask R-CNN holds beside the bottom-up network; small widths."""
    heads = {'pixel_mean': _random(3, 1, 1), 'pixel_std': _random(3, 1, 1)}
    for level in (2, 3, 4, 5):
        for part, kernel in (('lateral', 1), ('output', 3)):
            heads[f'backbone.fpn_{part}{level}.weight'] = _random(8, 8, kernel, kernel)
            heads |= _bn(f'backbone.fpn_{part}{level}.norm', 8)
    for level in range(5):
        heads[f'proposal_generator.anchor_generator.cell_anchors.{level}'] = _random(3, 4)
    dense = {'proposal_generator.rpn_head.conv': (8, 8, 3, 3)}
    dense |= {'proposal_generator.rpn_head.objectness_logits': (3, 8, 1, 1)}
    dense |= {'proposal_generator.rpn_head.anchor_deltas': (12, 8, 1, 1), 'roi_heads.box_head.fc1': (16, 49)}
    dense |= {'roi_heads.box_predictor.cls_score': (81, 16), 'roi_heads.box_predictor.bbox_pred': (320, 16)}
    dense |= {'roi_heads.mask_head.deconv': (8, 8, 2, 2), 'roi_heads.mask_head.predictor': (80, 8, 1, 1)}
    for name, shape in dense.items():
        heads |= {f'{name}.weight': _random(*shape), f'{name}.bias': _random(shape[0])}
    for part in ('box_head.conv', 'mask_head.mask_fcn'):
        for index in (1, 2, 3, 4):
            heads[f'roi_heads.{part}{index}.weight'] = _random(8, 8, 3, 3)
            heads |= _bn(f'roi_heads.{part}{index}.norm', 8)
    return heads


def detectron2(weights, layers):
    """As Detectron2's checkpointer saves it."""
    tensors = {f'backbone.bottom_up.{theirs}': weights[ours] for theirs, ours in detectron2_names(layers)}
    return {'model': tensors | detectron2_heads(), 'optimizer': {'state': {}}, 'scheduler': {}, 'iteration': 89999}


def supernet(layers=(2, 2, 2, 2), name='pinas_mini', seed=0):
    """A supernet in the authors' spelling: every candidate, and the shared shortcuts under the names of all four."""
    networks = [
        network(name, seed=10 * seed + choice, choices=(choice,) * sum(layers), num_classes=0).state_dict()
        for choice in range(4)
    ]
    tensors = {key: tensor for key, tensor in networks[0].items() if not key.startswith('layer')}
    for stage, depth in enumerate(layers):
        for block in range(depth):
            prefix = f'layer{stage + 1}.{block}.'
            for choice, weights in enumerate(networks):
                for key in weights:
                    if key.startswith(prefix):
                        source = networks[0] if '.downsample.' in key else weights
                        tensors[f'{prefix}{choice}.{key.removeprefix(prefix)}'] = source[key]
    return tensors


def take(tensors, path, layers=(2, 2, 2, 2)):
    """The network of a path in a supernet, under our names."""
    positions = [f'layer{stage + 1}.{block}' for stage, depth in enumerate(layers) for block in range(depth)]
    network = {key: tensor for key, tensor in tensors.items() if not key.startswith('layer')}
    for block, choice in zip(positions, path, strict=True):
        prefix = f'{block}.{choice}.'
        network |= {f'{block}.{k.removeprefix(prefix)}': t for k, t in tensors.items() if k.startswith(prefix)}
    return network


def linear(tensors, classes=10):
    """As OpenSelfSup's linear training saves it."""
    width = tensors['layer4.0.0.downsample.2.weight'].numel()
    head = {'head.fc_cls.weight': _random(classes, width), 'head.fc_cls.bias': _random(classes)}
    return {
        'meta': {'epoch': 6, 'iter': 30000},
        'state_dict': {f'backbone.{key}': tensor for key, tensor in tensors.items()} | head,
        'optimizer': {'state': {}},
    }


def learning(student, teacher, queue_length=32):
    """As OpenSelfSup's learning saves it: queue first, then both encoders, then the student again."""
    tensors = {'queue': _random(128, queue_length), 'queue_ptr': torch.zeros(1, dtype=torch.int64)}
    for encoder, weights in (('encoder_q', student), ('encoder_k', teacher)):
        tensors |= {f'{encoder}.0.{key}': tensor for key, tensor in weights.items()}
        tensors |= {f'{encoder}.1.mlp.{layer}.weight': _random(16, 16) for layer in (0, 2)}
        tensors |= {f'{encoder}.1.mlp.{layer}.bias': _random(16) for layer in (0, 2)}
    tensors |= {f'backbone.{key}': tensor for key, tensor in student.items()}
    return {'meta': {'epoch': 100}, 'state_dict': tensors, 'optimizer': {'state': {}}}
