"""DeepLabV3 in mmseg: the heads compute what the authors' do, and they train."""

import mmseg.registry
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from reference import assert_close, assert_features, filled_state_dict, load_fixture, make_input

from pinas_downstream.convert import convert_state_dict

# mmseg says at each prediction that align_corners fits some sizes better; the authors use it with all.
pytestmark = pytest.mark.filterwarnings('ignore:When align_corners=True')


def deeplab(choices, num_classes, channels=256, in_channels=(1024, 2048), **options):
    """The authors' network as an mmseg model."""
    heads = dict(num_classes=num_classes, channels=channels)
    return mmseg.registry.MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
            backbone=dict(type='PiNAS', choices=choices, output_stride=8, stem_stride=4),
            decode_head=dict(type='EncodingDeepLabHead', in_channels=in_channels[1], in_index=3, **heads),
            auxiliary_head=dict(type='EncodingFCNHead', in_channels=in_channels[0], in_index=2, **heads),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
            **options,
        )
    )


@pytest.fixture(scope='module')
def ade():
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        model = deeplab('trans', 150)
    weights = filled_state_dict(load_fixture('deeplab_ade'))
    model.load_state_dict(convert_state_dict(weights), strict=True, assign=True)
    return model.eval()


@torch.no_grad()
def test_the_authors_network_for_ade20k(ade):
    fixture = load_fixture('deeplab_ade')
    assert sum(p.numel() for p in ade.parameters()) == fixture.meta['count']['params']
    features = ade.extract_feat(fixture.input())
    assert_features(features[2], fixture, 'c3')
    assert_features(features[3], fixture, 'c4')
    head, expected = ade.decode_head, fixture.arrays
    assert_close(head.aspp.b4(features[3])[0, :, 0, 0], expected['pool_branch'], 'pool_branch')
    assert_close(head.aspp(features[3])[0].mean((1, 2)), expected['aspp_gap'], 'aspp_gap')
    assert_close(head(features), expected['main8'], 'main8')
    assert_close(ade.auxiliary_head(features), expected['aux8'], 'aux8')


@torch.no_grad()
def test_logits_at_the_size_of_the_image(ade):
    fixture = load_fixture('deeplab_ade')
    metas = [dict(img_shape=tuple(fixture.meta['input_shape'][2:]))]
    logits = ade.encode_decode(fixture.input(), metas)
    assert_close(logits[:, ::10, ::8, ::8], fixture.arrays['main_up_slice'], 'main_up_slice')
    assert_close(torch.stack([logits.mean(), logits.std(correction=0)]), fixture.arrays['main_up_stats'], 'stats')
    auxiliary = ade.auxiliary_head.predict(ade.extract_feat(fixture.input()), metas, None)
    assert_close(auxiliary[:, ::10, ::8, ::8], fixture.arrays['aux_up_slice'], 'aux_up_slice')


@torch.no_grad()
def test_all_dilated_taps(ade):
    """A map that is large enough to see dilations 24 and 36."""
    logits = ade.decode_head([None, None, None, make_input(156, (1, 2048, 40, 44)).abs()])
    assert_close(logits[:, ::10, ::4, ::4], load_fixture('deeplab_ade').arrays['head40_slice'], 'head40_slice')


@pytest.fixture
def small(mmseg_scope):
    torch.manual_seed(0)
    return deeplab('mini', 5, channels=16, in_channels=(256, 512)).train()


def labelled(labels):
    samples = []
    for label in labels:
        sample = SegDataSample(metainfo=dict(img_shape=tuple(label.shape), ori_shape=tuple(label.shape)))
        sample.gt_sem_seg = PixelData(data=label[None])
        samples.append(sample)
    return samples


def test_training_reaches_every_parameter(small):
    labels = torch.randint(0, 5, (2, 64, 64))
    labels[:, :30] = 255  # ignored
    samples = labelled(labels)
    x = torch.randn(2, 3, 64, 64)
    losses = small.loss(x, samples)
    assert set(losses) == {'decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg'}
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    # The mean is over the pixels that count, and the auxiliary loss weighs 0.2.
    small.eval()
    losses, features = small.loss(x, samples), small.extract_feat(x)
    for name, head, weight in (('decode', small.decode_head, 1.0), ('aux', small.auxiliary_head, 0.2)):
        logits = torch.nn.functional.interpolate(head(features), (64, 64), mode='bilinear', align_corners=True)
        expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        torch.testing.assert_close(losses[f'{name}.loss_ce'], weight * expected)


def test_dropout_is_that_of_the_authors(small):
    """Whole channels behind the projection, single elements before the classifiers."""
    torch.manual_seed(0)  # mmcv's and PyTorch's dropout take no generator
    ones = torch.ones(4, 64, 10, 10)
    for head in (small.decode_head, small.auxiliary_head):
        dropped = (head.dropout(ones) == 0).flatten(2).float().mean(2)
        assert ((dropped > 0) & (dropped < 0.5)).all()
    dropped = (small.decode_head.aspp.project[3](ones) == 0).flatten(2).float().mean(2)
    assert set(dropped.flatten().tolist()) == {0.0, 1.0}


def test_prediction(small):
    samples = small.eval().predict(torch.randn(2, 3, 40, 56), labelled(torch.zeros(2, 40, 56, dtype=torch.long)))
    assert samples[0].pred_sem_seg.data.shape == (1, 40, 56)
    assert samples[0].seg_logits.data.shape == (5, 40, 56)


def test_configs_of_mmseg_are_found(tmp_path):
    (tmp_path / 'config.py').write_text("_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'\n")
    assert Config.fromfile(tmp_path / 'config.py').model.decode_head.type == 'ASPPHead'
