"""Networks are measured side by side, and the tables say what was measured."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch
from in_process import run_command
from torch import nn

from pinas_models.benchmarking import Benchmark, Contender, Setup, measure_speeds
from pinas_models.benchmarking.authors import DEFAULT_MODELS, DEFAULT_SIZES, reported
from pinas_models.benchmarking.memory import peak_memory
from pinas_models.benchmarking.tables import check_results_file, markdown_table, replace_in_markdown, text_table
from pinas_models.benchmarking.workloads import open_untrained, running
from pinas_models.cli import main
from pinas_models.inspect.costs import measure_costs

SIZE = 3, 32, 32
README = 'before\n\n<!-- benchmark -->\nan old table\n<!-- /benchmark -->\n\nbehind\n'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Two networks and one that does not exist, through the command."""
    folder = tmp_path_factory.mktemp('benchmark')
    (folder / 'README.md').write_text(README)
    command = (
        'benchmark --models test_resnet pinas_mini no_such_net pinas_mini --reference pinas_mini --size 32'
        ' --batch-size 2 --repeats 2 --seconds 0 --threads 1 --results-file speed.csv --plot speed.svg'
        ' --markdown README.md'
    )
    done = run_command(main, *command.split(), cwd=folder)
    with (folder / 'speed.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    return folder, done, rows


def test_unknown_network_is_a_row_and_a_line(finished):
    _, done, rows = finished
    assert done.returncode == 1
    assert [row['model'] for row in rows] == ['test_resnet', 'pinas_mini', 'no_such_net']
    assert [bool(row['error']) for row in rows] == [False, False, True]
    assert "no model 'no_such_net'" in rows[2]['error']
    assert rows[2]['infer_samples_per_sec'] == rows[2]['param_count'] == ''
    warnings = [line for line in done.stderr.splitlines() if 'warning' in line.lower()]
    assert len(warnings) == 1
    assert 'no_such_net' in warnings[0]
    assert 'Traceback' not in done.stderr


def test_columns_are_timms_and_agree_with_each_other(finished):
    _, _, rows = finished
    # The header of timm's results/benchmark-infer-*.csv.
    header = 'model infer_img_size infer_samples_per_sec infer_step_time infer_batch_size param_count infer_gmacs'
    assert list(rows[0])[:8] == [*header.split(), 'infer_macts']
    reference = rows[1]
    for row in rows[:2]:
        costs = measure_costs(timm.create_model(row['model'], device='meta'), SIZE)
        assert float(row['param_count']) == round(costs.params / 1e6, 2)
        assert float(row['infer_gmacs']) == round(costs.macs / 1e9, 2)
        assert float(row['infer_macts']) == round(costs.activations / 1e6, 2)
        for bench in ('infer', 'train'):
            assert (row[f'{bench}_img_size'], row[f'{bench}_batch_size']) == ('32', '2')
            speed, step = float(row[f'{bench}_samples_per_sec']), float(row[f'{bench}_step_time'])
            assert speed * step / 1000 == pytest.approx(2, rel=0.01)
            low, ratio, high = (float(row[f'{bench}_ratio{end}']) for end in ('_low', '', '_high'))
            assert low <= ratio <= high
            # The median of two rounds is their mean, so the quotient of medians lies between the quotients.
            assert low * 0.99 <= speed / float(reference[f'{bench}_samples_per_sec']) <= high * 1.01
            assert int(row[f'{bench}_peak_bytes']) > 4 * costs.params
    assert reference['infer_ratio'] == reference['train_ratio'] == '1.0'
    assert {row['reference'] for row in rows} == {'pinas_mini'}


def test_progress_names_each_measurement(finished):
    _, done, _ = finished
    lines = [line for line in done.stderr.splitlines() if line.startswith('benchmark: ')]
    assert len(lines) == 2 * 2 * (1 + 2)  # networks, inference and training, memory and two rounds
    speeds = [line.split('  ')[-1].split(':')[0] for line in lines if 'images/s' in line]
    # The networks take turns.
    assert speeds == [f'{n} {b}' for b in ('infer', 'train') for n in ('test_resnet', 'pinas_mini')] * 2


def test_table_stands_between_the_markers(finished):
    folder, done, rows = finished
    text = (folder / 'README.md').read_text()
    begin, end = '<!-- benchmark -->\n', '<!-- /benchmark -->'
    assert text.startswith('before\n\n' + begin)
    assert text.endswith(end + '\n\nbehind\n')
    assert 'an old table' not in text
    table = [line for line in text.splitlines() if line.startswith('|')]
    assert len({line.count('|') for line in table}) == 1
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in table]
    assert [row[0] for row in cells[2:]] == [f'`{row["model"]}`' for row in rows]
    speed = cells[0].index('inference img/s')
    assert cells[2][speed] == f'{float(rows[0]["infer_samples_per_sec"]):.1f}'
    assert cells[4][speed] == 'failed'
    for model in ('test_resnet', 'pinas_mini'):
        assert f'\n{model} ' in done.stdout


