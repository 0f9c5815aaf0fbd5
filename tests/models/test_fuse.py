"""A fused network computes what the network computes, wherever a timm model can be used."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import OperatorLog, assert_close, fill, filled_state_dict, load_fixture, make_input
from timm.layers import ScaledStdConv2d, SplitAttn, freeze_batch_norm_2d
from torch import nn

import pinas_models
from pinas_models import fuse
from pinas_models.deploy.fuse import FusedSplitAttn, fold_batch_norms

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def filled(name, **kwargs):
    """A network whose every tensor, also the BN statistics, is far from its initial value."""
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict({n: torch.from_numpy(fill(n, t.shape)) for n, t in model.state_dict().items()})
    return model


def mini(choices='01233210', **kwargs):
    return filled('pinas_mini', choices=choices, **kwargs)


def count(model, *types):
    return sum(isinstance(module, types) for module in model.modules())


def images(*shape, seed=1):
    return make_input(seed, shape or (2, 3, 41, 33))


@torch.no_grad()
def assert_equal(actual, expected, x, tolerance=1e-4):
    """Equal outputs, relative to the largest, and not because there is nothing in them."""
    want, got = expected(x), actual(x)
    want, got = (y if isinstance(y, list | tuple) else [y] for y in (want, got))
    assert len(want) == len(got)
    for w, g in zip(want, got, strict=True):
        assert w.shape == g.shape
        assert w.std() > 0.05
        assert (w - g).abs().max() <= tolerance * w.abs().max()


# The same outputs


@pytest.mark.parametrize('stem_stride', [4, 2, 1])
@pytest.mark.parametrize('factor', [8, 4, 2])
@pytest.mark.parametrize('choice', range(4))
def test_every_choice_at_every_output_stride(choice, factor, stem_stride):
    model = mini(str(choice) * 8, stem_stride=stem_stride, output_stride=factor * stem_stride)
    fused = fuse(model)
    x = images()
    assert_equal(fused, model, x)
    with torch.no_grad():
        expected, actual = (m.forward_intermediates(x, intermediates_only=True) for m in (model, fused))
    for label, (want, got) in enumerate(zip(expected, actual, strict=True)):
        assert_close(got, want.numpy(), f'feature {label}', rtol=1e-4, atol=1e-4)
    # Every convolution is in front of a BN but fc2 of the split attention, which had a bias before.
    assert count(fused, *BATCH_NORMS) == 0
    assert all(module.bias is not None for module in fused.modules() if isinstance(module, nn.Conv2d))
    assert count(fused, SplitAttn) == 0
    assert count(fused, FusedSplitAttn) == 8


def test_exact_up_to_rounding():
    """In double the difference is ten orders below float32's tolerance: the algebra is right, not merely close."""
    for path in ('01233210', '3' * 8):
        model = mini(path).double()
        assert_equal(fuse(model), model, images().double(), tolerance=1e-13)


@pytest.mark.parametrize(('fixture', 'name'), [('cls_32', 'pinas_cls'), ('resnest50', 'resnest50d')])
def test_published_networks_still_give_the_authors_outputs(fixture, name):
    reference = load_fixture(fixture)
    model = timm.create_model(name, device='meta')
    model.load_state_dict(filled_state_dict(reference), strict=True, assign=True)
    with torch.inference_mode():
        logits = fuse(model.eval()).to(memory_format=torch.channels_last)(reference.input())
    assert_close(logits, reference.arrays['logits'], 'logits')


def test_order_of_the_split_attention():
    """Attention values, read where they are applied: after conv, bn0, act0; fc1, bn1, act1; fc2."""
    model = mini('3' * 8)
    fused = fuse(model)
    reference, block = model.layer2[0].conv2, fused.layer2[0].conv2
    assert [name for name, _ in block.named_children()] == [
        name for name, _ in reference.named_children() if name != 'rsoftmax'
    ]
    seen = {}
    for name in ('act0', 'act1', 'fc2'):
        for part in (reference, block):
            part.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name: seen.setdefault(name, []).append(out.clone())
            )
    assert_equal(fused, model, images())
    for name, (want, got) in seen.items():
        assert want.std() > 0.05
        assert_close(got, want.detach().numpy(), name, rtol=1e-4, atol=1e-4)
    # The fused network runs last: its own values are what the split attention really used.
    with torch.no_grad():
        logits = seen['fc2'][1].view(2, 2, 2, -1)  # image, cardinality, radix, channel
        weight = logits.softmax(2).transpose(1, 2).reshape(2, 2, -1, 1, 1)
        splits = seen['act0'][1].unflatten(1, (2, -1))
        out = (weight * splits).sum(1)
        assert_close(block(_input_of(block, fused)), out.numpy(), 'split attention', rtol=1e-4, atol=1e-5)


