"""Every registered network behaves as timm, and what is built on timm, expects of a model."""

import copy
import inspect
import json
import subprocess
import sys

import pytest
import timm
import torch
from reference import make_input, randomize
from timm.layers import DropBlock2d, DropPath
from timm.models import group_parameters, save_for_hf
from torch import nn
from torch.export import Dim

import pinas_models
from pinas_models import PINAS_TRANS, PinasBottleneck, PinasNet

# Every registered name with the arguments it needs.
MODELS = {
    'pinas_cls': {},
    'pinas_mini': {},
    'pinas_resnest50': {},
    'pinas_subnet': dict(choices=PINAS_TRANS),
    'pinas_trans': {},
}
# All four choices in every pair of stages: the network that contracts on values run with.
MINI = dict(choices='30123021')
SIZE = 64, 96

each_model = pytest.mark.parametrize('name', MODELS)


def on_meta(name, **kwargs):
    """The network without values, for contracts on shapes and names."""
    return timm.create_model(name, device='meta', **dict(MODELS[name], **kwargs))


def mini(**kwargs):
    torch.manual_seed(0)
    return randomize(timm.create_model('pinas_mini', **dict(MINI, **kwargs))).eval()


@pytest.fixture(scope='module')
def x():
    return make_input(7, (2, 3, *SIZE))


@pytest.fixture(scope='module')
def model():
    """A shared network in eval mode that no test changes."""
    return mini()


# Registration and import


def test_registry_snapshot():
    assert timm.list_models('pinas_*') == sorted(MODELS)
    assert timm.list_models(module='pinas') == sorted(MODELS)
    assert {timm.model_entrypoint(name).__module__ for name in MODELS} == {'pinas_models.pinas'}
    assert set(pinas_models.pinas.__all__) == {'PinasBottleneck', 'PinasNet', *MODELS}


@each_model
def test_default_cfg_describes_the_network(name):
    cfg = timm.get_pretrained_cfg(name)
    model = on_meta(name).eval()
    assert cfg.architecture == name
    assert cfg.num_classes == model.num_classes
    assert model.get_submodule(cfg.first_conv).in_channels == cfg.input_size[0]
    assert model.get_submodule(cfg.classifier) is model.get_classifier()
    assert model.get_classifier(name_only=True) == cfg.classifier
    feature = model.forward_features(torch.empty(1, *cfg.input_size, device='meta'))
    assert tuple(feature.shape[2:]) == cfg.pool_size


