"""The stages truth and rank: tables of true accuracies, scores in the supernet, statistics, kills."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pinas_search.cli import main
from pinas_search.config import check_run_dir, parse_config
from pinas_search.records import Predictions
from pinas_search.spaces import nasbench201
from pinas_search.stages import Run
from pinas_search.stages.rank import known_truth

CELLS = ('space=nasbench201', 'space_options={channels: 4, num_cells: 1}')
QUICK = (
    *CELLS,
    'threads=1',
    'learn.method=spos',
    'learn.supernet_options={track_running_stats: true}',
    'learn.epochs=2',
    'learn.max_steps=8',
    'learn.snapshots=2',
    'search.strategy=random',
    'search.candidates=3',
    'search.evaluate={batches: 2, batch_size: 32, max_images: 64}',
    'retrain.top=0',
    'retrain.random_paths=0',
    'rank.samples=50',
    'rank.curve_networks=6',
    'rank.calibration=[0, 1]',
)
NO_SUPERNET = (*QUICK, 'search.scorer=cost:params')


def write_truth(file, cells, accuracies):
    space = nasbench201()
    rows = [f'{space.to_string(space.decode(cell))},{value}\n' for cell, value in zip(cells, accuracies, strict=True)]
    text = 'arch,cifar10\n' + ''.join(rows)
    if file.suffix == '.gz':
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)


def some_cells(count, seed=0):
    digits = np.random.default_rng(seed).choice(3**6, count, replace=False)
    return [''.join(str(2 + d // 3**i % 3) for i in range(6)) for d in digits]


def pinas_search(folder, stage, *settings):
    return main([stage, '--config', 'digits', '--out', str(folder), *settings])


@pytest.fixture(scope='module')
def ranked(tmp_path_factory):
    """A run with a truth of 12 cells."""
    folder = tmp_path_factory.mktemp('ranked')
    rng = np.random.default_rng(1)
    write_truth(folder / 'truth.csv.gz', some_cells(12), rng.uniform(80, 94, 12).round(2).tolist())
    assert pinas_search(folder / 'run', 'run', *QUICK, f'truth.file={folder / "truth.csv.gz"}') == 0
    return folder / 'run'


def rows_of(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_scores_are_those_of_the_scorer_and_statistics_are_scipys(ranked):
    rows = rows_of(ranked / 'rank' / 'predictions.csv')
    assert sorted(row['arch'] for row in rows) == sorted(some_cells(12))
    run = Run(parse_config([str(ranked / 'config.yaml')], []), ranked)
    scorer = run.scorer()
    for row in rows[:3]:  # one at a time, as the search asks
        (score,) = scorer.score([run.space.decode(row['arch'])])
        assert float(row['score']) == pytest.approx(score.value, abs=1e-9)
        assert float(row['accuracy']) == score.extra['accuracy']
    report = json.loads((ranked / 'rank' / 'report.json').read_text())
    truth = dict(zip(some_cells(12), np.random.default_rng(1).uniform(80, 94, 12).round(2), strict=True))
    scores, accuracies = [float(row['score']) for row in rows], [truth[row['arch']] for row in rows]
    assert report['kendall_tau'] == pytest.approx(stats.kendalltau(scores, accuracies).statistic)
    losses = [float(row['cross_entropy']) for row in rows]
    by_loss = report['scores']['cross_entropy']['kendall_tau']
    assert by_loss == pytest.approx(-stats.kendalltau(losses, accuracies).statistic)
    assert report['chosen_true'] == truth[report['chosen']] == accuracies[int(np.argmax(scores))]
    assert report['best_true'] - report['chosen_true'] == pytest.approx(report['regret'])
    assert report['batch_norm'] == 'recalibrated'
    known = {'n': 12, 'coverage': 1.0, 'recalibrated': True, 'calibration_images': 64, 'held_out_images': 64}
    assert {key: report[key] for key in known} == known
    assert report['truth'] | {'checksum': ''} == {
        'file': 'truth.csv.gz',
        'column': 'cifar10',
        'fidelity': None,
        'checksum': '',
        'source': None,
    }
    assert {'params', 'macs', 'number of nor_conv_3x3'} <= set(report['trivial'])
    assert any('12 networks are few' in warning for warning in report['warnings'])


def test_curves_are_over_the_same_networks(ranked):
    report = json.loads((ranked / 'rank' / 'report.json').read_text())
    assert [point['epoch'] for point in report['by_epoch']] == [4 / 17, 8 / 17]
    assert [point['images'] for point in report['by_calibration']] == [0, 32, 64]
    assert {point['n'] for name in ('by_epoch', 'by_calibration') for point in report[name]} == {6}
    end = [report[name][-1]['kendall_tau'] for name in ('by_epoch', 'by_calibration')]
    assert end[0] == end[1]
    early = {row['arch']: row['score'] for row in rows_of(ranked / 'rank' / 'snapshots' / '4.csv')}
    late = {row['arch']: row['score'] for row in rows_of(ranked / 'rank' / 'predictions.csv')}
    assert len(early) == 6
    assert any(score != late[arch] for arch, score in early.items()), 'the snapshot scores as the end does'
    for name in ('0.csv', '1.csv'):
        assert {row['arch'] for row in rows_of(ranked / 'rank' / 'calibration' / name)} == set(early)


def test_the_page_shows_the_ranking(ranked):
    page = (ranked / 'report' / 'index.html').read_text()
    report = json.loads((ranked / 'rank' / 'report.json').read_text())
    assert 'Does the supernet rank rightly?' in page
    assert f'<code>{report["best"]}</code>' in page
    assert '12 networks are few' in page
    assert 'Nothing was retrained' in page
    for name in ('ranking', 'taus', 'tau-by-epoch', 'tau-by-calibration'):
        assert (ranked / 'report' / 'figures' / f'{name}.png').stat().st_size > 5000


def test_a_run_without_a_truth_has_no_ranking(tmp_path, capsys):
    assert pinas_search(tmp_path / 'run', 'run', *NO_SUPERNET) == 0
    assert not (tmp_path / 'run' / 'rank').exists()
    assert 'rank rightly' not in (tmp_path / 'run' / 'report' / 'index.html').read_text()
    for stage, message in (('rank', 'there is no truth to rank against'), ('truth', 'there is no truth to train')):
        assert pinas_search(tmp_path / 'run', stage, *NO_SUPERNET) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (['truth.file=nowhere.csv'], 'nowhere.csv is missing; tables of NAS-Bench-201 come from'),
        (['truth.file=table.csv', 'truth.column=cifar100'], "has no column 'cifar100'"),
        (['truth.file=table.csv', 'truth.only=730'], 'named sets of nasbench201 are 729, 4096, 6466'),
        (['truth.file=other.csv'], 'knows 0 of the networks of nasbench201'),
        (['truth.file=table.csv', 'truth.fidelity=12', 'truth.seeds=mean'], 'seeds is for the NATS-Bench folder'),
        (['truth.file=.'], 'give fidelity 12 or 200 and seeds'),
        (['truth.networks=0'], 'truth.networks'),
    ],
)
def test_a_wrong_truth_is_one_line_before_any_work(
    settings,
    message,
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    write_truth(Path('table.csv'), some_cells(4), [1, 2, 3, 4])
    Path('other.csv').write_text('arch,cifar10\n01010101,1\n10101010,2\n')
    assert pinas_search(Path('run'), 'run', *QUICK, *settings) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / 'run').exists()


def test_which_networks_are_ranked(tmp_path):
    cells = [*some_cells(20), '000000', '111111', '012340']
    write_truth(tmp_path / 'table.csv', cells, list(range(23)))

    def known(*settings, seed=0):
        config = parse_config(['digits'], [*QUICK, f'truth.file={tmp_path / "table.csv"}', f'seed={seed}', *settings])
        chosen = known_truth(Run(config, tmp_path / 'run'))
        assert [chosen.truth.accuracies[i] for i in range(len(chosen.paths))] == [
            cells.index(''.join(map(str, path))) for path in chosen.paths
        ]
        return {''.join(map(str, path)) for path in chosen.paths}, chosen.left_out, chosen.available

    assert known() == (set(cells), 0, 23)
    assert known('truth.only=729') == (set(some_cells(20)), 3, 20)
    assert known('space_options={channels: 4, num_cells: 1, without: [none]}') == ({*some_cells(20), '111111'}, 2, 21)
    drawn, _, available = known('truth.networks=7')
    assert (len(drawn), available) == (7, 23)
    assert known('truth.networks=7')[0] == drawn
    assert known('truth.networks=7', seed=1)[0] != drawn


def test_a_run_of_before_a_setting_was_there_goes_on(tmp_path):
    config = parse_config(['nasbench201'], ['truth.file=table.csv'])
    check_run_dir(config, tmp_path)
    for stage in ('learn', 'rank'):
        (tmp_path / stage).mkdir()
    file = tmp_path / 'config.yaml'
    file.write_text(file.read_text().replace('  nesterov: false\n', '').replace('  samples: 1000\n', ''))
    other = parse_config(['nasbench201'], ['truth.file=table.csv', 'learn.nesterov=true'])
    with pytest.raises(ValueError, match=r'\(learn.nesterov: False there, True here\)'):
        check_run_dir(other, tmp_path)
    check_run_dir(config, tmp_path)


def test_warnings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parent / 'toys' / 'guess.py', tmp_path)
    cells = ['111111', *some_cells(60)]
    write_truth(Path('table.csv'), cells, list(range(61)))
    settings = (*QUICK, 'search.scorer=guess', 'search.scorer_options.favourite=1', 'truth.file=table.csv')
    assert pinas_search(Path('run'), 'rank', *settings) == 0
    report = json.loads(Path('run/rank/report.json').read_text())
    assert report['chosen'] == '111111'
    assert report['warnings'] == [
        'The chosen network is mostly skips (6 of 6 positions): searches are known to collapse so.'
    ]
    assert pinas_search(Path('same'), 'rank', *settings, 'truth.only=729') == 0
    report = json.loads(Path('same/rank/report.json').read_text())
    assert (report['kendall_tau'], report['constant']) == (0.0, True)
    assert 'All scores are the same: they rank nothing.' in report['warnings']


def test_the_report_says_that_batch_statistics_were_used(tmp_path):
    write_truth(tmp_path / 'table.csv', some_cells(3), [1, 2, 3])
    settings = (*QUICK, 'learn.supernet_options={}', 'rank.calibration=[]', f'truth.file={tmp_path / "table.csv"}')
    for stage in ('learn', 'linear', 'rank'):
        assert pinas_search(tmp_path / 'run', stage, *settings) == 0
    assert json.loads((tmp_path / 'run' / 'rank' / 'report.json').read_text())['batch_norm'] == 'batch statistics'


def test_a_predictor_without_a_supernet_ranks_as_the_trivial_one(tmp_path):
    rng = np.random.default_rng(3)
    write_truth(tmp_path / 'table.csv', some_cells(30), rng.normal(size=30).tolist())
    assert pinas_search(tmp_path / 'run', 'rank', *NO_SUPERNET, f'truth.file={tmp_path / "table.csv"}') == 0
    report = json.loads((tmp_path / 'run' / 'rank' / 'report.json').read_text())
    assert report['kendall_tau'] == pytest.approx(report['trivial']['params'])
    assert report['recalibrated'] is None


def test_predictions_survive_a_half_line_and_refuse_other_columns(tmp_path):
    file = tmp_path / 'a' / 'predictions.csv'
    Predictions(file).add([('00', {'score': 0.1}), ('01', {'score': 1 / 3})])
    with file.open('a') as stream:
        stream.write('10,0.')
    again = Predictions(file)
    assert ('01' in again, '10' in again, len(again)) == (True, False, 2)
    again.add([('10', {'score': 0.5})])
    assert again.table().keys == ('00', '01', '10')
    assert again.table().numbers('score').tolist() == [0.1, 1 / 3, 0.5]
    with pytest.raises(ValueError, match='has the columns arch, score, the scores now are arch, score, accuracy'):
        again.add([('11', {'score': 0.5, 'accuracy': 0.5})])
    file.write_text(file.read_text().replace('01,0.3', '01,x0.3'))
    with pytest.raises(ValueError, match='line 3: score is'):
        Predictions(file).table().numbers('score')


COMMAND = [sys.executable, '-m', 'pinas_search']


def start(folder, stage, *settings):
    return subprocess.Popen(
        [*COMMAND, stage, '--config', 'digits', '--out', 'run', *settings],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process, file):
    while not file.exists() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f'the run ended before {file} was seen'


def test_a_killed_ranking_goes_on(ranked, tmp_path):
    cells = some_cells(170)
    write_truth(tmp_path / 'table.csv', cells, list(range(170)))
    settings = (*QUICK, 'search.evaluate={batches: 1, batch_size: 16, max_images: 16}', 'truth.file=table.csv')
    for name in ('whole', 'killed'):
        shutil.copytree(ranked, tmp_path / name / 'run', ignore=shutil.ignore_patterns('rank', 'search', 'report'))
        shutil.copy(tmp_path / 'table.csv', tmp_path / name)
    kill_when(start(tmp_path / 'killed', 'rank', *settings), tmp_path / 'killed' / 'run' / 'rank' / 'predictions.csv')
    half = rows_of(tmp_path / 'killed' / 'run' / 'rank' / 'predictions.csv')
    assert 0 < len(half) < 170
    for name in ('killed', 'whole'):
        process = start(tmp_path / name, 'rank', *settings)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert (f'going on after {len(half)} networks' in errors) == (name == 'killed')
    tables = [
        [
            {k: v for k, v in row.items() if k != 'seconds'}
            for row in rows_of(tmp_path / name / 'run/rank/predictions.csv')
        ]
        for name in ('killed', 'whole')
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 170
    reports = [json.loads((tmp_path / name / 'run/rank/report.json').read_text()) for name in ('killed', 'whole')]
    for report in reports:
        del report['predictions']
    assert reports[0] == reports[1]


def test_truth_is_trained_here_several_at_a_time_and_survives_kills(tmp_path):
    settings = (
        *NO_SUPERNET,
        'truth.networks=3',
        'truth.trainings=2',
        'retrain.epochs=2',
        'retrain.checkpoint_seconds=0.05',
    )
    for name in ('whole', 'killed'):
        (tmp_path / name).mkdir()
    killed = tmp_path / 'killed' / 'run' / 'truth'
    process = start(tmp_path / 'killed', 'truth', '--workers', '2', *settings)
    while not list(killed.glob('*/done.json')) and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / 'table.csv').exists()
    for folder, more in (('killed', ('--workers', '2')), ('whole', ())):
        process = start(tmp_path / folder, 'truth', *more, *settings)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    tables = [(tmp_path / name / 'run' / 'truth' / 'table.csv').read_text() for name in ('killed', 'whole')]
    assert tables[0] == tables[1]
    rows = rows_of(tmp_path / 'whole' / 'run' / 'truth' / 'table.csv')
    assert len({row['arch'] for row in rows}) == 3
    for row in rows:
        single = [float(row[f'accuracy_seed_{seed}']) for seed in range(2)]
        assert float(row['accuracy']) == pytest.approx(np.mean(single))
    assert any(row['accuracy_seed_0'] != row['accuracy_seed_1'] for row in rows)
    assert main(['rank', '--config', 'digits', '--out', str(tmp_path / 'whole' / 'run'), *settings]) == 0
    report = json.loads((tmp_path / 'whole' / 'run' / 'rank' / 'report.json').read_text())
    repeats = [[float(row[f'accuracy_seed_{seed}']) for row in rows] for seed in range(2)]
    expected = stats.kendalltau(*repeats).statistic
    assert report['truth']['tau_between_trainings'] == pytest.approx(0.0 if np.isnan(expected) else expected)
    assert report['truth']['fidelity'] == 2
