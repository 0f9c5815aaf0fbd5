"""The authors' multi-scale evaluation: their numbers, and the same ranking where theirs overflows."""

import math

import mmseg.registry
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.runner import load_state_dict
from mmseg.structures import SegDataSample
from reference import assert_close, filled_state_dict, load_fixture, make_input
from torch import nn

from pinas_downstream.models.evaluator import MultiEvalSettings, multi_eval

FIXTURE = load_fixture('multi_eval')
BLACK = -torch.tensor(FIXTURE.meta['mean']) / torch.tensor(FIXTURE.meta['std'])


class Toy(nn.Module):
    """The network of the fixture."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)
        self.load_state_dict(filled_state_dict(FIXTURE))
        self.gain = gain

    def forward(self, x):
        return self.gain * self.conv(x)


def settings_and_image(case, **changes):
    meta = FIXTURE.meta['cases'][case]
    settings = dict(base_size=meta['base_size'], crop_size=meta['crop_size'], scales=meta['scales'])
    return MultiEvalSettings(**{**settings, **changes}), 0.5 * make_input(meta['seed'], meta['input_shape'])


@torch.no_grad()
@pytest.mark.parametrize('case', ['A', 'B'])
def test_the_authors_scores(case):
    settings, image = settings_and_image(case)
    scores = multi_eval(Toy(), image, settings, BLACK).exp()
    assert_close(scores, FIXTURE.arrays[f'{case}_full'], case, rtol=1e-4)
    for name, expected in FIXTURE.arrays.items():
        if name.startswith(f'{case}_scale_'):
            scale, _, no_flip = name.removeprefix(f'{case}_scale_').partition('_')
            settings, _ = settings_and_image(case, scales=[float(scale)], flip=not no_flip)
            assert_close(multi_eval(Toy(), image, settings, BLACK).exp()[..., ::2, ::2], expected, name, rtol=1e-4)


def reference_multi_eval(network, image, settings, black):
    """The authors' procedure, written out with its exponentials."""
    size, crop = image.shape[2:], settings.crop_size

    def pad(x):
        height, width = max(x.shape[2], crop), max(x.shape[3], crop)
        padded = black.view(1, 3, 1, 1).expand(1, 3, height, width).clone()
        padded[:, :, : x.shape[2], : x.shape[3]] = x
        return padded

    def infer(x):
        logits = network(x)
        return torch.exp(logits + network(x.flip(3)).flip(3) if settings.flip else logits)

    total = 0
    for scale in settings.scales:
        long = math.ceil(settings.base_size * scale)
        height, width = size
        new = (long, int(width * long / height + 0.5)) if height > width else (int(height * long / width + 0.5), long)
        x = F.interpolate(image, new, mode='bilinear', align_corners=True)
        if long <= crop:
            scores = infer(pad(x))
        else:
            x = pad(x) if min(new) < crop else x
            scores, count = 0, 0
            stride = int(crop * 2 / 3)
            starts = [[i * stride for i in range(math.ceil((n - crop) / stride) + 1)] for n in x.shape[2:]]
            for top in starts[0]:
                for left in starts[1]:
                    window = x[:, :, top : top + crop, left : left + crop]
                    h, w = window.shape[2:]
                    edges = (left, x.shape[3] - left - w, top, x.shape[2] - top - h)
                    scores = scores + F.pad(infer(pad(window))[:, :, :h, :w], edges)
                    count = count + F.pad(torch.ones(1, 1, h, w), edges)
            scores = scores / count
        total = total + F.interpolate(scores[:, :, : new[0], : new[1]], size, mode='bilinear', align_corners=True)
    return total


@torch.no_grad()
@pytest.mark.parametrize('case', ['A', 'B'])
def test_ranking_where_float32_overflows(case):
    settings, image = settings_and_image(case)
    network = Toy(gain=40.0)
    exact = reference_multi_eval(Toy(gain=40.0).double(), image.double(), settings, BLACK.double())
    assert exact.isfinite().all()
    assert exact.max() > torch.finfo(torch.float32).max
    assert not reference_multi_eval(network, image, settings, BLACK).isfinite().all()
    scores = multi_eval(network, image, settings, BLACK)
    assert scores.isfinite().all()
    # A neighbour of weight 1e-8 counts if its score is e^60 larger, so single scores depend on the rounding of weights.
    assert ((scores - exact.log()).abs() > 0.01).float().mean() < 1e-3
    # Scores that differ by less than the noise of float32 may change places.
    clear = exact.log().sort(1).values.diff(dim=1).amin(1) > 0.02
    assert clear.float().mean() > 0.99
    same = (scores.argsort(1) == exact.argsort(1)).all(1)
    assert same[clear].float().mean() > 0.999