def test_import_is_silent_pulls_nothing_but_timm_and_registers_once():
    code = (
        'import sys, importlib, timm\n'
        'before = set(sys.modules)\n'
        'import pinas_models\n'
        'print(*{module.split(".")[0] for module in set(sys.modules) - before})\n'
        'importlib.import_module("pinas_models.pinas")\n'
        'print(timm.list_models("pinas_*"))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.splitlines() == ['pinas_models', str(sorted(MODELS))]


# The constructor


@each_model
def test_unknown_argument_is_an_error(name):
    with pytest.raises(TypeError, match='no_such_argument'):
        on_meta(name, no_such_argument=1)


def test_constructor_has_no_sink():
    kinds = {p.kind for p in inspect.signature(PinasNet.__init__).parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@each_model
def test_attributes_and_methods(name):
    model = on_meta(name, drop_rate=0.25, in_chans=4)
    assert model.num_classes == MODELS[name].get('num_classes', timm.get_pretrained_cfg(name).num_classes)
    assert model.num_features == model.head_hidden_size == model.feature_info[-1]['num_chs']
    assert isinstance(model.fc, nn.Linear if model.num_classes else nn.Identity)
    assert model.in_chans == 4
    assert model.drop_rate == 0.25
    assert model.grad_checkpointing is False
    assert len(model.feature_info) == 5


@each_model
@pytest.mark.parametrize(
    ('kwargs', 'pooled'),
    [(dict(num_classes=5), True), (dict(num_classes=0), True), (dict(num_classes=0, global_pool=''), False)],
)
def test_heads(name, kwargs, pooled):
    model = on_meta(name, **kwargs).eval()
    features = model.forward_features(torch.empty(2, 3, *SIZE, device='meta'))
    assert features.shape[:2] == (2, model.num_features)
    before_classifier = (2, model.num_features) if pooled else features.shape
    assert model.forward_head(features, pre_logits=True).shape == before_classifier
    assert model.forward_head(features).shape == ((2, 5) if model.num_classes else before_classifier)


@each_model
def test_device_meta_and_dtype(name):
    model = on_meta(name, dtype=torch.bfloat16)
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    assert {t.dtype for t in tensors} == {torch.bfloat16}
    assert {t.device.type for t in model.state_dict().values()} == {'meta'}


def test_bfloat16_runs(x):
    model = mini(dtype=torch.bfloat16)
    out = model(x.bfloat16())
    assert out.dtype == torch.bfloat16
    reference = copy.deepcopy(model).float()(x)
    # bfloat16 keeps 8 bits, an error of 0.4 % in each of some 40 operations: a few per cent of the largest logit.
    assert (out.float() - reference).abs().max() < 0.1 * reference.abs().max()


@pytest.mark.parametrize('in_chans', [1, 4])
def test_in_chans(in_chans):
    model = mini(in_chans=in_chans)
    with torch.inference_mode():
        assert model(make_input(1, (2, in_chans, 32, 32))).shape == (2, 10)


def test_zero_init_last_makes_blocks_their_shortcut(x):
    for kwargs, gamma in (({}, 1), (dict(zero_init_last=True), 0)):  # the authors' stand-alone network has 1
        model = timm.create_model('pinas_mini', **kwargs)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            assert all(torch.all(block.bn3.weight == gamma) for block in stage)
    with torch.inference_mode():
        y = model.eval().layer1[0](model.maxpool(model.act1(model.bn1(model.conv1(x)))))
        assert torch.equal(model.layer1[1](y.clone()), y.relu())


# Features


@pytest.mark.parametrize('output_stride', [16, 8, 4])
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3, 4), (1, 2, 3, 4), (2, 4), (0,), (3,), (-1,)])
def test_features_only(output_stride, out_indices, x):
    kwargs = dict(MINI, output_stride=output_stride)
    features_model = timm.create_model('pinas_mini', features_only=True, out_indices=out_indices, **kwargs).eval()
    whole = mini(output_stride=output_stride)
    wanted = {k: v for k, v in whole.state_dict().items() if k in features_model.state_dict()}
    features_model.load_state_dict(wanted, strict=True)
    indices = [i % 5 for i in out_indices]
    with torch.inference_mode():
        features = features_model(x)
        expected = whole.forward_intermediates(x, indices=indices, intermediates_only=True)
    strides = [[2, 2, min(4, output_stride), min(8, output_stride), min(16, output_stride)][i] for i in indices]
    assert features_model.feature_info.reduction() == strides
    assert [tuple(f.shape) for f in features] == [
        (2, channels, SIZE[0] // s, SIZE[1] // s)
        for channels, s in zip(features_model.feature_info.channels(), strides, strict=True)
    ]
    for feature, intermediate in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, intermediate)


