"""mmcv's operators by torchvision: against torchvision itself and against references that are written out."""

import math

import mmcv.ops
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.mask import BitmapMasks


def reference_nms(boxes, scores, threshold, offset=0):
    """Keep the best box, drop what overlaps it by more than the threshold, repeat. Comparison with NaN is false."""
    x1, y1, x2, y2 = boxes.T
    order = np.argsort(-scores, kind='stable')
    dropped = np.zeros(len(boxes), bool)
    kept = []
    with np.errstate(invalid='ignore', divide='ignore'):
        area = (x2 - x1 + offset) * (y2 - y1 + offset)
        for i in order:
            if dropped[i]:
                continue
            kept.append(i)
            width = np.fmax(0, np.minimum(x2[i], x2) - np.maximum(x1[i], x1) + offset)
            height = np.fmax(0, np.minimum(y2[i], y2) - np.maximum(y1[i], y1) + offset)
            dropped |= width * height / (area[i] + area - width * height) > threshold
    return kept


def random_boxes(count, seed, size=100):
    rng = np.random.default_rng(seed)
    corner, extent = rng.random((count, 2)) * size, rng.random((count, 2)) * size / 3
    return np.hstack([corner, corner + extent]).astype(np.float32), rng.random(count).astype(np.float32)


def check_nms(boxes, scores, threshold=0.5, offset=0):
    boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    detections, kept = mmcv.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, offset=offset)
    assert kept.dtype == torch.int64
    assert kept.tolist() == reference_nms(boxes.astype(np.float64), scores, threshold, offset)
    torch.testing.assert_close(detections, torch.from_numpy(np.hstack([boxes, scores[:, None]]))[kept], equal_nan=True)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('seed', range(5))
def test_nms_of_random_boxes(seed, offset):
    check_nms(*random_boxes(300, seed), offset=offset)


NAN = math.nan


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize(
    'boxes',
    [
        [],
        [[0, 0, 10, 10]],
        [[3, 4, 10, 12]] * 20,  # identical
        [[5, 5, 5, 5]] * 3 + [[0, 0, 10, 10]],  # no area
        [[7, 2, 7, 9]] * 3,  # a line
        [[NAN] * 4, [0, 0, 10, 10], [NAN] * 4, [0, 0, 10, 9]],
        [[0, NAN, 10, 10], [0, 0, 10, 10], [0, 0, NAN, 10]],
        [[10, 10, 0, 0], [0, 0, 10, 10]],  # corners swapped
        [[0, 0, 10, 10], [0, 0, 10, 5]],  # an IoU of exactly one half
        [[-1e4, -1e4, 1e4, 1e4], [0, 0, 1, 1]],
    ],
)
def test_nms_of_degenerate_boxes(boxes, offset):
    check_nms(boxes, np.linspace(1, 0.1, len(boxes)), offset=offset)


def test_nms_of_ten_thousand_boxes():
    check_nms(*random_boxes(10_000, 0, size=1000))


corner = st.integers(0, 6)
box = st.tuples(corner, corner, corner, corner)


@settings(max_examples=100)
@given(st.lists(box, max_size=12), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0, 1]))
def test_nms_of_boxes_on_a_grid(boxes, threshold, offset):
    check_nms(boxes, np.arange(len(boxes), 0, -1), threshold, offset)


def test_nms_options_of_mmcv():
    boxes, scores = map(torch.from_numpy, random_boxes(200, 7))
    _, kept = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.4, max_num=9)
    high = torch.nonzero(scores > 0.4).squeeze(1)
    expected = high[reference_nms(boxes[high].double().numpy(), scores[high].numpy(), 0.5)][:9]
    assert kept.tolist() == expected.tolist()
    assert mmcv.ops.nms(boxes.half().float().bfloat16(), scores, 0.5)[1].dtype == torch.int64


@pytest.mark.parametrize('classes', [1, 5])
def test_batched_nms_keeps_classes_apart(classes):
    boxes, scores = map(torch.from_numpy, random_boxes(400, 3))
    labels = torch.from_numpy(np.random.default_rng(4).integers(0, classes, 400))
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist()
    for split_thr in (10_000, 10):
        _, kept = mmcv.ops.batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5, split_thr=split_thr))
        assert kept.tolist() == expected
    for c in range(classes):
        members = torch.nonzero(labels == c).squeeze(1)
        alone = members[reference_nms(boxes[members].double().numpy(), scores[members].numpy(), 0.5)]
        assert [i for i in expected if labels[i] == c] == alone.tolist()


