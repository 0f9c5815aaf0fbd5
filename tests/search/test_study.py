"""Studies: runs that differ in settings, over seeds; tables, kills, failures, mistakes."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_rank import rows_of, some_cells, write_truth

from pinas_search.cli import main
from pinas_search.config import differences, parse_config
from pinas_search.studies import builtin_studies, read_study
from pinas_search.studies.describe import describe

BASE = """
config: digits
baseline: spos
title: Which of two is better?
paper: Table 0
seeds: [0, 1]
stages: [learn, linear, rank]
settings:
  threads: 1
  space: nasbench201
  space_options: {channels: 4, num_cells: 1}
  learn:
    method: spos
    supernet_options: {track_running_stats: true}
    max_steps: 4
    batch_size: 32
    checkpoint_seconds: 0.01
  search: {strategy: random, evaluate: {batches: 1, batch_size: 32, max_images: 64}}
  retrain: {top: 0, random_paths: 0}
  rank.samples: 50
  truth.file: table.csv
"""
STUDY = (
    BASE
    + """
runs:
  spos: {passes: {forward: 1, backward: 1}}
  params: {settings: {search.scorer: 'cost:params'}, paper: 0.5}
"""
)
ACCURACIES = np.random.default_rng(1).uniform(80, 94, 14).round(2).tolist()


def prepare(folder, text=STUDY):
    (folder / 'mine.yaml').write_text(text)
    write_truth(folder / 'table.csv', some_cells(14), ACCURACIES)
    return folder


def files_of(folder):
    """Modification times of what stages leave."""
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in folder.glob('*-*/*/*') if f.is_file()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A study that ran in one go."""
    folder = prepare(tmp_path_factory.mktemp('whole'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(['study', 'mine.yaml', '--out', 'out']) == 0
    return folder


def test_the_table_is_what_scipy_computes_from_the_predictions(whole):
    out = whole / 'out'
    table = json.loads((out / 'study.json').read_text())
    truth = dict(zip(some_cells(14), ACCURACIES, strict=True))
    assert [row['name'] for row in table['rows']] == ['spos', 'params']
    means = []
    for row in table['rows']:
        taus, chosen = [], []
        for seed in (0, 1):
            rows = rows_of(out / f'{row["name"]}-{seed}' / 'rank' / 'predictions.csv')
            scores, accuracies = [float(r['score']) for r in rows], [truth[r['arch']] for r in rows]
            taus.append(stats.kendalltau(scores, accuracies).statistic)
            top = [a for a, s in zip(accuracies, scores, strict=True) if s == max(scores)]
            chosen.append(np.mean(top))
            assert truth[row['chosen'][seed]] in top
        assert row['seed_taus'] == pytest.approx(taus)
        assert row['tau'] == pytest.approx(np.mean(taus))
        assert row['interval'][0] <= row['tau'] <= row['interval'][1]
        assert row['chosen_true'] == pytest.approx(np.mean(chosen))
        assert row['regret'] == pytest.approx(max(ACCURACIES) - np.mean(chosen))
        assert (row['n'], row['seeds'], row['asked']) == (14, [0, 1], 2)
        means.append(np.mean(taus))
    spos, params = table['rows']
    assert spos['seed_taus'][0] != spos['seed_taus'][1], 'both seeds gave the same'
    assert spos['difference'] is None
    assert params['difference'] == pytest.approx(means[1] - means[0])
    low, high = params['difference_interval']
    assert params['verdict'] == ('better' if low > 0 else 'worse' if high < 0 else 'undecided at n = 14')
    assert table['trivial']['params'] == pytest.approx(params['tau'])
    # Four steps of 32 images, one forward and one backward pass each; the cost of a cell needs no images.
    assert (spos['images'], spos['forward'], spos['backward']) == (128, 128, 128)
    assert (params['images'], params['forward'], params['paper']) == (0, None, 0.5)


def test_the_table_is_for_people_and_for_programs(whole):
    out = whole / 'out'
    table = json.loads((out / 'study.json').read_text())
    text = (out / 'study.md').read_text()
    line = next(line for line in text.splitlines() if line.startswith('| `params`'))
    params = table['rows'][1]
    for part in (f'{params["tau"]:+.3f}', f'{params["difference"]:+.3f}', params['verdict'], '0.50 ± 0.14'):
        assert part in line
    assert '| `spos` | 2 | 14 |' in text
    assert '128 forward, 128 backward' in text
    assert 'reported by the authors, not measured here (Table 0)' in text
    assert '*number of nor_conv_3x3*' in text
    with (out / 'study.csv').open() as file:
        rows = {(row['run'], row['kind']): row for row in csv.DictReader(file)}
    assert float(rows['params', 'run']['tau']) == params['tau']
    assert float(rows['params', 'trivial']['tau']) == table['trivial']['params']
    assert {name for name, kind in rows if kind == 'trivial'} == set(table['trivial'])
    assert (out / 'study.png').stat().st_size > 5000
    assert 'reported by the authors' in (out / 'study.svg').read_text()


COMMAND = [sys.executable, '-m', 'pinas_search', 'study', 'mine.yaml', '--out', 'out']


def test_a_killed_study_goes_on_and_a_failing_run_stops_no_other(whole, tmp_path):
    broken = '  broken: {seeds: [7], settings: {learn.lr: 1.0e+30}}\n'
    folder = prepare(tmp_path, STUDY + broken)
    command = [*COMMAND, '--workers', '2']
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob('out/*/rank/done.json')) and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / 'out' / 'study.json').exists()
    finished = {f.parts[-3] for f in folder.glob('out/*/rank/done.json')}
    before = {name: when for name, when in files_of(folder / 'out').items() if name.split('/')[0] in finished}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert before.items() <= files_of(folder / 'out').items()
    failed = [line for line in result.stderr.splitlines() if 'failed' in line]
    assert len(failed) == 1
    assert failed[0].startswith('study: broken-7 failed: learn (spos): the loss is not finite at step')
    assert 'Traceback' not in result.stderr
    tables = [json.loads((f / 'out' / 'study.json').read_text()) for f in (whole, folder)]
    assert (list(tables[1]['failed']), tables[1]['missing']) == (['broken-7'], ['broken'])
    for table in tables:
        for row in table['rows']:
            del row['seconds']
    assert tables[0]['rows'] == tables[1]['rows']
    assert tables[0]['trivial'] == tables[1]['trivial']