@pytest.mark.parametrize('output_stride', [32, 16, 8])
@pytest.mark.parametrize('name', [name for name in MODELS if name != 'pinas_mini'])
def test_features_only_of_large_networks(name, output_stride):
    model = on_meta(name, features_only=True, output_stride=output_stride).eval()
    strides = [2, 4, 8, min(16, output_stride), min(32, output_stride)]
    assert model.feature_info.reduction() == strides
    assert model.feature_info.channels() == [64, 256, 512, 1024, 2048]
    shapes = [tuple(f.shape) for f in model(torch.empty(1, 3, *SIZE, device='meta'))]
    assert shapes == [
        (1, c, SIZE[0] // s, SIZE[1] // s) for c, s in zip((64, 256, 512, 1024, 2048), strides, strict=True)
    ]
    # Downstream adapters load weights by these names.
    assert list(model.state_dict()) == [n for n in on_meta(name).state_dict() if not n.startswith('fc.')]


@pytest.mark.parametrize('wrapper', ['list', 'dict', 'hook', 'getter', 'fx'])
def test_every_feature_wrapper(wrapper, x, model):
    whole = copy.deepcopy(model)
    features_model = timm.create_model(
        'pinas_mini', features_only=True, feature_cls=wrapper, out_indices=(1, 4), **MINI
    )
    weights = list(whole.state_dict().values())  # some wrappers prefix the names, none changes their order
    features_model.load_state_dict(dict(zip(features_model.state_dict(), weights, strict=False)), strict=True)
    with torch.inference_mode():
        features = features_model.eval()(x)
        expected = whole.forward_intermediates(x, indices=[1, 4], intermediates_only=True)
    for feature, intermediate in zip(features.values() if wrapper == 'dict' else features, expected, strict=True):
        torch.testing.assert_close(feature, intermediate)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_forward_intermediates(checkpointing, x):
    model = mini()
    model.set_grad_checkpointing(checkpointing)
    with torch.inference_mode():
        expected = model.forward_features(x)
        last, intermediates = model.forward_intermediates(x)
        assert len(intermediates) == len(model.feature_info)
        torch.testing.assert_close(last, expected)
        torch.testing.assert_close(intermediates[-1], expected)
        early = model.forward_intermediates(x, indices=[1, 2], stop_early=True, intermediates_only=True)
        for a, b in zip(early, intermediates[1:3], strict=True):
            torch.testing.assert_close(a, b)
        assert len(model.forward_intermediates(x, indices=3, intermediates_only=True)) == 3
    for feature, info in zip(intermediates, model.feature_info, strict=True):
        assert feature.shape == (2, info['num_chs'], SIZE[0] // info['reduction'], SIZE[1] // info['reduction'])


@pytest.mark.parametrize('last', range(5))
def test_prune_intermediate_layers(last, x):
    model = mini()
    with torch.inference_mode():
        expected = model.forward_intermediates(x, indices=[last], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([last]) == [last]
    with torch.inference_mode():
        pruned = model.forward_intermediates(x, indices=[last], intermediates_only=True)[0]
        torch.testing.assert_close(pruned, expected)
        torch.testing.assert_close(model(x), expected)
    assert model.num_features == model.feature_info[last]['num_chs'] == expected.shape[1]
    model.train()(x).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_prune_by_negative_index_and_count():
    assert mini().prune_intermediate_layers([-2]) == [3]
    assert mini().prune_intermediate_layers(2) == [3, 4]


# The classifier


def test_reset_classifier(x):
    model = mini().train()
    model.requires_grad_(False)
    with torch.no_grad():
        features = model.eval().forward_features(x)
    model.train()
    model.reset_classifier(5)
    assert model.num_classes == 5
    assert model.fc.training
    assert model.global_pool.pool_type == 'avg'
    assert not any(p.requires_grad for n, p in model.named_parameters() if not n.startswith('fc.'))
    model.eval()
    with torch.inference_mode():
        assert model(x).shape == (2, 5)
        torch.testing.assert_close(model.forward_features(x), features)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), features.mean((2, 3)))
        model.reset_classifier(0, '')
        torch.testing.assert_close(model(x), features)
        model.reset_classifier(3, 'max')
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.amax((2, 3)))


def test_reset_classifier_keeps_dtype_and_device():
    model = on_meta('pinas_cls', dtype=torch.float64)
    model.reset_classifier(7)
    assert model.fc.weight.dtype == torch.float64
    assert model.fc.weight.device.type == 'meta'


# Training


@each_model
@pytest.mark.parametrize('coarse', [False, True])
def test_group_matcher(name, coarse):
    model = on_meta(name, num_classes=5)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    blocks = sum(len(model.get_submodule(f'layer{s}')) for s in range(1, 5))
    assert len(groups) == 1 + (4 if coarse else blocks) + 1  # stem, stages or blocks, classifier
    assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in model.named_parameters())
    assert set(groups[0]) == {n for n, _ in model.named_parameters() if n.startswith(('conv1.', 'bn1.'))}