@torch.no_grad()
@pytest.mark.parametrize(('height', 'width'), [(20, 50), (50, 20), (33, 33), (1, 7)])
def test_sizes_of_images(height, width):
    settings = MultiEvalSettings(base_size=30, crop_size=24, scales=(0.5, 1.0, 2.5))
    image = 0.3 * torch.randn(1, 3, height, width)
    scores = multi_eval(Toy(), image, settings, BLACK)
    assert_close(scores.exp(), reference_multi_eval(Toy(), image, settings, BLACK).numpy(), rtol=1e-3)


def test_settings_are_checked():
    for wrong in (dict(base_size=0), dict(crop_size=1), dict(scales=())):
        with pytest.raises(ValueError, match='must be positive, and there must be a scale'):
            MultiEvalSettings(**{'base_size': 30, 'crop_size': 24, **wrong})


# In mmseg


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def segmentor(kind='MultiEvalEncoderDecoder', num_classes=4, **test_cfg):
    torch.manual_seed(0)
    return ConfigDict(
        type=kind,
        data_preprocessor=dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=dict(type='PiNAS', choices='mini'),
        decode_head=dict(type='EncodingDeepLabHead', in_channels=512, channels=8, num_classes=num_classes),
        train_cfg=dict(),
        test_cfg=dict(mode='whole', **test_cfg),
    )


OPTIONS = dict(base_size=48, crop_size=32, scales=(0.5, 1.0))


def data(height=30, width=44):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8))
    sample = SegDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width), img_path='a.jpg'))
    return dict(inputs=[image], data_samples=[sample])


def test_test_mode_and_tta_model_are_the_evaluation_of_the_segmentor(mmseg_scope):
    model = mmseg.registry.MODELS.build(segmentor()).eval()
    whole = model.test_step(data())[0].seg_logits.data
    model.test_cfg = ConfigDict(mode='multi_eval', **OPTIONS)
    by_mode = model.test_step(data())[0]
    image = (data()['inputs'][0].flip(0)[None] - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def logits(x):
        return F.interpolate(model._forward(x), x.shape[2:], mode='bilinear', align_corners=True)

    black = -torch.tensor(MEAN) / torch.tensor(STD)
    with torch.no_grad():
        expected = multi_eval(logits, image, MultiEvalSettings(**OPTIONS), black)
    assert_close(by_mode.seg_logits.data[None], expected.numpy(), rtol=1e-4)
    assert torch.equal(by_mode.pred_sem_seg.data, by_mode.seg_logits.data.argmax(0, keepdim=True))
    assert not torch.allclose(whole, by_mode.seg_logits.data, atol=1e-2)

    # mmseg's tools/test.py --tta makes this of a config.
    tta = mmseg.registry.MODELS.build(
        ConfigDict(type='MultiEval', module=segmentor('EncoderDecoder'), **OPTIONS)
    ).eval()
    assert isinstance(tta, BaseTTAModel)
    load_state_dict(tta, model.state_dict(), strict=True)  # as a Runner loads a checkpoint of the segmentor
    assert torch.equal(tta.test_step(data())[0].seg_logits.data, by_mode.seg_logits.data)


def test_options_that_do_not_exist_and_binary_segmentors(mmseg_scope):
    model = mmseg.registry.MODELS.build(segmentor()).eval()
    model.test_cfg = ConfigDict(mode='multi_eval', base_size=48, crop_size=32, scale=1)
    with pytest.raises(TypeError, match='scale'):
        model.test_step(data())
    model.test_cfg = ConfigDict(mode='multi_eval', **OPTIONS)
    model.out_channels = 1
    with pytest.raises(ValueError, match='ranks classes'):
        model.test_step(data())
