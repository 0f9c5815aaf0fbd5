"""Networks are measured side by side, and the tables say what was measured."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch
from torch import nn

from pinas_models.benchmarking import Benchmark, Candidate, Setup, measure_speeds
from pinas_models.benchmarking.authors import DEFAULT_MODELS, DEFAULT_SIZES, reported
from pinas_models.benchmarking.memory import peak_memory
from pinas_models.benchmarking.running import open_untrained, running
from pinas_models.benchmarking.tables import check_results_file, markdown_table, replace_in_markdown, text_table
from pinas_models.cli import main
from pinas_models.costs import measure_costs

SIZE = 3, 32, 32
README = 'before\n\n<!-- benchmark -->\nan old table\n<!-- /benchmark -->\n\nbehind\n'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Three networks and one that does not exist, through the command."""
    folder = tmp_path_factory.mktemp('benchmark')
    (folder / 'README.md').write_text(README)
    command = (
        'benchmark --models test_resnet pinas_mini no_such_net pinas_mini resnest14d --reference pinas_mini --size 32'
        ' --batch-size 2 --repeats 2 --seconds 0 --threads 1 --results-file speed.csv --plot speed.svg'
        ' --markdown README.md'
    )
    done = subprocess.run(
        [sys.executable, '-m', 'pinas_models.cli', *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    with (folder / 'speed.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    return folder, done, rows


def test_unknown_network_is_a_row_and_a_line(finished):
    _, done, rows = finished
    assert done.returncode == 1
    assert [row['model'] for row in rows] == ['test_resnet', 'pinas_mini', 'no_such_net', 'resnest14d']
    assert [bool(row['error']) for row in rows] == [False, False, True, False]
    assert "no model 'no_such_net'" in rows[2]['error']
    assert rows[2]['infer_samples_per_sec'] == rows[2]['param_count'] == ''
    warnings = [line for line in done.stderr.splitlines() if 'warning' in line.lower()]
    assert len(warnings) == 1
    assert 'no_such_net' in warnings[0]
    assert 'Traceback' not in done.stderr


def test_columns_are_timms_and_agree_with_each_other(finished):
    _, _, rows = finished
    # The header of timm's results/benchmark-infer-*.csv.
    assert list(rows[0])[:8] == (
        'model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts'
    ).split(',')
    reference = rows[1]
    for row in (rows[0], rows[1], rows[3]):
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
    assert len(lines) == 3 * 2 * (1 + 2)  # networks, inference and training, memory and two rounds
    speeds = [line.split('  ')[-1].split(':')[0] for line in lines if 'images/s' in line]
    # The networks take turns.
    assert speeds == [f'{n} {b}' for b in ('infer', 'train') for n in ('test_resnet', 'pinas_mini', 'resnest14d')] * 2


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
    for model in ('test_resnet', 'pinas_mini', 'resnest14d'):
        assert f'\n{model} ' in done.stdout


def test_plot_names_the_networks(finished):
    folder, _, _ = finished
    texts = ElementTree.parse(folder / 'speed.svg').getroot().itertext()
    # Matplotlib draws text as shapes, and writes what it says in comments.
    assert list(texts)
    svg = (folder / 'speed.svg').read_text()
    for label in ('test_resnet', 'pinas_mini', 'resnest14d', 'Inference', 'Training', 'Memory', 'largest, GiB'):
        assert f'<!-- {label} -->' in svg
    assert 'no_such_net' not in svg