def test_a_study_is_filled_in_and_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    text = STUDY.replace("'cost:params'", "'cost:params', learn.lr: 0.1")
    text = text.replace('  search: {strategy', "  search: {scorer: 'cost:macs', strategy")  # no supernet: quick
    monkeypatch.chdir(prepare(tmp_path, text))
    assert main(['study', 'mine.yaml', '--out', 'out']) == 0
    before = files_of(Path('out'))
    text = text.replace('seeds: [0, 1]', 'seeds: [0, 1, 2]').replace('learn.lr: 0.1', 'learn.lr: 0.2')
    Path('mine.yaml').write_text(text)
    assert main(['study', 'mine.yaml', '--out', 'out']) == 2
    errors = capsys.readouterr().err
    assert 'params-0 failed: out/params-0 was made by another configuration (learn.lr: 0.1 there, 0.2 here)' in errors
    after = files_of(Path('out'))
    assert before.items() <= after.items()
    assert {name.split('/')[0] for name in after} - {name.split('/')[0] for name in before} == {'spos-2', 'params-2'}
    rows = json.loads(Path('out/study.json').read_text())['rows']
    assert [row['seeds'] for row in rows] == [[0, 1, 2], [2]]
    assert '| `params` | 1 of 3 |' in Path('out/study.md').read_text()


def test_networks_are_trained_once_for_all_runs(tmp_path, monkeypatch):
    text = BASE.replace('  truth.file: table.csv', '  truth: {networks: 3, trainings: 2}')
    text = text.replace('retrain: {top: 0', 'retrain: {epochs: 1, batch_size: 128, top: 0')
    text = text.replace('  search: {strategy', "  search: {scorer: 'cost:macs', strategy")
    monkeypatch.chdir(
        prepare(tmp_path, f'{text}runs: {{spos: , params: {{settings: {{search.scorer: "cost:params"}}}}}}')
    )
    assert main(['study', 'mine.yaml', '--out', 'out']) == 0
    truth = {row['arch']: row for row in rows_of(Path('out/truth/truth/table.csv'))}
    table = json.loads(Path('out/study.json').read_text())
    repeats = [[float(row[f'accuracy_seed_{seed}']) for row in truth.values()] for seed in (0, 1)]
    expected = stats.kendalltau(*repeats).statistic
    assert table['ceiling'] == pytest.approx(0.0 if np.isnan(expected) else expected)
    for name in ('spos-0', 'spos-1', 'params-0', 'params-1'):
        assert {row['arch'] for row in rows_of(Path('out') / name / 'rank' / 'predictions.csv')} == set(truth)
        assert not (Path('out') / name / 'truth').exists()


RUNS = 'runs: {spos: , params: {settings: {search.scorer: "cost:params"}}}\n'


