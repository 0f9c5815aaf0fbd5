"""What networks cost, and ``pinas-models info`` as a user meets it."""

import itertools
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import save_for_hf
from torch import nn

from pinas_models import BLOCK_CHOICES, PINAS_CLS
from pinas_models.cli import main
from pinas_models.inspect.costs import measure_costs, network_stages
from pinas_models.inspect.drawing import Block, Column, draw_svg, draw_text, network_columns
from pinas_search.spaces import mini, resnest50

SVG = '{http://www.w3.org/2000/svg}'
MINI = mini()
paths = st.lists(st.integers(0, 3), min_size=8, max_size=8).map(tuple)


def make(name, **kwargs):
    return timm.create_model(name, device='meta', **kwargs)


# Costs


# Counted with the authors' own counter; parameters, statistics of BN, MACs of convolutions and linear layers, FLOPs.
@pytest.mark.parametrize(
    ('name', 'params', 'with_statistics', 'macs', 'authors_flops'),
    [
        ('pinas_cls', 27_046_278, 27_109_898, 5_332_293_584, 5_377_512_288),
        ('pinas_trans', 27_039_016, 27_102_152, 5_253_644_608, 5_300_882_944),
        ('pinas_resnest50', 27_483_240, 27_547_816, 5_371_160_576, 5_415_832_320),
        ('resnest50d', 27_483_240, 27_547_816, 5_371_160_576, 5_415_832_320),
    ],
)
def test_counts_are_the_authors(name, params, with_statistics, macs, authors_flops):
    costs = measure_costs(make(name, num_classes=1000), (3, 224, 224))
    assert costs.params == params
    assert costs.params + costs.statistics == with_statistics
    assert costs.macs == macs
    assert costs.authors_flops == authors_flops


@pytest.mark.parametrize(
    ('name', 'millions'),
    # Column infer_macts of timm's benchmark tables.
    [('resnest50d', 14.36), ('resnet50', 11.11), ('efficientnet_b0', 6.75), ('vit_tiny_patch16_224', 5.97)],
)
def test_activations_are_those_of_timms_tables(name, millions):
    assert round(measure_costs(make(name), (3, 224, 224)).activations / 1e6, 2) == millions


@settings(max_examples=6)
@given(path=paths)
def test_costs_equal_the_tables_of_the_search(path):
    costs, cost = measure_costs(make('pinas_mini', choices=path), (3, 32, 32)), MINI.cost(path)
    assert (costs.params, costs.macs) == (cost.params, cost.macs)


def test_costs_equal_the_tables_of_the_search_in_the_large_space():
    costs, cost = measure_costs(make('pinas_cls'), (3, 224, 224)), resnest50().cost(PINAS_CLS)
    assert (costs.params, costs.macs) == (cost.params, cost.macs)


@settings(max_examples=20)
@given(
    channels=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_chain_of_convolutions_costs_what_the_formulas_say(channels, height, width, dtype):
    pairs, size = list(itertools.pairwise(channels)), height * width
    model = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)).to(dtype)
    costs = measure_costs(model, (channels[0], height, width))
    assert costs.params == sum(9 * a * b + b for a, b in pairs)
    assert costs.macs == sum(9 * a * b * size for a, b in pairs)
    assert costs.authors_flops == sum((9 * a * b + b) * size for a, b in pairs)  # and an output element per bias
    assert costs.activations == sum(b * size for _, b in pairs)
    assert costs.weight_bytes == costs.params * dtype.itemsize
    # The caller holds the image; while an operator runs its input and its output are there.
    alive = [channels[0] + (a if i else 0) + b for i, (a, b) in enumerate(pairs)]
    assert costs.activation_bytes == max(alive) * size * dtype.itemsize
    assert costs.parts['0'].output_shape == (channels[1], height, width)


