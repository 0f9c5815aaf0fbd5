"""The networks compute what the authors' code computes, at every output stride."""

import numpy as np
import pytest
import timm
import torch
from reference import OperatorLog, assert_close, assert_features, fill, filled_state_dict, load_fixture, make_input
from timm.models.resnet import downsample_avg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pinas_models import BLOCK_CHOICES, PinasBottleneck

NETWORKS = {'cls_32': 'pinas_cls', 'resnest50': 'pinas_resnest50'}
FEATURES = ('c1', 'c2', 'c3', 'c4')


def build_filled(name, state_dict, **kwargs):
    """A network that owns the given tensors; built on the meta device because they replace all of its own."""
    model = timm.create_model(name, device='meta', **kwargs)
    model.load_state_dict(state_dict, strict=True, assign=True)
    return model.eval()


def stages(model, x):
    """Outputs of layer1..4."""
    return model.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)


@pytest.fixture(scope='module')
def resnest50_weights():
    return filled_state_dict(load_fixture('resnest50'))


@pytest.fixture(scope='module')
def ade_weights():
    return filled_state_dict(load_fixture('deeplab_ade'), 'pretrained.')


# The fill itself


def test_fill_check():
    meta = load_fixture('fill_check').meta
    for entry in meta['fill']:
        value = fill(entry['name'], entry['shape']).astype(np.float64)
        assert value.ravel()[:4].tolist() == entry['first4'], entry['name']
        assert value.sum() == pytest.approx(entry['sum_f64'], rel=1e-9), entry['name']
        assert np.sqrt((value**2).sum()) == pytest.approx(entry['l2_f64'], rel=1e-9), entry['name']
    for entry in meta['inputs']:
        value = make_input(entry['seed'], entry['shape']).double()
        assert value.flatten()[:4].tolist() == entry['first4']
        assert value.sum().item() == pytest.approx(entry['sum_f64'], rel=1e-9)


# One block


@pytest.mark.parametrize('variant', ['s1', 's2', 'dil_first', 'dil4'])
@pytest.mark.parametrize('choice', range(4))
def test_block(choice, variant):
    fixture = load_fixture('blocks')
    label, geometry, candidate = f'c{choice}_{variant}', fixture.meta['variants'][variant], BLOCK_CHOICES[choice]
    assert fixture.meta['candidates'][choice] == dict(
        radix=candidate.radix, cardinality=candidate.cardinality, base_width=candidate.base_width
    )
    shortcut_pool = geometry['ds']
    inplanes = 64 if shortcut_pool else 256
    block = PinasBottleneck(
        inplanes,
        64,
        geometry['stride'],
        downsample_avg(64, 256, 1, stride=shortcut_pool, norm_layer=nn.BatchNorm2d) if shortcut_pool else None,
        choice=candidate,
        keep_avd=geometry['is_first'],
        first_dilation=geometry['dilation'],
    ).eval()
    weights = filled_state_dict(fixture, f'{label}.')
    assert list(block.state_dict()) == list(weights)
    block.load_state_dict(weights, strict=True)
    seen = {}
    block.conv2.register_forward_hook(lambda module, args, out: seen.update(conv2=out.clone()))
    block.conv2.rsoftmax.register_forward_hook(lambda module, args, out: seen.update(attn=out.flatten(1)))
    with torch.inference_mode():
        out = block(make_input(fixture.meta['seed'], (2, inplanes, 9, 7)))
    assert_close(out[:, ::16], fixture.arrays[f'{label}_out'], f'{label}_out')
    assert_close(seen['attn'], fixture.arrays[f'{label}_attn'], f'{label}_attn')
    assert_close(seen['conv2'][:, ::8], fixture.arrays[f'{label}_conv2'], f'{label}_conv2')


# Whole networks at stride 32


@pytest.mark.parametrize('name', NETWORKS)
def test_network_at_stride_32(name):
    fixture = load_fixture(name)
    model = build_filled(NETWORKS[name], filled_state_dict(fixture))
    with torch.inference_mode():
        last, features = model.forward_intermediates(fixture.input(), indices=[1, 2, 3, 4])
        logits = model.forward_head(last)
    assert_close(logits, fixture.arrays['logits'], 'logits')
    for label, feature in zip(FEATURES, features, strict=True):
        assert list(feature.shape) == fixture.meta['feature_shapes'][label]
        assert_features(feature, fixture, label)


@pytest.mark.parametrize('name', NETWORKS)
def test_names_shapes_and_order_are_the_authors(name):
    fixture = load_fixture(name)
    model = timm.create_model(NETWORKS[name], device='meta')
    assert [(n, tuple(t.shape)) for n, t in model.state_dict().items()] == list(fixture.state_dict.items())


