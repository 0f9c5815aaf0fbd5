"""The command line as a user meets it: real processes, wrong inputs, kills, resumed runs."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from in_process import run_command
from tables import all_paths

import pinas_models  # noqa: F401 - registers the models
from pinas_search.cli import main
from pinas_search.config import parse_config
from pinas_search.spaces import mini

COMMAND = [sys.executable, '-m', 'pinas_search.cli']
SMALL = [
    'threads=1',
    'data.image_size=16',
    'data.held_out_per_class=100',  # which leaves 442 images for learning
    'learn.epochs=2',
    'learn.checkpoint_seconds=0.2',
    'linear.epochs=2',
    'linear.milestones=[1]',
    'linear.batch_size=32',
    'linear.checkpoint_seconds=0.01',
    'search.candidates=5',
    'search.evaluate.batches=2',
    'search.evaluate.max_images=200',
    'retrain.epochs=1',
    'retrain.batch_size=128',
    'retrain.random_paths=1',
    'retrain.ema_decay=0.9',
    'retrain.mixup=0.2',
    'retrain.drop_path_rate=0.1',
    'retrain.checkpoint_seconds=0.01',
]


def command(*arguments, cwd):
    return run_command(main, *arguments, cwd=cwd)


def start(*arguments, cwd):
    whole = [*COMMAND, 'run', '--config', 'digits', '--out', 'run', *arguments]
    return subprocess.Popen(whole, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(file, process):
    """Return as soon as a file is there, or the process has ended."""
    while not file.exists() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


def assert_mistake(result, message):
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1, result.stderr


def figures(run):
    """Everything measured, without times."""
    lines = {}
    for path in sorted(run.rglob('*.jsonl')):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines[str(path.relative_to(run))] = [{k: v for k, v in r.items() if k != 'seconds'} for r in records]
    return lines


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    process = start(*SMALL, cwd=folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder / 'run'


def test_run_leaves_a_timm_model_a_journal_and_a_report(uninterrupted):
    model_dir = uninterrupted / 'retrain' / 'winner' / 'model'
    model = timm.create_model(f'local-dir:{model_dir}', pretrained=True).eval()
    result = json.loads((uninterrupted / 'retrain' / 'winner' / 'result.json').read_text())
    assert ''.join(map(str, model.choices)) == result['path']
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for p in model.parameters()) == result['params']
    assert result['path'] in (model_dir / 'README.md').read_text()
    assert len((uninterrupted / 'search' / 'candidates.jsonl').read_text().splitlines()) == 5
    assert (uninterrupted / 'search' / 'journal.log').stat().st_size > 0
    assert result['path'] in (uninterrupted / 'report' / 'index.html').read_text()


def test_killed_again_and_again_it_ends_with_the_same_numbers(uninterrupted, tmp_path):
    run = tmp_path / 'run'
    watched = ('learn/checkpoint.pt', 'linear/metrics.jsonl', 'search/journal.log', 'retrain/winner/checkpoint.pt')
    for name in watched:
        process = start(*SMALL, cwd=tmp_path)
        wait_for(run / name, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f'the run ended before {name} was seen'
    result = command('run', '--config', 'digits', '--out', 'run', *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert figures(run) == figures(uninterrupted)


def test_interrupted_it_saves_first_and_ends_with_the_same_numbers(uninterrupted, tmp_path):
    run = tmp_path / 'run'
    for stage, number, code in [('learn', signal.SIGTERM, 143), ('linear', signal.SIGINT, 130)]:
        never = [f'{name}.checkpoint_seconds=1000' for name in ('learn', 'linear')]  # only the signal can save
        process = start(*SMALL, *never, cwd=tmp_path)
        wait_for(run / stage / 'metrics.jsonl', process)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == code, errors
        assert errors.strip().splitlines()[-1] == 'pinas-search: interrupted; the same command goes on from here'
        saved = torch.load(run / stage / 'checkpoint.pt', weights_only=True)['step']
        assert saved == json.loads((run / stage / 'metrics.jsonl').read_text().splitlines()[-1])['step'] > 0
    result = command('run', '--config', 'digits', '--out', 'run', *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert figures(run) == figures(uninterrupted)


def test_a_second_process_on_the_same_directory_gets_one_line(tmp_path):
    run = tmp_path / 'run'
    first = start(*SMALL, 'learn.epochs=1000', cwd=tmp_path)
    wait_for(run / 'learn' / 'metrics.jsonl', first)
    before = (run / 'config.yaml').read_bytes()
    second = command('run', '--config', 'digits', '--out', 'run', '--seed', '7', cwd=tmp_path)
    assert_mistake(second, 'run is in use by another process')
    assert (run / 'config.yaml').read_bytes() == before
    assert first.poll() is None
    first.kill()
    first.communicate()


def test_a_finished_search_goes_on_when_more_candidates_are_asked_for(uninterrupted, tmp_path):
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    before = figures(run)['search/candidates.jsonl']
    arguments = ['search', '--config', 'digits', '--out', 'run', *SMALL]
    assert 'search: finished before' in command(*arguments, cwd=tmp_path).stderr
    result = command(*arguments, 'search.candidates=8', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after = figures(run)['search/candidates.jsonl']
    assert len(after) == 8
    assert after[:5] == before
    assert_mistake(command(*arguments, cwd=tmp_path), 'search.candidates: 8 there, 5 here')


def test_a_search_whose_limits_leave_few_networks_ends_well(uninterrupted, tmp_path):
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    for stage in ('search', 'retrain', 'report'):
        shutil.rmtree(run / stage)
    costs = mini().costs(all_paths(mini()))
    limit = int(np.sort(costs['params'])[2])
    count = int((costs['params'] <= limit).sum())
    assert count < 5
    arguments = ['search', '--config', 'digits', '--out', 'run', *SMALL, f'search.limits.params={limit}']
    for message in (f'search: ends with {count} candidates', 'search: finished before'):
        result = command(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert message in result.stderr
    scored = figures(run)['search/candidates.jsonl']
    assert len({c['path'] for c in scored}) == len(scored) == count
    assert max(c['params'] for c in scored) == limit


MISTAKES = [
    (['learn.epoch=2'], 'did you mean learn.epochs?'),
    (['learn.epochs=two'], 'learn.epochs'),
    (['learn.batch_size=0'], 'learn.batch_size is 0; it must be above 0'),
    (['learn.method=pina'], 'did you mean pinas?'),
    (['learn.options.queue=3'], 'unknown key learn.options.queue'),
    (['learn.options.queue_size=1000'], 'not a multiple of the batch size 64: set it to 960'),
    (['learn.batch_size=5000'], 'learn.batch_size is 5000, but there are 1142 training images'),
    (['retrain.batch_size=5000'], 'retrain.batch_size is 5000, but there are 1442 training images'),
    (['space=minni'], 'did you mean mini?'),
    (['search.strategy=optuna:TPESample'], 'did you mean TPESampler?'),
    (['search.scorer=cost:flops'], "mini has no cost 'flops', it has params, macs"),
    (['search.limits.params=5'], 'search.limits.params is 5.0, but the cheapest network of mini has'),
    (['data.source=folder', 'data.root=nowhere'], 'nowhere'),
    (['--config', 'digit'], 'did you mean digits?'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES, ids=[' '.join(arguments) for arguments, _ in MISTAKES])
def test_check_says_a_mistake_in_one_line(arguments, message, tmp_path):
    config = [] if '--config' in arguments else ['--config', 'digits']
    assert_mistake(command('check', *config, *arguments, '--out', 'run', cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


LONG = '[x, x, x, x, x, x, x, x, x, x]'
BOMB = f'search:\n  options:\n    a0: &a0 {LONG}\n' + ''.join(
    f'    a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 12)
)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('learn: null', 'learn is null in odd.yaml'),
        ('linear: {views: null}', 'linear.views is null'),
        ('space: null', 'space is null'),
        ('search: {options: null}', 'search.options is null'),
        ('learn: [1, 2]', "learn is '[1, 2]' in odd.yaml: it holds settings, such as learn.method"),
        ('learn: {lr: 1e308}', 'learn.lr is 1e+308; it must be above 0 and at most 3e+38'),
        ('learn: {weight_decay: .inf}', 'learn.weight_decay is inf; it must be 0 or more'),
        ('learn: {epochs: 100000000000000000000}', 'learn.epochs is 100000000000000000000; it must be'),
        ('learn: {momentum: 2}', 'learn.momentum is 2; it must lie in 0..1'),
        ('learn: {options: {momentum: 2}}', 'learn.options.momentum is 2; it must lie in 0..1'),
        ('learn: {options: {temperature: 0}}', 'learn.options.temperature is 0; it must be above 0'),
        ('linear: {views: {scale: [0.9, 0.1]}}', 'linear.views.scale is [0.9, 0.1]: the smallest comes first'),
        ('data: {held_out_per_class: 0}', 'there are no held-out images to score candidates on'),
        ('search: {scorer: "method:guess"}', "the method pinas has no score 'guess' of its own"),
        ('retrain: {optimizer: sgdx}', "retrain.optimizer is 'sgdx', which timm does not know"),
        ('retrain: {schedule: cosin}', "retrain.schedule is 'cosin', which timm does not know"),
        ('&a\nlearn: *a', 'stands for more than 100,000 values: an alias contains itself'),
        (BOMB, 'stands for more than 100,000 values'),
        ('[' * 3000, 'odd.yaml is not valid YAML'),
    ],
)
def test_configurations_from_elsewhere(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('odd.yaml').write_text(text)
    code = main(['check', '--config', 'digits', '--config', 'odd.yaml', '--out', 'run'])
    assert_mistake(subprocess.CompletedProcess([], code, *capsys.readouterr()), message)
    assert list(tmp_path.iterdir()) == [tmp_path / 'odd.yaml']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (['linear.milestones=[5]', 'linear.epochs=5'], 'linear.milestones [5] lie beyond the 5 epochs'),
        (['retrain.warmup_epochs=9', 'retrain.epochs=9'], 'the learning rate never arrives at retrain.lr'),
        (['search.candidates=20'], 'lanas draws its first 24 candidates at random, so all of them'),
    ],
)
def test_check_warns_of_silent_traps(settings, message, capsys):
    assert main(['check', '--config', 'digits', *settings]) == 0
    assert message in capsys.readouterr().err


NO_CHECKPOINT = io.BytesIO()
torch.save({'step': 3}, NO_CHECKPOINT)


@pytest.mark.parametrize(
    ('name', 'content', 'stage', 'message'),
    [
        ('config.yaml', b'', 'report', 'config.yaml is damaged, it lacks space, '),
        ('config.yaml', b'space: mini\nseed: 0\n', 'search', 'config.yaml is damaged, it lacks space_options, '),
        ('config.yaml', b'\xff', 'report', 'config.yaml is not valid YAML'),
        ('classes.json', b'{}', 'report', 'classes.json names no classes: delete it'),
        ('linear/checkpoint.pt', b'junk', 'linear', 'linear/checkpoint.pt is damaged: delete it'),
        ('linear/checkpoint.pt', NO_CHECKPOINT.getvalue(), 'linear', 'linear/checkpoint.pt does not fit this training'),
        ('learn/supernet.safetensors', b'junk', 'linear', 'learn/supernet.safetensors cannot be loaded'),
        ('linear/done.json', b'[]', 'linear', 'linear/done.json must hold a JSON object, not a list: delete it'),
        ('search/done.json', b'{"stage"', 'search', 'search/done.json is damaged'),
        ('search/result.json', b'\xff', 'report', 'search/result.json is damaged'),
        ('search/result.json', b'{}', 'report', 'search/result.json lacks a value'),
        ('search/journal.log', b'3\n', 'retrain', 'search/journal.log is damaged'),
        ('search/journal.log', b'{}\n', 'retrain', 'search/journal.log is damaged'),
        ('search/journal.log', b'', 'retrain', 'search/journal.log holds no candidates: delete it'),
        ('search/candidates.jsonl', b'3\n{}\n', 'report', 'search/candidates.jsonl, line 1 is damaged'),
        ('learn/metrics.jsonl', b'junk\n{}\n', 'report', 'learn/metrics.jsonl, line 1 is damaged'),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(
    uninterrupted,
    tmp_path,
    monkeypatch,
    capsys,
    name,
    content,
    stage,
    message,
):
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    monkeypatch.chdir(tmp_path)
    if name != 'linear/done.json' and stage in ('linear', 'retrain'):
        (run / stage / 'done.json').unlink()
    (run / name).write_bytes(content)
    settings = [] if stage == 'report' else ['--config', 'digits', *SMALL]
    code = main([stage, '--out', 'run', *settings])
    result = subprocess.CompletedProcess([], code, *capsys.readouterr())
    assert_mistake(result, message)
    assert f'run/{name}' in result.stderr


def test_what_was_deleted_is_made_again(uninterrupted, tmp_path):
    """The remedy that the messages name."""
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    for name in ('linear/classifier.safetensors', 'search/result.json', 'retrain/winner/result.json'):
        (run / name).unlink()
    result = command('run', '--config', 'digits', '--out', 'run', *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'learn: finished before' in result.stderr
    assert figures(run) == figures(uninterrupted)
    for name in ('search/result.json', 'retrain/winner/result.json', 'linear/classifier.safetensors'):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_on_a_full_disk_it_stops_with_one_line_and_goes_on_when_there_is_room(uninterrupted, tmp_path):
    """The limit on the size of files stands for the disk: the system refuses to write on, half-way."""
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    shutil.rmtree(run / 'linear')
    limited = 'import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000)); '
    program = limited + 'from pinas_search.cli import main; sys.exit(main(sys.argv[1:]))'
    arguments = ['linear', '--config', 'digits', '--out', 'run', *SMALL]
    full = subprocess.run(
        [sys.executable, '-c', program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert full.returncode == 2, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.endswith("File too large: 'run/linear/checkpoint.pt'; make room, then the same command goes on")
    assert 'Traceback' not in full.stderr
    assert command(*arguments, cwd=tmp_path).returncode == 0
    assert figures(run) == figures(uninterrupted)


def test_the_page_needs_no_images(uninterrupted, tmp_path):
    run = Path(shutil.copytree(uninterrupted, tmp_path / 'run'))
    settings = (run / 'config.yaml').read_text()
    (run / 'config.yaml').write_text(settings.replace('source: digits', f'source: folder\n  root: {tmp_path}/gone'))
    shutil.rmtree(run / 'report')
    result = command('report', '--out', 'run', cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, '')
    assert (run / 'report' / 'index.html').exists()


def test_stages_look_at_the_same_before_they_write(tmp_path):
    good = command('check', '--config', 'digits', '--out', 'run', cwd=tmp_path)
    assert (good.returncode, good.stdout) == (0, 'nothing to object: mini with 65,536 networks, 10 classes\n')
    assert_mistake(
        command('learn', '--config', 'digits', *MISTAKES[6][0], '--out', 'run', cwd=tmp_path), MISTAKES[6][1]
    )
    assert list(tmp_path.iterdir()) == []
    missing = command('search', '--config', 'digits', '--out', 'run', cwd=tmp_path)
    assert_mistake(missing, 'run the stage learn first')


def test_a_directory_of_another_configuration_is_refused_with_the_difference(uninterrupted):
    before = figures(uninterrupted)
    arguments = ['run', '--config', 'digits', '--out', 'run', *SMALL, '--seed', '7']
    assert_mistake(command(*arguments, cwd=uninterrupted.parent), 'seed: 0 there, 7 here')
    assert figures(uninterrupted) == before


@pytest.mark.parametrize('name', ['digits', 'cifar10', 'cifar10-spos', 'imagenet1k'])
def test_shown_configuration_reads_back(name, tmp_path):
    shown = command('run', '--config', name, 'learn.lr=0.125', '--show', cwd=tmp_path)
    assert 'lr: 0.125' in shown.stdout
    (tmp_path / 'copy.yaml').write_text(shown.stdout)
    assert command('run', '--config', 'copy.yaml', '--show', cwd=tmp_path).stdout == shown.stdout


def test_settings_are_plain_numbers_whose_checkpoints_can_be_read():
    """The types that check bounds must not reach an optimizer: torch refuses them in a checkpoint."""
    config = parse_config(['digits'], ['learn.momentum=0.5', 'retrain.lr=0.25', 'search.limits.params=3e6'])
    settings = [config.learn.momentum, config.retrain.lr, config.search.limits['params'], *config.data.std]
    assert {type(value) for value in settings} == {float}
    assert {type(value) for value in (config.seed, config.learn.batch_size, *config.linear.milestones)} == {int}
