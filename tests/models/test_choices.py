"""Paths and the constructor's other choices: what is accepted, and what a refusal says."""

from collections import deque

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import pinas_models
from pinas_models import BLOCK_CHOICES, PINAS_CLS, PINAS_TRANS, RESNEST50, PinasNet, parse_choices

paths = st.integers(1, 20).flatmap(lambda length: st.lists(st.integers(0, 3), min_size=length, max_size=length))

# Published: network, 16 choices.
PUBLISHED = {
    'pinas_cls': (PINAS_CLS, '3013231203213032'),
    'pinas_trans': (PINAS_TRANS, '3333113330011021'),
    'pinas_resnest50': (RESNEST50, '1' * 16),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_paths(name):
    path, text = PUBLISHED[name]
    assert parse_choices(text, 16) == path
    assert timm.create_model(name, device='meta').choices == path


def test_block_choices_are_the_papers():
    assert [(c.name, c.radix, c.cardinality, c.base_width) for c in BLOCK_CHOICES] == [
        ('1s1x64d', 1, 1, 64),
        ('2s1x64d', 2, 1, 64),
        ('1s2x42d', 1, 2, 42),
        ('2s2x40d', 2, 2, 40),
    ]


def test_widths_at_every_stage():
    widths = [[c.group_width(planes) for planes in (64, 128, 256, 512)] for c in BLOCK_CHOICES]
    attention = [[c.attention_channels(planes) for planes in (64, 128, 256, 512)] for c in BLOCK_CHOICES]
    assert widths == [[64, 128, 256, 512], [64, 128, 256, 512], [84, 168, 336, 672], [80, 160, 320, 640]]
    assert attention == [[32, 32, 64, 128], [32, 64, 128, 256], [32, 42, 84, 168], [40, 80, 160, 320]]


@pytest.mark.parametrize('choice', range(4))
@pytest.mark.parametrize('stage', range(4))
def test_every_choice_builds_in_every_stage(choice, stage):
    layers = (3, 4, 6, 3)
    path = [(choice + 1) % 4] * 16
    start = sum(layers[:stage])
    path[start : start + layers[stage]] = [choice] * layers[stage]
    model = timm.create_model('pinas_subnet', choices=path, device='meta').eval()
    planes, candidate = 64 * 2**stage, BLOCK_CHOICES[choice]
    for block in model.get_submodule(f'layer{stage + 1}'):
        assert (block.conv2.radix, block.conv2.fc1.groups) == (candidate.radix, candidate.cardinality)
        assert block.conv2.fc1.in_channels == candidate.group_width(planes)
        assert block.conv2.fc1.out_channels == candidate.attention_channels(planes)
    assert model(torch.empty(1, 3, 64, 64, device='meta')).shape == (1, 1000)


# What counts as a path


@given(paths)
def test_every_spelling_of_a_path_is_the_same_path(path):
    length, expected = len(path), tuple(path)
    spellings = (
        path,
        expected,
        deque(path),
        ''.join(map(str, path)),
        np.array(path),
        np.array(path, dtype=np.uint8),
        [np.int64(c) for c in path],
        torch.tensor(path),
        list(torch.tensor(path)),
    )
    for choices in spellings:
        parsed = parse_choices(choices, length)
        assert parsed == expected
        assert type(parsed) is tuple
        assert all(type(c) is int for c in parsed)  # plain integers, so that a model's arguments can be saved as JSON


@given(paths)
def test_parsing_twice_changes_nothing(path):
    once = parse_choices(path, len(path))
    assert parse_choices(once, len(path)) == once
    assert parse_choices(''.join(map(str, once)), len(path)) == once


@given(st.lists(st.integers(0, 1), min_size=8, max_size=8), st.integers(0, 7), st.integers(-100, 100))
def test_exactly_the_choices_of_the_space_are_allowed(path, position, choice):
    path[position] = choice
    if 0 <= choice < 4:
        assert parse_choices(path, 8)[position] == choice
    else:
        with pytest.raises(ValueError, match=rf'choices\[{position}\] is {choice}; a choice is an integer 0\.\.3'):
            parse_choices(path, 8)


@given(paths, st.integers(1, 20))
def test_exactly_the_length_of_the_network_is_allowed(path, length):
    if len(path) == length:
        assert len(parse_choices(path, length)) == length
    else:
        message = f'choices has {len(path)} positions, this network has {length}: pass a string of {length} digits'
        with pytest.raises(ValueError, match=message):
            parse_choices(path, length)


@pytest.mark.parametrize(
    ('choices', 'position', 'shown'),
    [
        ('30x1', 2, "'x'"),
        ('3 01', 1, "' '"),
        ('301²', 3, "'²'"),  # a digit for str.isdigit, not for int
        ('٣012', 0, "'٣'"),  # a digit for int, not one that anybody meant
        ('-101', 0, "'-'"),
        ('3041', 2, '4'),
        ([0, 1, True, 2], 2, 'True'),
        ([0, 1, 2.0, 2], 2, r'2\.0'),
        ([0, None, 1, 1], 1, 'None'),
        (['3', '0', '1', '3'], 0, "'3'"),
        ([[0, 1], [2, 3]], 0, r'\[0, 1\]'),
        ([0, 1, 2, np.float32(1)], 3, r'.*1\.0\)?'),
        ([0, np.bool_(True), 2, 1], 1, '.*True_?'),
        (np.array([0.0, 1.0, 2.0, 3.0]), 0, r'0\.0'),
        (np.array([True] * 4), 0, 'True'),
        (np.zeros((4, 4), dtype=int), 0, r'\[0, 0, 0, 0\]'),
        (torch.tensor([0.5, 1, 2, 3]), 0, r'0\.5'),
        (torch.tensor([True] * 4), 0, 'True'),
        (b'3013', 0, '51'),
    ],
    ids=repr,
)
def test_wrong_choice_names_the_position_and_what_is_allowed(choices, position, shown):
    message = (
        rf'^choices\[{position}\] is {shown}; a choice is an integer 0\.\.3 \(a string of 4 digits or a sequence of 4'
    )
    with pytest.raises(ValueError, match=message):
        parse_choices(choices, 4)


@pytest.mark.parametrize(
    ('choices', 'type_name'),
    [
        ((c for c in (3, 0, 1, 3)), 'generator'),  # read once, it could not be recorded with the model
        (iter([3, 0, 1, 3]), 'list_iterator'),
        (map(int, '3013'), 'map'),
        ({0, 1, 2, 3}, 'set'),  # no order
        ({0: 3, 1: 0, 2: 1, 3: 3}, 'dict'),
        (3013, 'int'),
        (np.int64(3), 'int64'),
        (torch.tensor(3), 'Tensor'),
        (1.5, 'float'),
        (None, 'NoneType'),
        (object(), 'object'),
        (BLOCK_CHOICES[0], 'BlockChoice'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_wrong_object_names_its_type_and_what_is_allowed(choices, type_name):
    message = f'^choices must be a string of 4 digits or a sequence of 4 integers, got {type_name} '
    with pytest.raises(ValueError, match=message):
        parse_choices(choices, 4)


@pytest.mark.parametrize('choices', ['', [], ()])
def test_empty_path(choices):
    with pytest.raises(ValueError, match='choices has 0 positions, this network has 4'):
        parse_choices(choices, 4)


def test_number_of_choices_is_the_callers():
    assert parse_choices('56', 2, num_choices=7) == (5, 6)
    with pytest.raises(ValueError, match=r'choices\[1\] is 6; a choice is an integer 0\.\.5'):
        parse_choices('56', 2, num_choices=6)


# The same refusals by way of timm


@pytest.mark.parametrize(
    ('name', 'choices', 'message'),
    [
        ('pinas_subnet', '301', 'choices has 3 positions, this network has 16'),
        ('pinas_subnet', [0] * 15 + [4], r'choices\[15\] is 4'),
        ('pinas_cls', '0' * 17, 'choices has 17 positions, this network has 16'),
        ('pinas_mini', '0' * 16, 'choices has 16 positions, this network has 8'),
        ('pinas_mini', 30, 'choices must be'),
    ],
)
def test_create_model_refuses_a_wrong_path(name, choices, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, choices=choices, device='meta')


def test_subnet_needs_choices():
    with pytest.raises(TypeError, match='choices'):
        timm.create_model('pinas_subnet', device='meta')


@given(st.text('0123', min_size=8, max_size=8))
def test_model_records_its_path(text):
    model = timm.create_model('pinas_mini', choices=text, device='meta')
    assert ''.join(map(str, model.choices)) == text
    built = [(block.conv2.radix, block.conv2.fc1.groups) for s in range(1, 5) for block in getattr(model, f'layer{s}')]
    assert built == [(BLOCK_CHOICES[int(c)].radix, BLOCK_CHOICES[int(c)].cardinality) for c in text]


# Strides and rules


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(output_stride=4), 'output_stride is 4; this network has 32, 16, 8'),
        (dict(output_stride=64), 'output_stride is 64; this network has 32, 16, 8'),
        (dict(output_stride=0), 'output_stride is 0; this network has 32, 16, 8'),
        (dict(output_stride='8'), "output_stride is '8'; this network has 32, 16, 8"),
        (dict(output_stride=32, stem_stride=2), 'output_stride is 32; this network has 16, 8, 4'),
        (dict(output_stride=16, stem_stride=1), 'output_stride is 16; this network has 8, 4, 2'),
        (dict(stem_stride=3), 'stem_stride is 3; allowed are 1, 2, 4'),
        (dict(stem_stride=8), 'stem_stride is 8; allowed are 1, 2, 4'),
        (dict(stem_stride='4'), "stem_stride is '4'; allowed are 1, 2, 4"),
        (dict(dilation_rule='Encoding'), "dilation_rule is 'Encoding'; allowed are 'encoding', 'timm'"),
        (dict(dilation_rule=8), "dilation_rule is 8; allowed are 'encoding', 'timm'"),
    ],
)
def test_wrong_stride_or_rule_names_what_is_allowed(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model('pinas_cls', device='meta', **kwargs)


def test_default_output_stride_is_the_largest():
    for stem_stride in (1, 2, 4):
        model = PinasNet('0' * 4, layers=(1, 1, 1, 1), stem_stride=stem_stride, device='meta')
        assert model.feature_info[-1]['reduction'] == 8 * stem_stride


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('num_classes', -1), ('in_chans', 0), ('drop_path_rate', 1.5), ('drop_rate', -0.1), ('drop_block_rate', 1.5)],
)
def test_arguments_that_cannot_be(argument, value):
    with pytest.raises(ValueError, match=f'{argument} is {value}; it must be'):
        timm.create_model('pinas_mini', **{argument: value})


@pytest.mark.parametrize('pretrained', [False, True])
def test_features_only_models_have_their_choices(pretrained):
    whole = timm.create_model('pinas_mini')
    assert timm.create_model('pinas_mini', pretrained=pretrained, features_only=True).choices == whole.choices
    chosen = timm.create_model('pinas_mini', features_only=True, choices='01230123')
    assert chosen.choices == (0, 1, 2, 3) * 2


def test_entry_functions_are_at_package_level():
    names = timm.list_models(module='pinas')
    assert names
    for name in names:
        assert getattr(pinas_models, name) is timm.model_entrypoint(name)
        assert name in pinas_models.__all__
