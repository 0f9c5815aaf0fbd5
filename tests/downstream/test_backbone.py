"""The backbone in the registries of mmdet, mmseg and mmengine, its conventions and its weights."""

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from reference import filled_state_dict, load_fixture
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm

from pinas_downstream import PiNAS
from pinas_models import PINAS_CLS, PINAS_MINI, PINAS_TRANS, RESNEST50

REGISTRIES = {'mmengine': mmengine.registry, 'mmdet': mmdet.registry, 'mmseg': mmseg.registry}
PATH = '31203121'


def build(**options):
    return mmengine.registry.MODELS.build(dict(type='PiNAS', **options))


def randomised(seed=0, **options):
    """A small timm network with statistics and gammas as after training."""
    torch.manual_seed(seed)
    model = timm.create_model('pinas_mini', choices=PATH, **options)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith('running_var') else tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


# Registration


@pytest.mark.parametrize('name', REGISTRIES)
def test_every_registry_finds_the_one_registration(name):
    assert type(REGISTRIES[name].MODELS.build(dict(type='PiNAS', choices='mini'))) is PiNAS


def test_options_left_by_a_base_config_are_named(tmp_path):
    (tmp_path / 'base.py').write_text("backbone = dict(type='ResNet', depth=50, style='pytorch', frozen_stages=1)\n")
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'base.py'\nbackbone = dict(type='PiNAS', choices='mini')\n")
    with pytest.raises(TypeError, match=r'PiNAS has no option depth, style.*_delete_=True'):
        mmengine.registry.MODELS.build(Config.fromfile(config).backbone)
    config.write_text("_base_ = 'base.py'\nbackbone = dict(_delete_=True, type='PiNAS', choices='mini')\n")
    assert mmengine.registry.MODELS.build(Config.fromfile(config).backbone).frozen_stages == -1


# The network


@pytest.mark.parametrize(
    ('choices', 'path'),
    [
        ('cls', PINAS_CLS),
        ('trans', PINAS_TRANS),
        ('resnest50', RESNEST50),
        ('mini', PINAS_MINI),
        ('0013231203213032', (0, 0, 1, 3, 2, 3, 1, 2, 0, 3, 2, 1, 3, 0, 3, 2)),
        (3013231203213032, PINAS_CLS),  # what a command line makes of it
        ([3, 1, 2, 0, 3, 1, 2, 1], (3, 1, 2, 0, 3, 1, 2, 1)),
    ],
)
def test_choices(choices, path):
    with torch.device('meta'):
        assert PiNAS(choices).choices == path


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(choices=13), r'number 13.*lose the zeros in front.*choices=\[0,0,1'),
        (dict(choices='alpha'), "'cls', 'trans', 'resnest50', 'mini', 16 digits"),
        (dict(choices='301'), 'choices has 3 positions, this network has 16'),
        (dict(choices='3013231203213034'), r'choices\[15\] is 4'),
        (dict(choices='mini', out_indices=(4,)), r'out_indices is \(4,\)'),
        (dict(choices='mini', out_indices=(2, 1)), 'rising order'),
        (dict(choices='mini', frozen_stages=5), 'frozen_stages is 5'),
        (dict(choices='mini', output_stride=7), 'output_stride is 7'),
        (dict(choices='mini', norm_cfg=dict(type='GN', num_groups=32)), 'norm_cfg is .*GN'),
        (dict(choices='mini', pretrained='open-mmlab://resnet50_v1c'), 'pretrained=None in the model'),
    ],
)
def test_values_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        PiNAS(**options)


