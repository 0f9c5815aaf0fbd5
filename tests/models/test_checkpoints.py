"""The authors' checkpoints become ours: every kind, both ways, and nothing wrong or lost without a word."""

import itertools
import json
import os
import stat
import subprocess
import sys
import zlib
from collections import OrderedDict

import authors_checkpoints as authors
import pytest
import timm
import torch
from authors_checkpoints import backbone_of, network, take
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_features, fill, filled_state_dict, load_fixture, make_input
from safetensors import safe_open
from safetensors.torch import load_file

from pinas_models import PINAS_CLS, PINAS_TRANS
from pinas_models.checkpoints import (
    convert_checkpoint,
    convert_state_dict,
    load_checkpoint,
    to_authors,
    to_detectron2,
)
from pinas_models.cli import main

MINI = (2, 2, 2, 2)
PATH = (0, 1, 2, 3, 3, 2, 1, 0)
DIGITS = '01233210'
LARGE = (3, 4, 6, 3)
FAMILIES = ('classification', 'deeplabv3', 'detectron2', 'supernet', 'linear', 'learning')
STAND_ALONE, SUPERNETS = FAMILIES[:3], FAMILIES[3:]


@pytest.fixture(scope='module')
def weights():
    """A network of the small space, with classifier."""
    return network(choices=PATH).state_dict()


@pytest.fixture(scope='module')
def candidates():
    """A supernet of the small space, and another one."""
    return authors.supernet(seed=1), authors.supernet(seed=2)


@pytest.fixture(scope='module')
def checkpoints(weights, candidates):
    """One whole checkpoint of each family."""
    return {
        'classification': authors.classification(weights),
        'deeplabv3': authors.deeplab(weights),
        'detectron2': authors.detectron2(weights, MINI),
        'supernet': {'state_dict': candidates[0], 'meta': {}},
        'linear': authors.linear(candidates[0]),
        'learning': authors.learning(*candidates),
    }


def wrapper_of(family):
    return 'model' if family == 'detectron2' else 'state_dict'


def same(actual, expected):
    """Equal names in equal order, and equal bits."""
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def loads_strictly(weights, path, **kwargs):
    model = timm.create_model('pinas_mini', choices=path, **kwargs)
    model.load_state_dict(weights, strict=True)
    return model.eval()


# Every family


@pytest.mark.parametrize('family', FAMILIES)
def test_family_is_recognised_and_loads_strictly(family, checkpoints, weights, candidates):
    checkpoint = checkpoints[family]
    conversion = convert_checkpoint(checkpoint, DIGITS)
    assert conversion.family == family
    assert conversion.choices == PATH
    assert conversion.layers == MINI
    expected = weights if family in STAND_ALONE else take(candidates[0], PATH)
    if family in ('deeplabv3', 'detectron2'):
        expected = backbone_of(weights)
    if family == 'linear':
        head = checkpoint['state_dict']
        expected |= {'fc.weight': head['head.fc_cls.weight'], 'fc.bias': head['head.fc_cls.bias']}
    same(conversion.state_dict, expected)
    classes = 10 if family in ('classification', 'linear') else 0
    assert conversion.num_classes == classes
    model = loads_strictly(conversion.state_dict, PATH, num_classes=classes)
    assert list(model.state_dict()) == list(expected)
    same(convert_state_dict(checkpoint, PATH), expected)


@pytest.mark.parametrize('family', FAMILIES)
def test_nothing_is_lost_without_a_word(family, checkpoints, candidates):
    checkpoint = checkpoints[family]
    tensors = checkpoint[wrapper_of(family)]
    conversion = convert_checkpoint(checkpoint, PATH)
    left_out = conversion.left_out
    assert len(set(left_out)) == len(left_out)
    assert set(checkpoint) - {wrapper_of(family)} <= set(left_out)
    # A tensor is in the result, or its name is in the report; one tensor can have several names.
    kept = {tensor.data_ptr() for tensor in conversion.state_dict.values()}
    reported = set(left_out)
    for name, tensor in tensors.items():
        assert (name in reported) != (tensor.data_ptr() in kept), name
    expected = {
        'classification': set(),
        'deeplabv3': set(authors.deeplab_heads(512, 19)),
        'detectron2': set(authors.detectron2_heads()),
    }
    if family in expected:
        assert reported == expected[family] | (set(checkpoint) - {wrapper_of(family)})
    if family == 'learning':
        assert {'queue', 'queue_ptr', 'encoder_q.1.mlp.0.weight', 'encoder_k.0.conv1.0.weight'} <= reported