def describe_block(name, block):
    """The row of the authors' block table."""
    conv, avd, downsample = block.conv2.conv, block.avd, block.downsample
    pool = None
    if downsample is not None:
        identity = isinstance(downsample[0], nn.Identity)  # the authors use an average pool of one pixel
        pool = dict(
            pool_kernel=1 if identity else downsample[0].kernel_size,
            pool_stride=1 if identity else downsample[0].stride,
            ceil_mode=True if identity else downsample[0].ceil_mode,
            count_include_pad=False if identity else downsample[0].count_include_pad,
        )
    return dict(
        block=name,
        radix=block.conv2.radix,
        card=conv.groups // block.conv2.radix,
        width=block.conv1.out_channels,
        conv2_out=conv.out_channels,
        conv2_groups=conv.groups,
        conv2_stride=conv.stride[0],
        conv2_dilation=conv.dilation[0],
        conv2_padding=conv.padding[0],
        attn_channels=block.conv2.fc1.out_channels,
        avd_layer=None
        if isinstance(avd, nn.Identity)
        else dict(
            kernel=avd.kernel_size,
            stride=avd.stride,
            padding=avd.padding,
            count_include_pad=avd.count_include_pad,
            ceil_mode=avd.ceil_mode,
        ),
        downsample=pool,
    )


def named_blocks(model):
    return {f'layer{s}.{b}': block for s in range(1, 5) for b, block in enumerate(model.get_submodule(f'layer{s}'))}


@pytest.mark.parametrize('name', NETWORKS)
def test_block_table(name):
    fixture = load_fixture(name)
    model = timm.create_model(NETWORKS[name], device='meta')
    assert model.choices == tuple(fixture.meta['choice_indices'])
    assert [describe_block(n, b) for n, b in named_blocks(model).items()] == fixture.meta['blocks']


# Reported by the authors' code for its own networks; the MACs are those of convolutions and linear layers.
COUNTS = {
    'pinas_cls': (27_046_278, 27_109_898, 5_332_293_584),
    'pinas_trans': (27_039_016, 27_102_152, 5_253_644_608),
    'pinas_resnest50': (27_483_240, 27_547_816, 5_371_160_576),
}


@pytest.mark.parametrize('name', COUNTS)
def test_parameters_buffers_and_macs(name):
    params, params_and_statistics, macs = COUNTS[name]
    model = timm.create_model(name, num_classes=1000, device='meta').eval()
    assert sum(p.numel() for p in model.parameters()) == params
    assert sum(t.numel() for t in model.state_dict().values() if t.is_floating_point()) == params_and_statistics
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device='meta'))
    assert counter.get_total_flops() == 2 * macs


def test_counts_agree_with_the_fixtures():
    for name, model_name in NETWORKS.items():
        meta = load_fixture(name).meta
        params, params_and_statistics, macs = COUNTS[model_name]
        assert meta['count'] == dict(params=params, buffers_float=params_and_statistics - params)
        assert meta['flops_at_224']['macs(flops/2)'] == macs


# Dilated networks


def test_stride_8_equals_the_authors_segmentation_backbone(ade_weights):
    fixture = load_fixture('deeplab_ade')
    model = build_filled('pinas_trans', ade_weights, num_classes=0, output_stride=8)
    with torch.inference_mode():
        features = stages(model, fixture.input())
    assert [tuple(f.shape[1:]) for f in features] == [(256, 24, 32), (512, 12, 16), (1024, 12, 16), (2048, 12, 16)]
    assert_features(features[2], fixture, 'c3')
    assert_features(features[3], fixture, 'c4')


# Stage dilation, and stride of the first block, of layer3 and layer4 at each output stride.
ENCODING_RULE = {32: ((1, 2), (1, 2)), 16: ((1, 2), (2, 1)), 8: ((2, 1), (4, 1))}


@pytest.mark.parametrize('output_stride', ENCODING_RULE)
def test_encoding_rule_geometry(output_stride):
    model = timm.create_model('pinas_trans', output_stride=output_stride, device='meta')
    for name, block in named_blocks(model).items():
        stage, index = int(name[5]), int(name[7])
        dilation, stride = ((1, 1), (1, 2), *ENCODING_RULE[output_stride])[stage - 1]
        row = describe_block(name, block)
        # A first block has the dilation of the stage before it: 1 of 2, 2 of 4.
        expected_dilation = dilation if index else {1: 1, 2: 1, 4: 2}[dilation]
        assert row['conv2_dilation'] == row['conv2_padding'] == expected_dilation, name
        assert row['conv2_stride'] == 1, name
        if index == 0 and stage > 1:
            expected_pool = dict(kernel=3, stride=stride, padding=1, count_include_pad=True, ceil_mode=False)
            assert row['avd_layer'] == expected_pool, name
        else:
            assert row['avd_layer'] is None, name
        if index == 0:
            assert row['downsample'] == dict(
                pool_kernel=stride, pool_stride=stride, ceil_mode=True, count_include_pad=False
            ), name
        else:
            assert row['downsample'] is None, name