@pytest.mark.parametrize(
    ('stem_stride', 'output_stride', 'strides'), [(None, None, [2, 4, 8, 16]), (4, 8, [4, 8, 8, 8])]
)
def test_features_are_those_of_timm(stem_stride, output_stride, strides):
    reference = randomised(stem_stride=stem_stride, output_stride=output_stride, num_classes=0)
    backbone = PiNAS(PATH, stem_stride=stem_stride, output_stride=output_stride).eval()
    assert list(backbone.state_dict()) == list(reference.state_dict())
    backbone.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 65, 96)
    features = backbone(x)
    expected = reference.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
    for feature, channels, stride, reference_feature in zip(
        features, backbone.out_channels, backbone.out_strides, expected, strict=True
    ):
        assert torch.equal(feature, reference_feature)
        assert feature.shape[1] == channels
        assert feature.shape[2:] == (-(-65 // stride), -(-96 // stride))
    assert backbone.out_strides == strides


def test_stages_behind_the_last_index_are_not_built():
    backbone = PiNAS('mini', out_indices=(1, 2))
    assert [name for name, _ in backbone.named_children()][-1] == 'layer3'
    features = backbone(torch.randn(2, 3, 32, 32))
    assert [f.shape[1] for f in features] == backbone.out_channels == [128, 256]


def test_in_channels():
    assert PiNAS('mini', in_channels=4)(torch.randn(2, 4, 32, 32))[0].shape == (2, 64, 16, 16)


# mmdet's conventions


def norms(module):
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages_stay_frozen_in_training(frozen_stages):
    backbone = PiNAS('mini', frozen_stages=frozen_stages)
    for _ in range(2):
        assert backbone.train() is backbone
        frozen = [] if frozen_stages < 0 else ['conv1', 'bn1', *(f'layer{s}' for s in range(1, frozen_stages + 1))]
        for name, part in backbone.named_children():
            assert all(p.requires_grad == (name not in frozen) for p in part.parameters())
            assert all(m.training == (name not in frozen) for m in norms(part))
        backbone.eval()
    assert not any(m.training for m in norms(backbone))


def test_norm_eval_keeps_the_statistics_and_trains_the_rest():
    backbone = PiNAS('mini', norm_eval=True).train()
    before = {name: tensor.clone() for name, tensor in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.named_buffers())
    assert all(p.grad is not None for p in backbone.parameters())
    assert not any(m.training for m in norms(backbone.train()))
    assert backbone.layer1[0].training


def test_frozen_bn():
    backbone = PiNAS('mini', norm_cfg=dict(type='BN', requires_grad=False, eps=1e-3), norm_eval=True).train()
    assert not any(p.requires_grad for m in norms(backbone) for p in m.parameters())
    assert all(m.eps == 1e-3 for m in norms(backbone))
    assert all(p.requires_grad for name, p in backbone.named_parameters() if 'conv3' in name)


def test_sync_bn_is_bn_without_a_gpu_and_survives_the_runners_conversion(monkeypatch):
    torch.manual_seed(0)
    plain = PiNAS('mini')
    assert {type(m) for m in norms(PiNAS('mini', norm_cfg=dict(type='SyncBN')))} <= {
        torch.nn.SyncBatchNorm if torch.cuda.is_available() else torch.nn.BatchNorm2d
    }
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)  # the modules alone need no GPU
    synchronised = PiNAS('mini', norm_cfg=dict(type='SyncBN'))
    assert {type(m) for m in norms(synchronised)} == {torch.nn.SyncBatchNorm}
    monkeypatch.undo()
    synchronised.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    expected = plain(x)[-1]
    # A Runner of one process does this.
    assert torch.equal(revert_sync_batchnorm(synchronised).train()(x)[-1], expected)


def test_with_cp_changes_neither_outputs_nor_gradients():
    torch.manual_seed(0)
    # Statistics are kept: they would be updated once more in the second pass.
    plain, recomputing = PiNAS('mini', norm_eval=True).train(), PiNAS('mini', norm_eval=True, with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    calls = []
    recomputing.layer2[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    for backbone in (plain, recomputing):
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert len(calls) == 2
    for ours, expected in zip(recomputing.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-5, atol=1e-7)


# Pretrained weights


def check_loaded(backbone, weights):
    backbone.init_weights()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_weights_from_safetensors_a_model_folder_and_a_name_of_timm(tmp_path):
    model = randomised()
    weights = model.state_dict()
    save_file(weights, tmp_path / 'w.safetensors')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.safetensors'))
    check_loaded(build(choices=PATH, init_cfg=init_cfg, out_indices=(0, 1, 2)), weights)
    timm.models.save_for_hf(model, tmp_path / 'model', model_args=dict(choices=PATH))
    init_cfg = dict(type='Pretrained', checkpoint=f'local-dir:{tmp_path / "model"}')
    check_loaded(build(choices=PATH, init_cfg=[dict(type='Kaiming', layer='Conv2d'), init_cfg]), weights)
    init_cfg = dict(type='Pretrained', checkpoint='pinas_mini.cifar10')
    expected = timm.create_model('pinas_mini', pretrained=True).state_dict()
    check_loaded(build(choices='mini', init_cfg=init_cfg), expected)


def test_weights_out_of_a_whole_model(tmp_path):
    weights = randomised(num_classes=0).state_dict()
    file = str(tmp_path / 'epoch_1.pth')
    whole = {'head.w': torch.ones(1), **{f'backbone.{name}': tensor for name, tensor in weights.items()}}
    torch.save({'meta': {}, 'state_dict': whole}, file)
    init_cfg = dict(type='Pretrained', checkpoint=file, prefix='backbone')
    check_loaded(build(choices=PATH, init_cfg=init_cfg), weights)
    with pytest.raises(ValueError, match=r"no name begins with 'nope\.'; the first are head\.w, backbone\.conv1"):
        build(choices=PATH, init_cfg={**init_cfg, 'prefix': 'nope'}).init_weights()
    with pytest.raises(ValueError, match=r"needs prefix='backbone\.'"):
        build(choices=PATH, init_cfg=dict(type='Pretrained', checkpoint=file)).init_weights()


def test_weights_that_do_not_fit(tmp_path):
    weights = randomised(num_classes=0).state_dict()
    file = str(tmp_path / 'w.pth')
    init_cfg = dict(type='Pretrained', checkpoint=file)
    torch.save({name: tensor for name, tensor in weights.items() if name != 'layer3.0.bn1.weight'}, file)
    with pytest.raises(ValueError, match=r'missing names: 1 \(layer3\.0\.bn1\.weight\)'):
        build(choices=PATH, init_cfg=init_cfg).init_weights()
    torch.save(weights, file)
    with pytest.raises(ValueError, match='differ at position 7'):
        build(choices=PATH[:-1] + '0', init_cfg=init_cfg).init_weights()
    with pytest.raises(ValueError, match=r'conv1\.0\.weight'):
        build(choices=PATH, in_channels=1, init_cfg=init_cfg).init_weights()
    with pytest.raises(ValueError, match='no weights are published for pinas_resnest50'):
        build(choices='resnest50', init_cfg=dict(type='Pretrained', checkpoint='pinas_resnest50')).init_weights()
    with pytest.raises(FileNotFoundError, match='no such file'):
        build(choices=PATH, init_cfg=dict(type='Pretrained', checkpoint='missing.pth')).init_weights()


def test_full_size_weights_of_the_authors_segmentation_network(tmp_path):
    weights = filled_state_dict(load_fixture('deeplab_ade'))  # with both heads, which are left out
    file = tmp_path / 'PiNAS_trans_ade.pth.tar'
    torch.save({'state_dict': weights}, file)
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    expected = {name.removeprefix('pretrained.'): tensor for name, tensor in weights.items()}
    check_loaded(build(choices='trans', init_cfg=init_cfg), expected)


def test_timms_resnest_is_the_baseline(tmp_path):
    weights = timm.create_model('resnest50d').state_dict()
    torch.save(weights, tmp_path / 'resnest50d.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnest50d.pth'))
    check_loaded(build(choices='resnest50', init_cfg=init_cfg), weights)