@pytest.mark.parametrize('family', STAND_ALONE)
def test_path_is_found_by_the_shapes(family, checkpoints):
    assert convert_checkpoint(checkpoints[family]).choices == PATH


@settings(max_examples=8)
@given(path=st.lists(st.integers(0, 3), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_random_networks_survive_every_stand_alone_family(path, seed):
    model = network(choices=path, seed=seed)
    weights = model.state_dict()
    x = make_input(seed, (1, 3, 32, 32))
    for checkpoint in (
        authors.classification(weights),
        authors.deeplab(weights),
        authors.detectron2(weights, MINI),
        {'model': to_detectron2(weights)},
        {'state_dict': to_authors(weights)},
    ):
        conversion = convert_checkpoint(checkpoint)
        assert conversion.choices == tuple(path)
        converted = loads_strictly(conversion.state_dict, path, num_classes=conversion.num_classes)
        with torch.inference_mode():
            assert torch.equal(converted.forward_features(x), model.forward_features(x))


@settings(max_examples=8)
@given(
    path=st.lists(st.integers(0, 3), min_size=8, max_size=8), family=st.sampled_from(SUPERNETS), teacher=st.booleans()
)
def test_random_paths_of_every_supernet(path, family, teacher, checkpoints, candidates):
    teacher &= family == 'learning'
    conversion = convert_checkpoint(checkpoints[family], path, teacher=teacher)
    same(backbone_of(conversion.state_dict), take(candidates[teacher], path))
    loads_strictly(conversion.state_dict, path, num_classes=conversion.num_classes)


# The published sizes, in the authors' own names and order (from the fixtures)


def tagged(fixture):
    """The names of a fixture with cheap tensors: every value tells the canonical name of its tensor."""
    shared = {}
    tensors = {}
    for name, shape in fixture.state_dict.items():
        first = fixture.aliases.get(name, name)
        if first not in shared:
            dtype = (
                torch.float64 if first.rsplit('.', 1)[-1] not in ('num_batches_tracked', 'queue_ptr') else torch.int64
            )
            shared[first] = torch.tensor(zlib.crc32(first.encode()), dtype=dtype).expand(shape)
        tensors[name] = shared[first]
    return tensors


def assert_tagged(converted, canonical):
    for name, tensor in converted.items():
        value = tensor.flatten()[0] if tensor.numel() else None
        assert int(value) == zlib.crc32(canonical(name).encode()), name


@pytest.mark.parametrize('path', [PINAS_CLS, PINAS_TRANS])
@pytest.mark.parametrize('teacher', [False, True])
def test_learning_checkpoint_of_the_published_size(path, teacher):
    fixture = load_fixture('pinas_step')
    tensors = tagged(fixture)
    assert len(tensors) == 5536
    assert len(fixture.aliases) == 1986
    assert list(tensors)[:2] == ['queue', 'queue_ptr']
    conversion = convert_checkpoint({'state_dict': tensors}, path, teacher=teacher)
    assert conversion.family == 'learning'
    assert len(conversion.state_dict) == 474
    positions = [f'layer{s + 1}.{b}' for s, depth in enumerate(LARGE) for b in range(depth)]
    choice_of = dict(zip(positions, path, strict=True))

    def canonical(name):
        if name.startswith('layer'):
            block = '.'.join(name.split('.')[:2])
            choice = 0 if '.downsample.' in name else choice_of[block]
            name = f'{block}.{choice}{name.removeprefix(block)}'
        return f'encoder_{"k" if teacher else "q"}.0.{name}'

    assert_tagged(conversion.state_dict, canonical)
    model = timm.create_model('pinas_subnet', choices=path, num_classes=0, device='meta')
    assert list(conversion.state_dict) == list(model.state_dict())
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)
    # What is left: the tensors of all names that are none of the 474.
    taken = {id(tensors[name]) for name in tensors} - {id(tensors[name]) for name in conversion.left_out}
    assert len(taken) == 474


def test_linear_checkpoint_of_the_published_size():
    fixture = load_fixture('supernet')
    tensors = {f'backbone.{name}': tensor for name, tensor in tagged(fixture).items()}
    assert len(tensors) == 1842
    assert len(fixture.aliases) == 72
    head = {'head.fc_cls.weight': torch.zeros(1000, 2048), 'head.fc_cls.bias': torch.zeros(1000)}
    conversion = convert_checkpoint({'state_dict': tensors | head}, PINAS_CLS)
    assert (conversion.family, len(conversion.state_dict), conversion.num_classes) == ('linear', 476, 1000)
    model = timm.create_model('pinas_cls', device='meta')
    model.load_state_dict(conversion.state_dict, strict=True, assign=True)


@pytest.mark.parametrize(('name', 'path'), [('cls', PINAS_CLS), ('trans', PINAS_TRANS)])
def test_paths_of_the_published_supernet_compute_what_it_computes(name, path):
    fixture = load_fixture('supernet')
    positions = [f'layer{s + 1}.{b}.' for s, depth in enumerate(LARGE) for b in range(depth)]
    on_path = ('conv1.', 'bn1.', *(f'{p}{c}.' for p, c in zip(positions, path, strict=True)))
    tensors = tagged(fixture)
    for key, shape in fixture.state_dict.items():  # real values only where they are used: there are 91 million
        if key.startswith(on_path) or '.downsample.' in key:
            tensors[key] = torch.from_numpy(fill(fixture.aliases.get(key, key), shape))
    model = timm.create_model('pinas_subnet', choices=path, num_classes=0)
    model.load_state_dict(convert_state_dict(tensors, path), strict=True)
    with torch.inference_mode():
        features = model.eval().forward_intermediates(fixture.input(), indices=[1, 2, 3, 4], intermediates_only=True)
    for label, feature in zip(('c1', 'c2', 'c3', 'c4'), features, strict=True):
        assert_features(feature, fixture, f'{name}_{label}')


def test_segmentation_checkpoint_of_the_published_size_computes_what_it_computes():
    fixture = load_fixture('deeplab_ade')
    checkpoint = {'state_dict': filled_state_dict(fixture), 'epoch': 120}
    conversion = convert_checkpoint(checkpoint)
    assert (conversion.family, conversion.choices, len(conversion.state_dict)) == ('deeplabv3', PINAS_TRANS, 474)
    assert conversion.left_out == [n for n in fixture.state_dict if not n.startswith('pretrained.')] + ['epoch']
    model = timm.create_model('pinas_trans', num_classes=0, output_stride=8)
    model.load_state_dict(conversion.state_dict, strict=True)
    with torch.inference_mode():
        features = model.eval().forward_intermediates(fixture.input(), indices=[3, 4], intermediates_only=True)
    assert_features(features[0], fixture, 'c3')
    assert_features(features[1], fixture, 'c4')


def test_classification_checkpoint_of_the_published_size():
    fixture = load_fixture('cls_32')
    weights = tagged(fixture)
    conversion = convert_checkpoint({'state_dict': {f'module.{name}': t for name, t in weights.items()}})
    assert (conversion.family, conversion.choices, conversion.num_classes) == ('classification', PINAS_CLS, 1000)
    assert conversion.left_out == []
    assert len(weights) == 476
    same(conversion.state_dict, weights)
    same(to_authors(conversion.state_dict), weights)


def test_detection_names_of_the_published_size_map_both_ways():
    weights = tagged(load_fixture('cls_32'))
    table = authors.detectron2_names(LARGE)
    assert len(table) == len(dict(table)) == 474
    theirs = to_detectron2(weights)
    assert set(theirs) == {f'backbone.bottom_up.{name}' for name, _ in table}
    for name, ours in table:
        assert theirs[f'backbone.bottom_up.{name}'] is weights[ours] or torch.equal(
            theirs[f'backbone.bottom_up.{name}'], weights[ours]
        )
    conversion = convert_checkpoint(authors.detectron2(weights, LARGE))
    assert (conversion.family, conversion.choices) == ('detectron2', PINAS_CLS)
    same(conversion.state_dict, backbone_of(weights))


def test_supernet_of_our_search(tmp_path):
    from pinas_search.records.rundir import save_tensors
    from pinas_search.spaces import mini
    from pinas_search.supernets import ResNeStSupernet

    torch.manual_seed(3)
    supernet = ResNeStSupernet(mini())
    save_tensors(supernet, tmp_path / 'supernet.safetensors')
    conversion = convert_checkpoint(load_checkpoint(tmp_path / 'supernet.safetensors'), PATH)
    assert conversion.family == 'supernet'
    same(conversion.state_dict, supernet.extract(PATH).state_dict())


# Wrappers and old files


def test_wrappers_and_prefixes(weights):
    renamed = {f'module._orig_mod.{name}': tensor for name, tensor in weights.items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for checkpoint in (
        weights,
        OrderedDict(weights),
        renamed,
        {'state_dict': renamed},
        {'model': {f'_orig_mod.module.{name}': tensor for name, tensor in weights.items()}},
        {'model': {'state_dict': weights}},
        {'state_dict': other, 'state_dict_ema': weights},
        {'state_dict': weights, 'state_dict_ema': None},
    ):
        same(convert_state_dict(checkpoint), weights)
    assert convert_checkpoint({'state_dict': other, 'state_dict_ema': weights, 'epoch': 1}).left_out == [
        'state_dict',
        'epoch',
    ]


def test_old_files_have_no_counters(checkpoints, weights, candidates):
    for family in FAMILIES:
        tensors = {
            name: tensor
            for name, tensor in checkpoints[family][wrapper_of(family)].items()
            if not name.endswith('num_batches_tracked')
        }
        conversion = convert_checkpoint(tensors, PATH)
        model = loads_strictly(conversion.state_dict, PATH, num_classes=conversion.num_classes)
        expected = weights if family in STAND_ALONE else take(candidates[0], PATH)
        assert torch.equal(model.layer4[1].bn3.running_var, expected['layer4.1.bn3.running_var'])


def test_half_precision_and_parameters_are_taken_as_they_are(weights):
    half = {n: torch.nn.Parameter(t.bfloat16()) if t.is_floating_point() else t for n, t in weights.items()}
    converted = convert_state_dict(half)
    assert converted['fc.weight'].dtype == torch.bfloat16
    assert not any(tensor.requires_grad for tensor in converted.values())


@pytest.mark.parametrize('keep', range(4))
def test_aliases_may_be_stored_once(keep, candidates, checkpoints):
    """safetensors keeps one of the names of a shared tensor."""
    tensors = {
        name: tensor
        for name, tensor in candidates[0].items()
        if '.downsample.' not in name or name.split('.')[2] == str(keep)
    }
    same(convert_state_dict(tensors, PATH), take(candidates[0], PATH))
    whole = checkpoints['learning']['state_dict']
    for prefix in ('backbone.', 'encoder_q.0.'):
        same(
            convert_state_dict({n: t for n, t in whole.items() if not n.startswith(prefix)}, PATH),
            take(candidates[0], PATH),
        )


def test_other_depths_are_converted_when_they_are_named():
    kwargs = dict(layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), stem_width=8, choices='3012', num_classes=6)
    weights = network('pinas_subnet', **kwargs).state_dict()
    assert convert_checkpoint(weights, layers=(1, 1, 1, 1)).choices == (3, 0, 1, 2)
    with pytest.raises(ValueError, match=r'missing names: \d+ \(layer1\.1\.conv1\.weight'):
        convert_checkpoint(weights)
    with pytest.raises(ValueError, match='1-1-1-1 blocks, but those of the network have 2-2-2-2'):
        convert_checkpoint(weights, layers=MINI)


def test_other_input_channels():
    weights = network(choices=PATH, in_chans=5).state_dict()
    same(convert_state_dict(weights, PATH), weights)


# Errors


def refused(checkpoint, match, choices=PATH, **kwargs):
    with pytest.raises(ValueError, match=match) as info:
        convert_checkpoint(checkpoint, choices, **kwargs)
    text = str(info.value)
    assert '\n' not in text
    assert len(text) < 1000
    return text


TITLES = {
    'classification': 'classification network',
    'deeplabv3': 'DeepLabV3',
    'detectron2': 'Mask R-CNN',
    'supernet': 'a supernet',
    'linear': 'linear training',
    'learning': 'learning of a supernet',
}


@settings(max_examples=50)
@given(data=st.data())
def test_any_fault_is_found_and_named(data, checkpoints):
    family = data.draw(st.sampled_from(FAMILIES))
    tensors = dict(checkpoints[family][wrapper_of(family)])
    aliases = {id(tensor): [n for n, t in tensors.items() if t is tensor] for tensor in tensors.values()}
    heads = (
        'head.',
        'auxlayer',
        'roi_heads',
        'proposal',
        'pixel',
        'backbone.fpn',
        'queue',
        'encoder_q.1',
        'encoder_k.1',
    )
    candidates = [n for n in tensors if not n.endswith('num_batches_tracked')]
    if family != 'linear':
        candidates = [n for n in candidates if not n.startswith(heads)]
    name = data.draw(st.sampled_from(candidates))
    fault = data.draw(st.sampled_from(['missing', 'unknown', 'shape', 'type', 'value']))
    if fault == 'missing':
        names = aliases[id(tensors[name])]
        for alias in names:
            del tensors[alias]
        text = refused(tensors, rf'this is .*{TITLES[family]}.*missing names: ')
        assert any(alias in text for alias in names)
    elif fault == 'unknown':
        tensors[f'{name}x'] = tensors[name]
        assert f'{name}x' in refused(tensors, rf'this is .*{TITLES[family]}.*unknown names: 1 ')
    elif fault == 'shape':
        tensors[name] = torch.zeros(*tensors[name].shape, 2)
        # The width of what follows is taken from the majority, so only this one is wrong.
        assert name in refused(tensors, rf'this is .*{TITLES[family]}.*wrong shapes: 1 ')
    elif fault == 'type':
        tensors[name] = tensors[name].to(torch.int32)
        refused(tensors, rf'this is .*{TITLES[family]}.*(no floating-point numbers|should be one tensor)')
    elif len(aliases[id(tensors[name])]) > 1:
        tensors[name] = tensors[name] + 1
        assert name in refused(tensors, rf'this is .*{TITLES[family]}.*should be one tensor but differ')


def test_shortcuts_that_are_not_shared_are_refused(candidates):
    tensors = dict(candidates[0])
    tensors['layer3.0.2.downsample.1.weight'] = tensors['layer3.0.2.downsample.1.weight'] + 1e-3
    refused(
        tensors,
        r'pairs of names .*differ: 1 \(layer3\.0\.2\.downsample\.1\.weight and layer3\.0\.0\.downsample\.1\.weight',
    )


def test_two_networks_that_differ_in_the_aliases_of_the_student(checkpoints):
    tensors = dict(checkpoints['learning']['state_dict'])
    tensors['backbone.conv1.0.weight'] = tensors['encoder_k.0.conv1.0.weight']
    refused(tensors, r'encoder_q\.0\.conv1\.0\.weight and backbone\.conv1\.0\.weight')


# Learning holds every name of linear training behind a prefix.
MIXTURES = [p for p in itertools.permutations(FAMILIES, 2) if set(p) != {'learning', 'linear'}]


@pytest.mark.parametrize(('family', 'other'), MIXTURES)
def test_mixtures_are_refused(family, other, checkpoints):
    tensors = dict(checkpoints[family][wrapper_of(family)])
    own = {'classification': 'layer', 'deeplabv3': 'pretrained.', 'supernet': 'layer'}.get(other, '')
    foreign = {n: t for n, t in checkpoints[other][wrapper_of(other)].items() if n.startswith(own) and n not in tensors}
    names = list(foreign)[:20]
    assert len(names) == 20
    text = refused(tensors | {n: foreign[n] for n in names}, 'a mixture of checkpoints.*convert each on its own')
    assert TITLES[family] in text


@pytest.mark.parametrize(
    ('checkpoint', 'match'),
    [
        ({}, 'no state dict'),
        ({'epoch': 3}, 'epoch is no named tensor'),
        ({'state_dict': {}}, 'no state dict'),
        ({'state_dict': {'conv1.0.weight': [1.0]}}, r'conv1\.0\.weight is no named tensor'),
        ({3: torch.zeros(1)}, '3 is no named tensor'),
        ({'': torch.zeros(1)}, 'no state dict'),
        ([torch.zeros(1)], 'this is a list'),
        ({'conv1.weight': torch.zeros(1), 'layer1.0.conv2.weight': torch.zeros(1)}, 'no known kind of checkpoint'),
        ({'x' * 10**6: torch.zeros(1)}, 'no known kind of checkpoint'),
        ({'module.fc.bias': torch.zeros(1), 'fc.bias': torch.zeros(1)}, r'fc\.bias occurs twice'),
    ],
)
def test_what_is_no_checkpoint_of_ours(checkpoint, match):
    refused(checkpoint, match, choices=None)


def test_a_file_that_wraps_itself():
    checkpoint = {}
    checkpoint['state_dict'] = checkpoint
    refused(checkpoint, 'no state dict')


def test_another_network_of_timm():
    for name in ('resnet50', 'resnet50d'):
        refused(timm.create_model(name, device='meta').state_dict(), 'missing names', choices=None)
    # ResNeSt-50 is a network of the space, its little sister one of the small space's depth.
    assert convert_checkpoint(timm.create_model('resnest26d', device='meta').state_dict()).choices == (1,) * 8
    assert convert_checkpoint(timm.create_model('resnest50d', device='meta').state_dict()).choices == (1,) * 16
    refused(timm.create_model('resnest50d_4s2x40d', device='meta').state_dict(), 'wrong shapes', choices=None)


@pytest.mark.parametrize('family', STAND_ALONE)
def test_choices_that_contradict_the_weights(family, checkpoints):
    text = refused(checkpoints[family], TITLES[family], choices='01233213')
    assert 'the path 01233210, not of 01233213' in text
    assert '7 (layer4.1)' in text


@pytest.mark.parametrize('family', FAMILIES)
def test_choices_that_cannot_be(family, checkpoints):
    refused(checkpoints[family], f'{TITLES[family]}.*choices has 16 positions, this network has 8', choices=PINAS_CLS)
    refused(checkpoints[family], rf'{TITLES[family]}.*choices\[7\] is 4', choices='01233214')
    refused(checkpoints[family], f'{TITLES[family]}.*choices must be a string of 8 digits', choices=iter(PATH))


@pytest.mark.parametrize('family', SUPERNETS)
def test_a_supernet_needs_a_path(family, checkpoints):
    refused(checkpoints[family], f'{TITLES[family]}.*4\\^8 networks, so choices must name', choices=None)


@pytest.mark.parametrize('family', FAMILIES[:-1])
def test_only_learning_has_a_teacher(family, checkpoints):
    refused(checkpoints[family], f'{TITLES[family]}.*which has no teacher', teacher=True)


def test_reverse_takes_only_our_weights(checkpoints):
    for convert in (to_authors, to_detectron2):
        with pytest.raises(ValueError, match='not weights of one of our models but a detectron2 checkpoint'):
            convert(checkpoints['detectron2']['model'])
        with pytest.raises(ValueError, match='missing names: '):
            convert({'fc.bias': torch.zeros(3)})


# The command


@pytest.fixture(scope='module')
def saved(tmp_path_factory, checkpoints):
    """A file of each family."""
    folder = tmp_path_factory.mktemp('saved')
    for family, checkpoint in checkpoints.items():
        torch.save(checkpoint, folder / f'{family}.pth.tar')
    return folder


@pytest.fixture
def files(tmp_path, saved):
    """A folder of one's own with the files: links, because they are large and no command may write into them."""
    for file in saved.iterdir():
        os.link(file, tmp_path / file.name)
    return tmp_path


def command(capsys, *args):
    code = main(['convert', *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize('family', FAMILIES)
def test_command_converts_every_family(family, files, capsys, checkpoints):
    out, report = files / 'out.safetensors', files / 'report.json'
    code, text, error = command(capsys, files / f'{family}.pth.tar', out, '--choices', DIGITS, '--report', report)
    assert (code, error) == (0, '')
    expected = convert_checkpoint(checkpoints[family], PATH)
    same(dict(sorted(load_file(out).items())), dict(sorted(expected.state_dict.items())))
    facts = json.loads(report.read_text())
    assert facts['family'] == family
    assert facts['choices'] == DIGITS
    assert facts['mapped'] == len(expected.state_dict)
    assert facts['left_out'] == expected.left_out
    assert f'{family}.pth.tar: {family}' in text
    assert f'mapped    {len(expected.state_dict)} names' in text
    for name in expected.left_out:
        assert name in text or f'{name.partition(".")[0]}.* (' in text
    with safe_open(out, 'pt') as file:
        assert file.metadata()['source_sha256'] == facts['source_sha256']
        assert file.metadata()['choices'] == DIGITS
    assert not [p for p in files.iterdir() if p.name.startswith('.')]  # no unfinished files
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(report.stat().st_mode)


def test_command_takes_the_teacher(files, capsys, candidates):
    code, text, _ = command(capsys, files / 'learning.pth.tar', files / 't.pth', '--choices', DIGITS, '--teacher')
    assert code == 0
    assert 'its teacher' in text
    same(torch.load(files / 't.pth'), take(candidates[1], PATH))


def test_command_there_and_back(files, capsys, weights):
    detectron2, ours, theirs = files / 'd2.pth', files / 'ours.safetensors', files / 'theirs.pth.tar'
    code, text, _ = command(capsys, files / 'classification.pth.tar', detectron2, '--to', 'detectron2')
    assert code == 0
    assert 'fc.weight' in text
    assert 'fc.bias' in text
    assert list(torch.load(detectron2)) == ['model']
    same(torch.load(detectron2)['model'], to_detectron2(weights))
    assert command(capsys, detectron2, ours)[0] == 0
    assert command(capsys, ours, theirs, '--to', 'authors')[0] == 0
    same(dict(sorted(torch.load(theirs)['state_dict'].items())), dict(sorted(backbone_of(weights).items())))


@pytest.mark.parametrize('family', ['classification', 'deeplabv3', 'learning'])
def test_command_writes_a_model_folder(family, files, capsys, checkpoints):
    folder = files / 'model'
    args = (files / f'{family}.pth.tar', folder, '--folder', '--choices', DIGITS)
    assert command(capsys, *args)[0] == 0
    assert command(capsys, *args)[0] == 2
    assert command(capsys, *args, '--force')[0] == 0
    assert sorted(p.name for p in folder.iterdir()) == ['config.json', 'model.safetensors']
    assert 'label_names' not in (folder / 'config.json').read_text()  # nothing is known of its classes
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert loaded.choices == PATH
    same(loaded.state_dict(), convert_state_dict(checkpoints[family], PATH))
    (folder / 'README.md').write_text('by hand')
    code, _, error = command(capsys, *args, '--force')
    assert code == 2
    assert 'README.md' in error
    assert (folder / 'README.md').exists()


def test_folder_of_a_published_tag_says_so(tmp_path, capsys):
    weights = timm.create_model('pinas_trans', num_classes=0).state_dict()
    torch.save({'state_dict': {f'pretrained.{n}': t for n, t in weights.items()}}, tmp_path / 'ade.pth.tar')
    assert (
        command(capsys, tmp_path / 'ade.pth.tar', tmp_path / 'm', '--folder', '--model', 'pinas_trans.ade20k')[0] == 0
    )
    config = json.loads((tmp_path / 'm' / 'config.json').read_text())
    assert config['architecture'] == 'pinas_trans'
    assert config['pretrained_cfg']['tag'] == 'ade20k'
    assert 'choices' not in config['model_args']  # the name implies them


@pytest.mark.parametrize(
    ('args', 'match'),
    [
        (['nope.pth', 'o.pth'], 'nope.pth'),
        (['supernet.pth.tar', 'o.pth'], 'choices must name'),
        (['supernet.pth.tar', 'o.pth', '--choices', '012'], 'choices has 3 positions'),
        (['classification.pth.tar', 'o.pth', '--choices', '11111111'], 'the path 01233210, not of 11111111'),
        (['classification.pth.tar', 'o.pth', '--teacher'], 'no teacher'),
        (['classification.pth.tar', 'o.bin'], 'must end with'),
        (['classification.pth.tar', 'o', '--folder', '--to', 'authors'], 'cannot be written --to authors'),
        (['classification.pth.tar', 'no/o.pth'], 'there is no folder'),
        (['classification.pth.tar', 'linear.pth.tar'], 'exists already'),
        (['classification.pth.tar', 'classification.pth.tar', '--force'], 'is the file to convert'),
        (['classification.pth.tar', 'o.pth', '--report', 'o.pth'], 'at once'),
        (['classification.pth.tar', 'o.pth', '--report', 'linear.pth.tar'], 'exists already'),
        (['classification.pth.tar', 'o.pth', '--model', 'pinas_cls'], 'choices has 16 positions'),
        (['classification.pth.tar', 'o.pth', '--model', 'pinas_subnet'], 'does not fit --model pinas_subnet'),
        (['classification.pth.tar', 'o.pth', '--model', 'pinas_clss'], 'did you mean pinas_cls'),
        (['classification.pth.tar', 'o.pth', '--model', 'resnet18'], 'is no network of this space'),
        (['.', 'o.pth'], 'folder'),
    ],
)
def test_command_errors_are_one_line(args, match, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    before = {p.name: p.stat().st_mtime_ns for p in files.iterdir()}
    code, out, error = command(capsys, *args)
    assert (code, out) == (2, '')
    assert error.startswith('pinas-models convert: error: ')
    assert match in error
    assert error.count('\n') == 1
    assert {p.name: p.stat().st_mtime_ns for p in files.iterdir()} == before


def test_command_in_a_process_of_its_own(files):
    args = [sys.executable, '-m', 'pinas_models.cli', 'convert', files / 'detectron2.pth.tar', files / 'o.safetensors']
    done = subprocess.run(args, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('detectron2.pth.tar: detectron2\n')
    assert (files / 'o.safetensors').exists()


@pytest.mark.parametrize('name', ['resnet50', 'resnet50d', 'seresnet50'])
def test_another_network_is_not_called_incomplete(name):
    with pytest.raises(ValueError, match='another network') as caught:
        convert_state_dict(timm.create_model(name).state_dict())
    assert 'incomplete' not in str(caught.value)


def test_a_full_disk_is_one_line(tmp_path):
    """The limit on the size of files stands for the disk: the system refuses to write on, half-way."""
    source = tmp_path / 'in.pth'
    torch.save(timm.create_model('pinas_mini', num_classes=3).state_dict(), source)
    program = (
        'import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); '
        'from pinas_models.cli import main; '
        'targets = (["--folder", "out"], ["out.safetensors"], ["out.pth"]); '
        'print(*(main(["convert", "in.pth", *target]) for target in targets))'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == '2 2 2\n'
    assert done.stderr.count('\n') == done.stderr.count('File too large') == 3, done.stderr
    assert list(tmp_path.iterdir()) == [source]