def test_checkpointing_gives_equal_outputs_and_gradients(x):
    results = []
    for checkpointing in (False, True):
        model = mini().train()
        model.set_grad_checkpointing(checkpointing)
        assert model.grad_checkpointing is checkpointing
        out = model(x)
        out.square().sum().backward()
        results.append((out.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (out, grads), (checkpointed_out, checkpointed_grads) = results
    torch.testing.assert_close(checkpointed_out, out)
    for name, grad in grads.items():
        torch.testing.assert_close(checkpointed_grads[name], grad, msg=name)


def test_every_parameter_gets_a_gradient(x):
    model = mini().train()
    model(x).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def make_block(stride, **kwargs):
    downsample = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)) if stride > 1 else None
    choice = pinas_models.BLOCK_CHOICES[3]
    return PinasBottleneck(16 if stride == 1 else 8, 4, stride, downsample, choice=choice, **kwargs).train()


@pytest.mark.parametrize('stride', [1, 2])
def test_drop_path_drops_the_residual_branch(stride):
    block = make_block(stride, drop_path=DropPath(1.0))
    x = make_input(3, (4, 16 if stride == 1 else 8, 6, 6))
    shortcut = x if stride == 1 else block.downsample(x)
    torch.testing.assert_close(block(x.clone()), shortcut.relu())
    assert not torch.allclose(block.eval()(x.clone()), shortcut.relu(), atol=0.1)


def test_drop_path_rate_grows_linearly_over_the_blocks():
    model = timm.create_model('pinas_mini', drop_path_rate=0.7, **MINI)
    blocks = [block for s in range(1, 5) for block in model.get_submodule(f'layer{s}')]
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in blocks]
    assert rates == pytest.approx([0.7 * i / 7 for i in range(8)])


def test_drop_path_of_a_whole_network_leaves_the_shortcut(x):
    model = mini(drop_path_rate=1.0).train()  # the last block is dropped in every sample
    seen = {}
    model.layer4[0].register_forward_hook(lambda module, args, out: seen.update(shortcut=out.clone()))
    torch.testing.assert_close(model.forward_features(x), seen['shortcut'].relu())


def test_drop_block_is_in_three_places_of_layer3_and_layer4():
    model = timm.create_model('pinas_mini', drop_block_rate=0.2, **MINI)
    places = {n for n, m in model.named_modules() if isinstance(m, DropBlock2d)}
    assert places == {
        f'layer{s}.{b}.{place}'
        for s in (3, 4)
        for b in (0, 1)
        for place in ('drop_block1', 'conv2.drop', 'drop_block3')
    }
    assert {m.drop_prob for m in model.modules() if isinstance(m, DropBlock2d)} == {0.2}


@pytest.mark.parametrize('place', ['drop_block1', 'conv2.drop', 'drop_block3'])
def test_drop_block_acts_in_training_only(place, x):
    model = mini(drop_block_rate=0.2)
    with torch.inference_mode():
        plain = mini()(x)
        torch.testing.assert_close(model(x), plain)
        torch.manual_seed(1)
        for stage in (model.layer3, model.layer4):
            for block in stage:
                block.get_submodule(place).train()
        # Not by chance: the seed is fixed, and with it what is dropped.
        assert not torch.allclose(model(x), plain, atol=1e-3)


def test_dropout_before_the_classifier(x):
    model = mini(drop_rate=0.5)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(expected, mini()(x))
        features = model.forward_features(x)
        model.training = True  # of the network alone: BN keeps its statistics
        assert not torch.allclose(model.forward_head(features), expected)


# Compilers and formats


@pytest.mark.filterwarnings('ignore')  # torch deprecates scripting; timm's contract still has it
@pytest.mark.parametrize('output_stride', [16, 4])
def test_script_and_trace(output_stride, x):
    model = mini(output_stride=output_stride)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)