def test_plot_names_the_networks(finished):
    folder, _, _ = finished
    texts = ElementTree.parse(folder / 'speed.svg').getroot().itertext()
    # Matplotlib draws text as shapes, and writes what it says in comments.
    assert list(texts)
    svg = (folder / 'speed.svg').read_text()
    for label in ('test_resnet', 'pinas_mini', 'Inference', 'Training', 'Memory', 'largest, GiB'):
        assert f'<!-- {label} -->' in svg
    assert 'no_such_net' not in svg


class Noisy(nn.Module):
    """Writes down that it ran, and fails in training if told so."""

    num_classes = 2

    def __init__(self, name, log, fails_in_training=False):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.name, self.log, self.fails_in_training = name, log, fails_in_training

    def forward(self, x):
        self.log.append((self.name, self.training, torch.is_grad_enabled()))
        if self.training and self.fails_in_training:
            raise RuntimeError('Expected more than 1 value per channel\nand so on')
        return self.fc(x.mean((2, 3)))


def test_networks_take_turns_and_a_failure_is_its_own():
    log, told = [], []
    a, b = Contender('a', Noisy('a', log), SIZE), Contender('b', Noisy('b', log, fails_in_training=True), SIZE)
    measure_speeds([a, b], ('infer', 'train'), Setup(1), repeats=2, seconds=0, progress=told.append)
    infer = [(name, False, False) for name in 'aabb']  # a step to warm up, a step that counts
    assert log == [*infer, *2 * [('a', True, True)], ('b', True, True), *infer, *2 * [('a', True, True)]]
    assert (len(a.speeds['infer']), len(a.speeds['train']), len(b.speeds['infer'])) == (2, 2, 2)
    assert (a.errors, b.errors) == ({}, {'train': 'Expected more than 1 value per channel'})
    assert 'train' not in b.speeds
    assert b.ratio(a, 'train') is None
    assert len(told) == 7


def test_ratio_is_of_each_round():
    slow, fast = (
        Contender('slow', speeds={'infer': [1.0, 2.0, 4.0]}),
        Contender('fast', speeds={'infer': [4.0, 4.0, 4.0]}),
    )
    ratio = fast.ratio(slow, 'infer')
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 4.0)
    assert fast.speed('infer') == 4.0
    assert slow.speed('infer') == 2.0


@pytest.mark.parametrize('bench', ['infer', 'train'])
def test_a_step_changes_no_weight(bench):
    model = open_untrained('pinas_mini')
    before = {name: value.clone() for name, value in model.named_parameters()}
    with running(model, bench, SIZE, Setup(2, channels_last=True, amp='bf16')) as step:
        step()
        step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name
        assert value.grad is None
    assert model.bn1.num_batches_tracked.item() == (2 if bench == 'train' else 0)


def test_network_without_classifier_gets_one():
    assert open_untrained('pinas_trans').num_classes == 1000
    assert open_untrained('pinas_mini').num_classes == 10


def test_memory_is_that_of_the_batch(finished):
    _, _, rows = finished
    large = peak_memory('test_resnet', open_untrained('test_resnet'), 'infer', (3, 96, 96), Setup(1000, threads=1))
    images = 1000 * 3 * 96 * 96 * 4
    # The images and the first feature maps, but no copies of them; against two images, nearly all of it.
    assert 1.5 * images < large < 10 * images
    assert large > 2 * int(rows[0]['infer_peak_bytes'])