@pytest.mark.parametrize(
    ('text', 'arguments', 'message'),
    [
        (BASE, [], 'mine.yaml has no runs'),
        (BASE + RUNS + 'seed: 3\n', [], 'unknown key study.seed, did you mean seeds?'),
        (BASE + 'runs: {spos: {setings: {}}}', [], 'run spos: unknown key run.setings, did you mean settings?'),
        (BASE + 'runs: {spos: {settings: {learn.epoch: 3}}}', [], 'unknown key learn.epoch in mine.yaml, run spos'),
        (
            BASE + 'runs: {spos: {settings: {learn: {epochs: 0}}}}',
            [],
            'run spos: wrong value: learn.epochs is 0; it must be above 0',
        ),
        (BASE + 'runs: {spos: {passes: {forward: 1}}}', [], 'run spos: '),
        (BASE + 'runs: {spos: {settings: {seed: 3}}}', [], 'run spos: seed is no setting of a run'),
        (BASE + 'runs: {spos: {seeds: [1, 1]}}', [], 'run spos: seeds are [1, 1]'),
        (BASE + 'runs: {a/b: }', [], 'run a/b: a name has letters'),
        (BASE.replace('baseline: spos', 'baseline: sposs') + RUNS, [], 'the baseline is sposs, did you mean spos?'),
        (BASE + 'runs: {spos: , again: }', [], 'the runs spos and again have the same settings'),
        (BASE + 'runs: {spos: , b: {settings: {truth.only: "729"}}}', [], 'b differs from spos in truth.only'),
        (
            BASE.replace('[learn, linear, rank]', '[learn, ranks]') + RUNS,
            [],
            'there is no stage ranks, did you mean rank?',
        ),
        (BASE.replace('config: digits', 'config: digit') + RUNS, [], 'digit: no such file'),
        (BASE + RUNS, ['truth.file=null'], 'there is no truth to compare with'),
        (BASE + RUNS, ['truth.networks=5'], 'truth.networks draws other networks of table.csv for each seed'),
        (BASE + RUNS, ['seed=1'], 'the seeds stand in the study'),
        (BASE + RUNS, ['learn.epoch=1'], 'unknown key learn.epoch in the command line'),
        (BASE + RUNS, ['--workers', '0'], '--workers is 0'),
        (BASE + RUNS, ['truth.file=nowhere.csv'], 'nowhere.csv is missing'),
    ],
)
def test_a_wrong_study_is_one_line_before_any_work(text, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(prepare(tmp_path, text))
    assert main(['study', 'mine.yaml', '--out', 'out', *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert not list(tmp_path.glob('out/*-*'))


def test_a_dry_run_prints_runs_and_differences(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(prepare(tmp_path))
    assert main(['study', 'mine.yaml', '--dry-run', 'learn.epochs=3']) == 0
    text = capsys.readouterr().out
    assert 'mine: 4 runs in runs/mine' in text
    assert 'spos  seeds 0, 1, 1 forward and 1 backward passes  (the baseline)' in text
    assert '  search.scorer: cost:params  (spos: accuracy)' in text
    assert 'epochs' not in text, 'all runs have it'
    assert not Path('runs').exists()


def test_the_packaged_studies_are_what_they_say(tmp_path):
    assert set(builtin_studies()) == {'figure3', 'figure4', 'table7'}
    figure3 = {run.name: run for run in read_study('figure3', ['truth.file=table.csv']).runs}
    assert set(figure3) == {'pinas', 'spos', 'fairnas', 'proxylessnas'}
    # A backward pass counted as two forward ones: each image is passed as often by every method.
    for name, run in figure3.items():
        config, passes = run.config, run.passes
        linear = config.linear.epochs if name == 'pinas' else 0
        share = 0.8 if name == 'proxylessnas' else 1.0
        total = share * config.learn.epochs * (passes.forward + 2 * passes.backward) + linear
        assert total == pytest.approx(72, rel=0.02), name
    # The packaged configuration of Π-NAS is the run of the study, but for its curves.
    ours = parse_config(['nasbench201'], ['truth.file=table.csv'])
    assert set(differences(figure3['pinas'].config, ours)) == {'learn.snapshots', 'rank.calibration'}
    table7 = read_study('table7')
    changed = {run.name: differences(run.config, table7.baseline.config) for run in table7.runs}
    assert set(changed.pop('spos')) >= {'learn.method', 'learn.epochs'}
    assert {name: list(keys) for name, keys in changed.items()} == {
        'pinas': [],
        'no-cross-path': ['learn.options.cross_path'],
        'no-mean-teacher': ['learn.options.mean_teacher'],
        'no-downsample-sharing': ['learn.supernet_options.downsample_share'],
        'no-negatives': ['learn.options.negatives'],
    }
    assert 'is trained once in' in describe(table7, tmp_path)
    figure4 = read_study('figure4', ['truth.file=table.csv'])
    assert all(
        key.startswith('learn.views.') for r in figure4.runs for key in differences(r.config, figure4.runs[0].config)
    )