ROIS = [[0, 1.5, 2, 9, 8], [1, -4, -3, 6, 5], [0, 3, 3, 3, 3], [1, 2, 1, 40, 30], [0, 7.2, 0, 7.9, 11]]


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('size', [(7, 7), (2, 3)])
def test_roi_align_forward_and_gradient_are_torchvisions(size, sampling_ratio, aligned):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 12, 16, requires_grad=True)
    rois = torch.tensor(ROIS)
    weight = torch.randn(len(ROIS), 3, *size)
    output = mmcv.ops.roi_align(features, rois, size, 0.5, sampling_ratio, 'avg', aligned)
    expected = torchvision.ops.roi_align(features, rois, size, 0.5, sampling_ratio, aligned)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output, features, weight)
    (expected_gradient,) = torch.autograd.grad(expected, features, weight)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-6)


def test_roi_align_in_numbers():
    """A ramp is its own bilinear interpolation: the mean over a bin is the value at the bin's centre."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).contiguous()
    layer = mmcv.ops.RoIAlign((1, 2), spatial_scale=0.5, sampling_ratio=2)
    output = layer(ramp, torch.tensor([[0.0, 4, 4, 20, 12]]))
    # Columns 2..10 of the map, half a step to the left, in two bins.
    torch.testing.assert_close(output.flatten(), torch.tensor([4 - 0.5, 8 - 0.5]))


def test_roi_align_gradcheck_and_no_roi():
    features = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor(ROIS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mmcv.ops.roi_align(x, rois, (2, 2), 0.5, 2, 'avg', True), features)
    empty = mmcv.ops.roi_align(features, rois[:0], (2, 2), 0.5, 0, 'avg', True)
    assert empty.shape == (0, 2, 2, 2)
    empty.sum().backward()
    assert not features.grad.any()


def test_roi_align_of_bfloat16_trains():
    features = torch.randn(2, 3, 12, 16)
    halved = features.bfloat16().requires_grad_()
    output = mmcv.ops.roi_align(halved, torch.tensor(ROIS), (3, 3), 0.5, 0, 'avg', True)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    reference = features.clone().requires_grad_()
    mmcv.ops.roi_align(reference, torch.tensor(ROIS), (3, 3), 0.5, 0, 'avg', True).sum().backward()
    torch.testing.assert_close(halved.grad.float(), reference.grad, rtol=0.02, atol=0.02)


def test_mask_targets_are_crops_of_the_masks():
    masks = np.zeros((1, 20, 30), np.uint8)
    masks[0, 5:15, 10:20] = 1
    boxes = np.array([[10, 5, 20, 15], [0, 5, 20, 15]], np.float32)
    targets = BitmapMasks(masks, 20, 30).crop_and_resize(boxes, (4, 4), inds=np.array([0, 0])).masks
    assert targets[0].all()
    assert targets[1].tolist() == [[0, 0, 1, 1]] * 4


@pytest.mark.parametrize(
    ('call', 'name'),
    [
        (
            lambda x: mmcv.ops.deform_conv2d(x, torch.zeros(1, 18, 4, 4), torch.rand(2, 3, 3, 3), 1, 1),
            'deform_conv_forward',
        ),
        (lambda x: mmcv.ops.soft_nms(torch.rand(3, 4), torch.rand(3)), 'softnms'),
        (
            lambda x: mmcv.ops.roi_align(x, torch.zeros(1, 5), 2, 1.0, 0, 'max', True),
            "roi_align_forward with pool_mode='max'",
        ),
    ],
)
def test_other_operators_say_their_name_when_they_are_called(call, name):
    with pytest.raises(NotImplementedError, match='is not available: this mmcv has no compiled operators') as error:
        call(torch.rand(1, 3, 4, 4))
    assert name in str(error.value)
    assert 'Install an mmcv with compiled operators' in str(error.value)
