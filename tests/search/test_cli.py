"""The command line as a user meets it: real processes, wrong inputs, kills, resumed runs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import pinas_models  # noqa: F401 - registers the models

COMMAND = [sys.executable, '-m', 'pinas_search.cli']
SMALL = [
    'threads=1',
    'learn.epochs=2',
    'learn.checkpoint_seconds=0.01',
    'linear.epochs=1',
    'linear.checkpoint_seconds=0.01',
    'search.candidates=5',
    'search.evaluate.batches=2',
    'retrain.epochs=2',
    'retrain.random_paths=1',
    'retrain.ema_decay=0.9',
    'retrain.mixup=0.2',
    'retrain.drop_path_rate=0.1',
    'retrain.checkpoint_seconds=0.01',
]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def figures(run: Path) -> dict[str, list[dict[str, object]]]:
    """Everything measured, without times."""
    lines = {}
    for path in sorted(run.rglob('*.jsonl')):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines[str(path.relative_to(run))] = [{k: v for k, v in r.items() if k != 'seconds'} for r in records]
    return lines


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    result = command('run', '--config', 'digits', '--out', 'run', *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / 'run'


def test_run_leaves_a_timm_model_a_journal_and_a_report(uninterrupted: Path) -> None:
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


def test_killed_again_and_again_it_ends_with_the_same_numbers(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / 'run'
    watched = ('learn/checkpoint.pt', 'linear/metrics.jsonl', 'search/journal.log', 'retrain/winner/checkpoint.pt')
    for name in watched:
        process = subprocess.Popen(
            [*COMMAND, 'run', '--config', 'digits', '--out', 'run', *SMALL],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while not (run / name).exists() and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)  # the kill comes as soon as the stage has begun to write
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f'the run ended before {name} was seen'
    result = command('run', '--config', 'digits', '--out', 'run', *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert figures(run) == figures(uninterrupted)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['learn.epoch=2'], 'did you mean learn.epochs?'),
        (['learn.epochs=two'], 'learn.epochs'),
        (['learn.batch_size=0'], 'learn.batch_size is 0; it must be above 0'),
        (['learn.method=pina'], 'did you mean pinas?'),
        (['learn.options.queue=3'], 'unknown key learn.options.queue'),
        (['learn.options.queue_size=1000'], 'not a multiple of the batch size 64: set it to 960'),
        (['learn.batch_size=5000'], 'fewer than a batch of 5000'),
        (['data.source=folder', 'data.root=nowhere'], 'nowhere'),
        (['--config', 'digit'], 'did you mean digits?'),
    ],
)
def test_a_wrong_input_gets_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    config = [] if '--config' in arguments else ['--config', 'digits']
    result = command('learn', *config, *arguments, '--out', 'run', cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_directory_of_another_configuration_is_refused_with_the_difference(uninterrupted: Path) -> None:
    before = figures(uninterrupted)
    arguments = ['run', '--config', 'digits', '--out', 'run', *SMALL, '--seed', '7']
    result = command(*arguments, cwd=uninterrupted.parent)
    assert result.returncode == 2
    assert 'seed: 0 there, 7 here' in result.stderr
    assert figures(uninterrupted) == before


def test_a_stage_names_the_stage_that_it_needs(tmp_path: Path) -> None:
    result = command('search', '--config', 'digits', '--out', 'run', cwd=tmp_path)
    assert result.returncode == 2
    assert 'run the stage learn first' in result.stderr


@pytest.mark.parametrize('name', ['digits', 'cifar10', 'cifar10-spos', 'imagenet1k'])
def test_shown_configuration_reads_back(name: str, tmp_path: Path) -> None:
    shown = command('run', '--config', name, 'learn.lr=0.125', '--show', cwd=tmp_path)
    assert 'lr: 0.125' in shown.stdout
    (tmp_path / 'copy.yaml').write_text(shown.stdout)
    assert command('run', '--config', 'copy.yaml', '--show', cwd=tmp_path).stdout == shown.stdout
