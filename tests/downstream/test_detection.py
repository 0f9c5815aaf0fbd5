"""Mask R-CNN in mmdet, on the operators of torchvision."""

import mmdet.registry
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData

CONFIG = """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
custom_imports = dict(imports=['pinas_downstream'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='PiNAS', choices='mini', stem_stride=4),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5)))
"""


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    file = tmp_path_factory.mktemp('config') / 'mask_rcnn.py'
    file.write_text(CONFIG)
    torch.manual_seed(0)
    model = mmdet.registry.MODELS.build(Config.fromfile(file).model)
    model.init_weights()
    return model


def samples():
    result = []
    for box in ([10, 20, 60, 80], [30, 5, 90, 50]):
        masks = np.zeros((1, 96, 128), np.uint8)
        masks[0, box[1] : box[3], box[0] : box[2]] = 1
        sample = DetDataSample(metainfo=dict(img_shape=(96, 128), ori_shape=(48, 64), scale_factor=(2.0, 2.0)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([box], dtype=torch.float32), labels=torch.tensor([1]), masks=BitmapMasks(masks, 96, 128)
        )
        result.append(sample)
    return result


def test_mask_rcnn_trains(detector):
    images = [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8) for _ in range(2)]
    batch = detector.train().data_preprocessor(dict(inputs=images, data_samples=samples()), True)
    losses = detector(**batch, mode='loss')
    loss, log = detector.parse_losses(losses)
    assert {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'} <= set(log)
    assert all(value.isfinite() for value in log.values())
    assert log['loss_mask'] > 0.3  # near log 2: there are positive RoIs, and their targets come from RoIAlign
    loss.backward()
    assert all(p.grad is not None for p in detector.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in detector.named_parameters() if name.endswith('conv3.weight'))


def test_mask_rcnn_predicts(detector):
    images = [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8) for _ in range(2)]
    results = detector.eval().test_step(dict(inputs=images, data_samples=samples()))
    for result in results:
        found = result.pred_instances
        assert len(found) == 5
        assert found.masks.shape == (5, 48, 64)
        assert (found.bboxes[:, 2:] >= found.bboxes[:, :2]).all()
        assert (found.scores.diff() <= 0).all()