# Every stage halves and rounds up, until the output stride is reached.
SIZES = {
    32: [(33, 25), (17, 13), (9, 7), (5, 4)],
    16: [(33, 25), (17, 13), (9, 7), (9, 7)],
    8: [(33, 25), (17, 13), (17, 13), (17, 13)],
}


@pytest.mark.parametrize('dilation_rule', ['encoding', 'timm'])
@pytest.mark.parametrize('output_stride', SIZES)
def test_odd_input_sizes(output_stride, dilation_rule):
    model = timm.create_model(
        'pinas_trans', output_stride=output_stride, dilation_rule=dilation_rule, device='meta'
    ).eval()
    features = stages(model, torch.empty(1, 3, 129, 97, device='meta'))
    assert [tuple(f.shape[2:]) for f in features] == SIZES[output_stride]


def test_stage_without_downsample_follows_the_encoding_rule_too():
    """With equal widths a dilated stage has an identity shortcut; its first block keeps the pool all the same."""
    model = timm.create_model('pinas_mini', channels=(32, 32, 32, 32), output_stride=4, stem_width=64, device='meta')
    avd = {name for name, block in named_blocks(model).items() if isinstance(block.avd, nn.AvgPool2d)}
    assert avd == {'layer2.0', 'layer3.0', 'layer4.0'}


@pytest.mark.parametrize('stem_stride', [1, 2, 4])
def test_stem_stride_scales_every_output_stride(stem_stride):
    x = torch.empty(1, 3, 64, 96, device='meta')
    for factor in (8, 4, 2):
        output_stride = factor * stem_stride
        model = timm.create_model('pinas_mini', stem_stride=stem_stride, output_stride=output_stride, device='meta')
        strides = [min(2, stem_stride)] + [min(stem_stride * 2**s, output_stride) for s in range(4)]
        assert [info['reduction'] for info in model.feature_info] == strides
        features = model.eval().forward_intermediates(x, intermediates_only=True)
        assert [tuple(f.shape[2:]) for f in features] == [(64 // s, 96 // s) for s in strides]
        # The same dilations as the large network's at 32, 16, 8.
        dilations = [block.conv2.conv.dilation[0] for block in named_blocks(model).values()]
        assert dilations == [1, 1, 1, 1] + {8: [1, 1, 1, 1], 4: [1, 1, 1, 2], 2: [1, 2, 2, 4]}[factor]


@pytest.mark.parametrize('output_stride', [32, 16, 8])
def test_timm_rule_equals_timm_and_encoding_rule_differs(output_stride, resnest50_weights):
    x = make_input(107, (1, 3, 65, 97))
    with torch.inference_mode():
        timms, same, encoding = (
            stages(build_filled(name, resnest50_weights, output_stride=output_stride, **kwargs), x)
            for name, kwargs in (
                ('resnest50d', {}),
                ('pinas_resnest50', dict(dilation_rule='timm')),
                ('pinas_resnest50', dict(dilation_rule='encoding')),
            )
        )
    for expected, actual in zip(timms, same, strict=True):
        assert_close(actual, expected.numpy())
    relative = [((a - e).abs().max() / e.abs().max()).item() for a, e in zip(encoding, timms, strict=True)]
    dilated = {32: 0, 16: 1, 8: 2}[output_stride]  # layer4 at 16, layer3 and layer4 at 8
    assert max(relative[: 4 - dilated]) < 1e-5
    assert all(r > 0.1 for r in relative[4 - dilated :])


def test_names_do_not_depend_on_stride_and_rule():
    """A checkpoint loads under every rule and stride: only numbers, as above, can tell them apart."""
    names = [
        list(timm.create_model('pinas_cls', output_stride=s, dilation_rule=r, device='meta').state_dict())
        for s in (32, 16, 8)
        for r in ('encoding', 'timm')
    ]
    assert all(n == names[0] for n in names)


def test_resnest50_runs_the_same_operators_as_timm():
    """So it is as fast as timm's network; `benchmarks/forward.py` measures it."""
    logs = []
    for name in ('resnest50d', 'pinas_resnest50'):
        model = timm.create_model(name, device='meta').eval()
        with torch.no_grad(), OperatorLog() as log:
            model(torch.empty(1, 3, 64, 64, device='meta'))
        logs.append(log.names)
    assert logs[0] == logs[1]
    assert len(logs[0]) > 16 * 10  # the log is not empty: 16 blocks of at least ten operators