def test_the_rule_of_the_authors_counts_normalisation_activation_and_pools():
    layers = [
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 7),
    ]
    costs = measure_costs(nn.Sequential(*layers), (5, 8, 8))
    image = 5 * 8 * 8
    assert costs.authors_flops == 2 * image + image + image + image // 4 + 20 * 7
    assert costs.macs == 20 * 7
    # In place, and a view, take no memory; the max pool makes 64-bit indices that nobody asked for.
    assert costs.activation_bytes == 4 * (image + image + image // 4) + 8 * (image // 4)


def test_a_branch_that_waits_is_alive():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(2, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)

        def forward(self, x):
            y = self.conv1(x)
            z = self.conv2(y)
            z = self.conv2(z)  # here the image, y, the old and the new z are alive
            return z + y

    assert measure_costs(Residual(), (2, 4, 4)).activation_bytes == 4 * 16 * (2 + 8 + 8 + 8)


def test_counting_changes_nothing():
    model = timm.create_model('pinas_mini').train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    measure_costs(model, (3, 32, 32))
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert not any(module._forward_hooks for module in model.modules())


def test_a_size_that_does_not_fit_is_a_value_error():
    model = make('pinas_mini').train()
    with pytest.raises(ValueError, match='PinasNet does not run on an image of 4x32x32'):
        measure_costs(model, (4, 32, 32))
    assert model.training


# Drawings


@settings(max_examples=6)
@given(path=paths)
def test_stages_and_drawings_show_every_block(path):
    model = make('pinas_mini', choices=path)
    costs = measure_costs(model, (3, 32, 32))
    stages = network_stages(model, costs)
    assert [choice for stage in stages for choice in stage.choices] == list(path)
    assert [stage.output_shape for stage in stages] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert [stage.stride for stage in stages] == [2, 4, 8, 16]
    outside = [costs.parts[name].params for name in ('conv1', 'bn1', 'fc')]
    assert sum(stage.params for stage in stages) + sum(outside) == costs.params
    assert all(stage.macs == sum(stage.block_macs) for stage in stages)

    lines = draw_text(network_columns(stages), unicode=False).splitlines()
    assert max(map(len, lines)) <= 80
    drawn = [[int(cell[1]) for cell in line.split('|')[1:-1] if cell.strip()] for line in lines if line.startswith('|')]
    assert drawn == [[stage.choices[row] for stage in stages] for row in range(2)]

    legend = dict(enumerate('abcd'))
    svg = ElementTree.fromstring(draw_svg(network_columns(stages), title='a & b <c>', facts=['fact'], legend=legend))
    texts = [element.text for element in svg.iter(f'{SVG}text')]
    assert texts[0] == 'a & b <c>'
    labels = [text for text in texts if text.endswith('d') and ':' not in text and 's' in text]
    assert labels == [f'{choice}   {BLOCK_CHOICES[choice].name}' for choice in path]
    used = [element.get('fill') for element in svg.iter(f'{SVG}rect') if str(element.get('fill')).startswith('url')]
    assert used == [f'url(#choice{choice})' for choice in (*path, *sorted(set(path)))]
    defined = [f'url(#{element.get("id")})' for element in svg.iter(f'{SVG}pattern')]
    assert defined == [f'url(#choice{choice})' for choice in sorted(set(path))]


def test_a_drawing_of_plain_data_has_every_block_and_tells_choices_apart_without_colour():
    columns = [Column('cell', [Block(5, 'none'), Block(0, 'skip', 'note')]), Column('<b>', [Block(4, 'pool')])]
    svg = ElementTree.fromstring(draw_svg(columns))
    texts = [element.text for element in svg.iter(f'{SVG}text')]
    assert texts == ['cell', '5   none', '0   skip', 'note', '<b>', '4   pool']
    assert svg.find(f'{SVG}desc').text == 'cell: none, skip; <b>: pool.'
    hatches = {p.get('id'): [path.get('d') for path in p.iter(f'{SVG}path')] for p in svg.iter(f'{SVG}pattern')}
    assert len({tuple(hatch) for hatch in hatches.values()}) == len(hatches) == 3
    _, _, width, height = map(float, svg.get('viewBox').split())
    for rectangle in svg.iter(f'{SVG}rect'):
        assert float(rectangle.get('x', 0)) + float(rectangle.get('width')) <= width
        assert float(rectangle.get('y', 0)) + float(rectangle.get('height')) <= height


def test_columns_of_unequal_length():
    model = make('pinas_cls')
    lines = draw_text(network_columns(network_stages(model, measure_costs(model, (3, 64, 64))))).splitlines()
    assert [line.count('│') for line in lines if '│' in line] == [8, 8, 8, 4, 2, 2]
    assert len({len(line) for line in lines if '│' in line and '┌' not in line}) <= 3
    assert max(map(len, lines)) <= 80


# The command


def info(*arguments):
    return main(['info', *map(str, arguments)])


def test_text(capsys):
    assert info('pinas_cls.in1k') == 0
    out = capsys.readouterr().out
    assert out.startswith('pinas_cls.in1k: PinasNet, image 3 x 224 x 224, 1000 classes\n')
    for number in ('27,046,278', '27,109,898', '5,332,293,584', '5,377,512,288', '14,488,178', '103.4 MiB'):
        assert number in out
    assert '1024 x 14 x 14' in out
    assert '2  1s2x42d  one 3x3 convolution in 2 groups' in out


def test_json_with_path_and_size(capsys):
    assert info('pinas_subnet', '--choices', '3' * 16, '--size', '64x96', '--num-classes', 0, '--json') == 0
    report = json.loads(capsys.readouterr().out)
    assert report['input_size'] == [3, 64, 96]
    assert report['choices'] == '3' * 16
    assert report['num_classes'] == 0
    cost = resnest50(num_classes=0).cost((3,) * 16)
    assert report['params'] == cost.params
    assert [stage['output_shape'] for stage in report['stages']] == [
        [256, 16, 24],
        [512, 8, 12],
        [1024, 4, 6],
        [2048, 2, 3],
    ]
    assert {name for stage in report['stages'] for name in stage['blocks']} == {'2s2x40d'}


def test_model_folder_and_picture(tmp_path, capsys):
    model = timm.create_model('pinas_mini', choices='31203121', num_classes=7, output_stride=4)
    save_for_hf(model, str(tmp_path / 'model'), safe_serialization=True)
    assert info(f'local-dir:{tmp_path / "model"}', '--svg', tmp_path / 'network.svg') == 0
    out = capsys.readouterr().out
    assert '3  2s2x40d' in out
    assert '0  1s1x64d d2' in out or '2  1s2x42d d2' in out  # output stride 4: layer4 is dilated
    assert '7 classes' in out
    svg = ElementTree.parse(tmp_path / 'network.svg').getroot()
    assert any(str(element.text).endswith('d4') for element in svg.iter(f'{SVG}text'))


def test_weights_are_not_read(tmp_path, capsys):
    """So it works without network for names whose weights are on the Hub."""
    save_for_hf(timm.create_model('pinas_mini'), str(tmp_path), safe_serialization=True)
    (tmp_path / 'model.safetensors').write_bytes(b'damaged')
    assert info(f'local-dir:{tmp_path}', '--json') == 0
    assert json.loads(capsys.readouterr().out)['params'] == sum(
        p.numel() for p in timm.create_model('pinas_mini').parameters()
    )


def test_other_models(capsys):
    assert info('resnest50d', '--size', 224) == 0
    out = capsys.readouterr().out
    assert '5,415,832,320' in out
    assert 'layer1' not in out


def test_terminal_without_box_characters():
    done = subprocess.run(
        [sys.executable, '-m', 'pinas_models.cli', 'info', 'pinas_mini', '--size', '32'],
        capture_output=True,
        env={'PYTHONIOENCODING': 'ascii', 'PATH': '', 'OMP_NUM_THREADS': '1'},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b'+--------------+' in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['pinas_mni'], 'pinas_mini'),
        (['pinas_subnet'], 'choices'),
        (['pinas_mini', '--choices', '01234567'], r'choices\[4\] is 4'),
        (['pinas_cls', '--choices', '3'], 'this network has 16'),
        (['pinas_mini', '--num-classes', '-1'], '0 or more'),
        (['resnet18', '--svg', 'x.svg'], 'resnet18 is a ResNet'),
        (['vit_tiny_patch16_224', '--size', '100'], 'does not run on an image of 3x100x100'),
        (['pinas_mini', '--svg', 'no/such/folder.svg'], 'there is no folder'),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert info(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.count('\n') == 1
    assert captured.err.startswith('pinas-models info: error: ')
    assert re.search(message, captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('size', ['0', 'x', '224x', '1x2x3', '-4', '²'])
def test_wrong_sizes(size, capsys):
    with pytest.raises(SystemExit) as raised:
        info('pinas_mini', f'--size={size}')
    assert raised.value.code == 2
    assert 'height x width' in capsys.readouterr().err


def test_svg_replaces_nothing_unasked(tmp_path, capsys):
    target = tmp_path / 'thesis.svg'
    target.write_text('years of work')
    assert info('pinas_mini', '--svg', target) == 2
    assert f'{target} exists already' in capsys.readouterr().err
    assert target.read_text() == 'years of work'
    assert info('pinas_mini', '--svg', target, '--force') == 0
    assert target.read_text().startswith('<svg')