def _input_of(part, model):
    found = []
    handle = part.register_forward_pre_hook(lambda module, args: found.append(args[0].clone()))
    with torch.no_grad():
        model(images())
    handle.remove()
    return found[0]


@settings(max_examples=60)
@given(
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 2),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_convolution_and_batch_norm(groups, bias, affine, eps, dilation, stride, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, 3, stride, dilation=dilation, padding=dilation, groups=groups, bias=bias)
    norm = nn.BatchNorm2d(8, eps=eps, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model = nn.Sequential(conv, norm).eval()
    fused = fuse(model)
    assert count(fused, nn.BatchNorm2d) == 0
    with torch.no_grad():
        x = torch.randn(2, 4, 9, 7)
        assert_close(fused(x), model(x).numpy(), rtol=1e-4, atol=1e-4)


def test_fewer_operators():
    norms, convolutions = [], []
    for model in (mini(), fuse(mini())):
        with torch.no_grad(), OperatorLog() as log:
            model(images())
        norms.append(len([name for name in log.names if 'batch_norm' in name]))
        convolutions.append(log.names.count('aten.convolution.default'))
    assert norms == [3 + 8 * 4 + 4, 0]  # 3 in the stem, 4 in a block, 1 in the shortcut of a stage
    assert convolutions == [3 + 8 * 5 + 4] * 2


# What is left as it was


def test_the_model_is_not_changed():
    model = mini()
    before = copy.deepcopy(model.state_dict())
    want = model(images())
    fused = fuse(model)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(images()), want)


def test_other_norms_stay():
    model = timm.create_model('pinas_mini', norm_layer='groupnorm1').eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    fused = fuse(model)
    assert count(fused, nn.GroupNorm) == count(model, nn.GroupNorm) == 3 + 8 * 4 + 4
    assert_equal(fused, model, images())
    with torch.autocast('cpu', torch.bfloat16):  # where these norms go on in float32
        assert_equal(fused, model, images(), tolerance=0.05)


class Cases(nn.Module):
    """Convolutions and batch norms that do not belong together, and one pair that does."""

    def __init__(self):
        super().__init__()
        self.pair_conv, self.pair_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.branching_conv, self.branching_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.shared_conv, self.shared_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.batch_conv, self.batch_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.standardised_conv, self.standardised_norm = ScaledStdConv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.parametrized_conv, self.parametrized_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        nn.utils.parametrizations.weight_norm(self.parametrized_conv)
        self.first_norm, self.last_conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                if module.running_mean is not None:
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.pair_norm(self.pair_conv(x))
        y = self.branching_conv(x)
        x = self.branching_norm(y) + y
        x = self.shared_norm(self.shared_conv(x))
        x = self.shared_norm(self.shared_conv(x))
        x = self.batch_norm(self.batch_conv(x))
        x = self.standardised_norm(self.standardised_conv(x))
        x = self.parametrized_norm(self.parametrized_conv(x))
        return self.last_conv(self.first_norm(x.relu()))


def test_what_does_not_belong_together_stays():
    torch.manual_seed(0)
    model = Cases().eval()
    fused = fuse(model)
    assert isinstance(fused.pair_norm, nn.Identity)
    norms = {name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)} - {'pair_norm'}
    assert_equal(fused, model, torch.randn(2, 4, 5, 5))


def test_frozen_and_synchronised_batch_norms():
    model = mini()
    for variant in (freeze_batch_norm_2d(copy.deepcopy(model)), nn.SyncBatchNorm.convert_sync_batchnorm(mini())):
        variant = variant.eval()
        assert count(variant, nn.BatchNorm2d) == 0
        fused = fuse(variant)
        assert not [n for n, m in fused.named_modules() if 'BatchNorm' in type(m).__name__]
        assert_equal(fused, model, images())


@pytest.mark.parametrize('name', ['resnest14d', 'resnet10t', 'test_efficientnet'])
def test_other_networks_of_timm(name):
    model = filled(name, num_classes=7)
    assert_equal(fuse(model), model, images(2, 3, 64, 96))


# A timm model like any other


def test_class_and_methods_stay():
    model = mini(num_classes=7, global_pool='avg')
    fused = fuse(model)
    assert type(fused) is pinas_models.PinasNet
    assert not fused.training
    x = images()
    with torch.no_grad():
        assert_close(fused.forward_features(x), model.forward_features(x).numpy(), rtol=1e-4, atol=1e-4)
        fused.reset_classifier(0)
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        assert_close(fused(x), pooled.numpy(), rtol=1e-4, atol=1e-4)
    assert fused.prune_intermediate_layers([2], prune_head=True) == [2]
    again = fuse(mini(num_classes=7))
    again.load_state_dict({n: t * 0 for n, t in again.state_dict().items()})
    again.load_state_dict(fuse(model).state_dict())
    assert_equal(again, model, x)