@pytest.mark.filterwarnings('ignore')
def test_script_with_drop_layers(x):
    model = mini(drop_rate=0.1, drop_path_rate=0.1, drop_block_rate=0.1)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.script(model)(x), model(x))


@pytest.mark.parametrize('output_stride', [16, 4])
def test_export_with_dynamic_batch_and_size(output_stride, x):
    model = mini(output_stride=output_stride)
    dims = {0: Dim('batch', min=1, max=64), 2: Dim.AUTO, 3: Dim.AUTO}
    exported = torch.export.export(model, (x,), dynamic_shapes=(dims,)).module()
    with torch.inference_mode():
        for shape in ((2, 3, *SIZE), (1, 3, 96, 64), (3, 3, 65, 97), (5, 3, 128, 160)):
            other = make_input(sum(shape), shape)
            torch.testing.assert_close(exported(other), model(other), rtol=1e-4, atol=1e-5)


def test_compile_without_graph_breaks(x, model):
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend='eager')
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), model(x))


def test_channels_last(x, model):
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(other(x.to(memory_format=torch.channels_last)), model(x), rtol=1e-4, atol=1e-5)


# Weights


def test_names_and_order_equal_timm_resnest50d():
    expected = timm.create_model('resnest50d', device='meta').state_dict()
    actual = on_meta('pinas_resnest50').state_dict()
    assert [(n, t.shape) for n, t in actual.items()] == [(n, t.shape) for n, t in expected.items()]


def test_untrained_networks_have_no_weights_to_load():
    for name in ('pinas_resnest50', 'pinas_subnet'):
        with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}'):
            on_meta(name, pretrained=True)


@pytest.fixture(scope='module')
def authors_checkpoint(tmp_path_factory, model):
    """A file as the authors' classification training writes it."""
    file = tmp_path_factory.mktemp('authors') / 'checkpoint.pth.tar'
    state_dict = {f'module.{name}': tensor for name, tensor in model.state_dict().items()}
    torch.save({'epoch': 270, 'state_dict': state_dict, 'optimizer': {'state': {}}, 'best_pred': 81.6}, file)
    return file


@pytest.mark.parametrize('way', ['checkpoint_path', 'file'])
@pytest.mark.parametrize('fault', ['missing', 'unexpected'])
def test_faulty_checkpoint_is_refused(way, fault, authors_checkpoint, tmp_path):
    checkpoint = torch.load(authors_checkpoint)
    if fault == 'missing':
        del checkpoint['state_dict']['module.layer3.1.bn3.weight']
    else:
        checkpoint['state_dict']['module.layer3.1.bn2.weight'] = torch.zeros(1)
    file = tmp_path / 'checkpoint.pth.tar'
    torch.save(checkpoint, file)
    if way == 'checkpoint_path':
        error, kwargs = RuntimeError, dict(checkpoint_path=str(file))  # torch's
    else:
        error, kwargs = ValueError, dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    with pytest.raises(error, match=r'layer3\.1\.bn[23]\.weight'):
        timm.create_model('pinas_mini', **MINI, **kwargs)


@pytest.mark.parametrize(
    ('name', 'model_args'),
    [
        ('pinas_mini', {}),
        ('pinas_mini', dict(choices='01230123', in_chans=4, num_classes=7, output_stride=4, dilation_rule='timm')),
        # The large space's entry with small stages: choices are an argument that the name does not imply.
        (
            'pinas_subnet',
            dict(choices=(3, 0, 1, 2), layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), stem_width=8, num_classes=6),
        ),
    ],
)
def test_save_for_hf_and_local_dir_round_trip(name, model_args, tmp_path):
    saved = randomize(timm.create_model(name, **model_args)).eval()
    save_for_hf(saved, tmp_path, model_args=model_args, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['architecture'] == name
    assert config['num_classes'] == saved.num_classes
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert loaded.choices == saved.choices
    x = make_input(11, (2, model_args.get('in_chans', 3), 32, 32))
    with torch.inference_mode():
        assert torch.equal(loaded(x), saved(x))