def test_out_of_memory_is_said():
    # More than a processor can address, so that no system promises it.
    with pytest.raises(ValueError, match=r'^out of memory with batches of 1000000000000$'):
        peak_memory('test_resnet', open_untrained('test_resnet'), 'infer', SIZE, Setup(10**12, threads=1))


def test_authors_rows_are_networks_of_the_same_size():
    assert set(DEFAULT_MODELS) - {'pinas_trans'} == {name for name in DEFAULT_MODELS if reported(name)}
    for name in DEFAULT_MODELS:
        row = reported(name)
        if row is None:
            continue
        size = DEFAULT_SIZES.get(name, 224)
        costs = measure_costs(timm.create_model(name, device='meta'), (3, size, size))
        # To 1 %: parameters, and multiply-accumulates by the authors' rule.
        assert float(row.params.removesuffix('M')) == pytest.approx(costs.params / 1e6, rel=0.01)
        assert float(row.flops.removesuffix('G')) == pytest.approx(costs.authors_flops / 1e9, rel=0.01)
    assert reported('pinas_cls.in1k').ratio == pytest.approx(556.8 / 561.6)
    assert reported('seresnext50_32x4d').ratio is None


def test_tables_show_the_authors_numbers_as_theirs(tmp_path):
    model = timm.create_model('pinas_cls', device='meta')
    measured = Contender('pinas_cls', model, costs=measure_costs(model, (3, 224, 224)))
    measured.speeds, measured.peaks = {'infer': [40.0, 10.0, 20.0]}, {'infer': 3 * 2**29}
    failed = Contender('efficientnet_b3', errors={'infer': 'out of memory with batches of 128'})
    benchmark = Benchmark([measured, failed], measured, ('infer',), Setup(128), 3, 'a machine')
    header, _, row, failed_row, *notes = markdown_table(benchmark).splitlines()
    cells = dict(zip(*([c.strip() for c in line.strip('|').split('|')] for line in (header, row)), strict=True))
    assert cells == {
        'network': '`pinas_cls`',
        'params': '27.05M',
        'GMACs': '5.33',
        'inference img/s': '20.0',
        'inference ratio': '1.00',
        'inference GiB': '1.50',
        'authors params': '27.1M',
        'authors FLOPs': '5.38G',
        'authors img/s': '556.8',
        'authors ratio': '0.99',
        'authors memory': '4.07G',
        'authors top-1': '81.6',
    }
    assert '| failed |' in failed_row
    assert '490.5' in failed_row
    text = '\n'.join(notes)
    assert 'reported by the authors, not measured here' in text
    assert 'efficientnet_b3, infer: out of memory' in text
    assert 'a machine' in text_table(benchmark)
    file = tmp_path / 'README.md'
    file.write_text(README)
    replace_in_markdown(file, benchmark)
    once = file.read_text()
    replace_in_markdown(file, benchmark)
    assert file.read_text() == once


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--markdown', 'no_place.md'], 'no_place.md has no place for the table'),
        (['--markdown', 'missing.md'], 'missing.md'),
        (['--plot', 'speed.xyz'], r'the name must end in \.png'),
        (['--results-file', 'other.csv'], 'is no table of a benchmark'),
        (['--device', 'nowhere'], "cannot use the device 'nowhere'"),
        (['--amp', 'bf16', '--dtype', 'bf16'], 'use one of the two'),
        (['--reference', 'resnet50'], '--reference resnet50 is not among the models'),
        (['--compile', 'nothing'], "no compiler 'nothing'"),
        (['--models', 'no_such_net'], 'none of the networks can be opened'),
    ],
)
@pytest.mark.filterwarnings('ignore:there is no model')
def test_mistakes_are_found_before_anything_is_measured(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('no_place.md').write_text('<!-- /benchmark -->\n<!-- benchmark -->\n')
    Path('other.csv').write_text('a,b\n1,2\n')
    models = [] if '--models' in options else ['--models', 'test_resnet']
    assert main(['benchmark', *models, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    errors = [line for line in captured.err.splitlines() if not line.startswith('warning: ')]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert Path('other.csv').read_text() == 'a,b\n1,2\n'


def test_results_file_of_an_earlier_benchmark_is_replaced(finished):
    folder, _, _ = finished
    check_results_file(folder / 'speed.csv')
    check_results_file(folder / 'new.csv')