@pytest.mark.parametrize('feature_cls', ['list', 'dict', 'fx', 'getter'])
def test_features_only(feature_cls):
    kwargs = dict(choices='01233210', features_only=True, feature_cls=feature_cls, out_indices=(1, 2, 4))
    torch.manual_seed(0)
    model = timm.create_model('pinas_mini', **kwargs).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(fill(name, tensor.shape)))
    fused = fuse(model)
    assert count(fused, nn.BatchNorm2d) == 0
    if feature_cls == 'dict':
        x = images()
        with torch.no_grad():
            want, got = model(x), fused(x)
        assert list(want) == list(got)
        for name in want:
            assert_close(got[name], want[name].numpy(), name, rtol=1e-4, atol=1e-4)
    else:
        assert_equal(fused, model, images())


def test_fused_twice():
    model = mini()
    assert_equal(fuse(fuse(model)), model, images())


def test_drop_rates_do_not_hinder():
    model = mini(drop_rate=0.2, drop_path_rate=0.2, drop_block_rate=0.2)
    fused = fuse(model)
    assert count(fused, nn.BatchNorm2d) == 0
    assert_equal(fused, mini(), images())


def test_gradients_of_the_images():
    """For saliency maps: the fused operations have the same derivative."""
    gradients = []
    for model in (mini().double(), fuse(mini().double())):
        x = images().double().requires_grad_()
        model(x)[:, 1].sum().backward()
        gradients.append(x.grad)
    assert gradients[0].abs().max() > 1e-3
    assert_close(gradients[1], gradients[0].numpy(), rtol=1e-9, atol=1e-9)


# Memory formats and precisions


@pytest.mark.parametrize('path', ['0' * 8, '1' * 8, '2' * 8, '3' * 8])
def test_channels_last(path):
    model = mini(path)
    x = images().to(memory_format=torch.channels_last)
    before = fuse(copy.deepcopy(model).to(memory_format=torch.channels_last))
    after = fuse(model).to(memory_format=torch.channels_last)
    for fused in (before, after):
        assert fused.layer1[0].conv2.conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert_equal(fused, model, x)
        seen = []
        for name, module in fused.named_modules():
            if name.endswith(('conv1', 'conv2', 'conv3')):
                module.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        with torch.no_grad():
            fused(x)
        # No part goes back to the other order; timm's split attention does.
        assert len(seen) == 1 + 8 * 3
        assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)


def test_bfloat16():
    """As near to float32 as the network itself in bfloat16, in every way to get there."""
    model = mini()
    x = images(8, 3, 33, 33)
    with torch.no_grad():
        want = model(x)
        plain = copy.deepcopy(model).to(torch.bfloat16)(x.bfloat16())
        with torch.autocast('cpu', torch.bfloat16):
            casts = [model(x), fuse(model)(x)]
        first = fuse(model).to(torch.bfloat16)
        late = fuse(copy.deepcopy(model).to(torch.bfloat16))
        assert {p.dtype for m in (first, late) for p in m.parameters()} == {torch.bfloat16}
        outputs = [first(x.bfloat16()), late(x.bfloat16()), *casts]
    limit = (plain - want).abs().max()
    assert limit < 0.03 * want.abs().max()
    for output in outputs:
        assert output.dtype == torch.bfloat16
        assert (output.float() - want).abs().max() < 2 * limit


def test_compiles_as_one_graph():
    model = mini()
    compiled = torch.compile(fuse(model), fullgraph=True, backend='eager')
    assert_equal(compiled, model, images())


# Mistakes


def test_training_mode_is_refused():
    model = mini()
    with pytest.raises(ValueError, match=r'the model is in training mode: call model\.eval\(\) first'):
        fuse(mini().train())
    model.layer2[1].bn3.train()
    with pytest.raises(ValueError, match=r'layer2\.1\.bn3 is in training mode'):
        fuse(model)


def test_a_model_that_cannot_be_followed():
    class Looks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match='cannot follow the operations of Looks'):
        fuse(Looks().eval())


def test_folding_alone_keeps_the_split_attention():
    model = mini()
    folded = fold_batch_norms(model)
    assert count(folded, SplitAttn) == 8
    assert count(folded, nn.BatchNorm2d) == 0
    assert_equal(folded, model, images())


@pytest.mark.parametrize('name', ['efficientnet_lite0', 'mobilenetv3_small_050', 'repvgg_a0', 'mobileone_s0'])
def test_networks_of_timm_keep_no_batch_norm(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    for module in model.modules():  # fresh statistics would hide a wrong scale
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    images = torch.randn(2, 3, 64, 64)
    fused = fuse(model)
    with torch.no_grad():
        expected, actual = model(images), fused(images)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
