"""Parts of other kinds, each in one file of the working directory: through all stages, killed and resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pinas_search.cli import main

COMMAND = ['run', '--config', 'digits', '--out', 'run', 'threads=1']
SMALL = [
    'space=two_branches',
    'learn.epochs=2',
    'learn.checkpoint_seconds=0.01',
    'linear.epochs=1',
    'search.candidates=6',
    'search.strategy=random',
    'search.options={}',
    'search.evaluate.batches=1',
    'retrain.epochs=1',
    'retrain.random_paths=1',
    'retrain.checkpoint_seconds=0.01',
]
TOYS = {
    'a space of two branches': ['learn.options.queue_size=64'],
    'several losses and one update': ['learn.method=all_choices', 'learn.options={}'],
    'architecture parameters': ['learn.method=logits', 'learn.options={lr: 0.2}', 'search.scorer=method'],
    'a predictor without a supernet': [
        'search.scorer=guess',
        'search.scorer_options.favourite=1',
        'retrain.top=2',
        'retrain.random_paths=3',
        'retrain.seeds=2',
    ],
}
# A method may lose what it learns, a space what it builds, a predictor what it has been told.
KILLED_AT = {
    'a space of two branches': 'retrain/random-0/checkpoint.pt',
    'several losses and one update': 'learn/checkpoint.pt',
    'architecture parameters': 'learn/checkpoint.pt',
    'a predictor without a supernet': 'retrain/top-2/checkpoint.pt',
}


def figures(run):
    """Everything measured, without times."""
    found = {}
    for file in sorted(run.rglob('*.jsonl')):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        found[str(file.relative_to(run))] = [{k: v for k, v in r.items() if k != 'seconds'} for r in records]
    found |= {str(file.relative_to(run)): json.loads(file.read_text()) for file in run.rglob('result.json')}
    return found


@pytest.mark.parametrize('toy', TOYS)
def test_a_toy_goes_through_all_stages_and_survives_kills(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])  # the command adds its working directory
    command = [*COMMAND, *SMALL, *TOYS[toy]]
    whole, killed = tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run'
    for run in (whole, killed):
        shutil.copytree(Path(__file__).parent / 'toys', run.parent)
    process = subprocess.Popen(
        [sys.executable, '-m', 'pinas_search', *command], cwd=killed.parent, stderr=subprocess.PIPE, text=True
    )
    while not (killed / KILLED_AT[toy]).exists() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    for run in (whole, killed):
        monkeypatch.chdir(run.parent)
        assert main(command) == 0
    assert figures(killed) == figures(whole)

    winner = json.loads((whole / 'search' / 'result.json').read_text())
    study = optuna.load_study(
        study_name='search', storage=JournalStorage(JournalFileBackend(str(whole / 'search' / 'journal.log')))
    )
    assert ''.join(str(study.best_trial.params[f'p{i:02d}']) for i in range(3)) == winner['path']
    assert study.best_trial.duration.total_seconds() >= 0
    trained = {folder.parent.name for folder in whole.glob('retrain/*/result.json')}
    page = (whole / 'report' / 'index.html').read_text()
    assert winner['path'] in page
    if 'retrain.seeds=2' in TOYS[toy]:
        names = ('winner', 'top-2', *(f'random-{i}' for i in range(3)))
        assert trained == {f'{name}{seed}' for name in names for seed in ('', '-seed-1')}
        assert 'Kendall' in page
    else:
        assert trained == {'winner', 'random-0'}
    model = json.loads((whole / 'retrain' / 'winner' / 'model' / 'config.json').read_text())
    assert (model['space'], model['path']) == ('two_branches', winner['path'])
    learned = {path.stem for path in (whole / 'learn').glob('*.safetensors')}
    expected = {
        'a space of two branches': {'supernet'},
        'several losses and one update': {'supernet', 'classifier'},
        'architecture parameters': {'supernet', 'classifier', 'architecture'},
        'a predictor without a supernet': set(),
    }
    assert learned == expected[toy]
