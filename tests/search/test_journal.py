"""The study of a search: what stock Optuna reads from it, and what it survives."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pinas_search.records import Trials
from pinas_search.scoring import Score
from pinas_search.spaces import mini

FIRST = datetime(2026, 1, 2, 3, 4, 5)
SPACE = mini()
WRITE = """
import datetime
from pathlib import Path
from pinas_search.records import Trials
from pinas_search.scoring import Score
from pinas_search.spaces import mini
trials = Trials(Path('run/search/journal.log'), mini())
trials.add((0, 1, 2, 3, 0, 1, 2, 3), Score(0.5), *[datetime.datetime.now()] * 2)
"""
DIE = """
import os, signal
trials.study._storage._backend._lock.acquire()  # the moment in which a line is being written
os.kill(os.getpid(), signal.SIGKILL)
"""


def paths(count):
    return [SPACE.decode(f'{i:08o}'.replace('4', '0')) for i in range(count)]


def fill(file, accuracies, losses):
    """One candidate a minute, each of which takes 20 seconds."""
    trials = Trials(file, SPACE)
    for i, (path, accuracy, loss) in enumerate(zip(paths(len(losses)), accuracies, losses, strict=True)):
        start = FIRST + timedelta(minutes=i)
        score = Score(accuracy - 1e-8 * loss, {'accuracy': accuracy, 'cross_entropy': loss}, '3:bits')
        trials.add(path, score, start, start + timedelta(seconds=20), {'trial': {'generation': i}})
    return trials


def load_study(file):
    """As anyone would, without this package."""
    return optuna.load_study(study_name='search', storage=JournalStorage(JournalFileBackend(str(file))))


def run(code, cwd):
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_stock_optuna_names_the_winner_also_when_accuracies_tie(tmp_path):
    trials = fill(tmp_path / 'journal.log', [0.5, 0.9, 0.9, 0.9], [0.1, 0.7, 0.3, 0.4])
    winner = min(trials.candidates(), key=lambda candidate: candidate.order)
    best = load_study(tmp_path / 'journal.log').best_trial
    assert tuple(best.params[f'p{i:02d}'] for i in range(8)) == SPACE.decode(winner.path) == paths(4)[2]
    assert (best.user_attrs['accuracy'], winner.score, winner.cross_entropy) == (0.9, 0.9, 0.3)
    assert (best.user_attrs['params'], best.user_attrs['macs']) == (winner.params, winner.macs)
    assert (winner.params, winner.macs) == tuple(vars(SPACE.cost(paths(4)[2])).values())


def test_trials_carry_their_real_times(tmp_path):
    candidates = fill(tmp_path / 'journal.log', [0.5, 0.6], [1.0, 1.0]).candidates()
    for i, trial in enumerate(load_study(tmp_path / 'journal.log').trials):
        assert trial.datetime_start == FIRST + timedelta(minutes=i)
        assert trial.duration == timedelta(seconds=20)
        assert candidates[i].seconds == 20


def test_history_and_export_hold_what_was_written(tmp_path):
    trials = fill(tmp_path / 'journal.log', [0.5, 0.25], [1.0, 2.0])
    trials.fail(paths(3)[2], 'it broke', FIRST, FIRST)
    history = Trials(tmp_path / 'journal.log', SPACE).history()
    assert [seen.path for seen in history] == paths(3)
    assert [seen.value for seen in history] == [0.5 - 1e-8, 0.25 - 2e-8, -math.inf]
    assert [seen.notes for seen in history] == [{'trial': {'generation': 0}}, {'trial': {'generation': 1}}, {}]
    trials.export(tmp_path / 'candidates.jsonl')
    lines = [json.loads(line) for line in (tmp_path / 'candidates.jsonl').read_text().splitlines()]
    assert [(c['number'], c['path'], c['score'], c['correct']) for c in lines] == [
        (0, '00000000', 0.5, '3:bits'),
        (1, '00000001', 0.25, '3:bits'),
    ]


def test_foreign_trials_are_ignored_with_a_warning(tmp_path):
    fill(tmp_path / 'journal.log', [0.5], [1.0])
    study = load_study(tmp_path / 'journal.log')
    ours = study.trials[0]
    study.enqueue_trial({'p00': 1})  # waits
    study.add_trial(optuna.create_trial(value=2.0))  # no path at all
    # A whole path, but not of a search; and one with a choice that the space does not have.
    study.add_trial(optuna.create_trial(value=2.0, params=ours.params, distributions=ours.distributions))
    wrong = {**ours.distributions, 'p00': optuna.distributions.CategoricalDistribution((7,))}
    notes = {'notes': {}}
    study.add_trial(
        optuna.create_trial(value=2.0, params=ours.params | {'p00': 7}, distributions=wrong, user_attrs=notes)
    )
    trials = Trials(tmp_path / 'journal.log', SPACE)
    with pytest.warns(UserWarning, match='trial [1-4] of the study was not written by this search') as seen:
        candidates = trials.candidates()
    assert [str(warning.message).split()[1] for warning in seen] == ['1', '2', '3', '4']
    assert [candidate.path for candidate in candidates] == ['00000000']
    with pytest.warns(UserWarning, match='is ignored'):
        assert len(trials.history()) == 1


def test_a_lock_left_by_a_kill_does_not_stop_the_next_start(tmp_path):
    assert run(WRITE + DIE, tmp_path).returncode == -signal.SIGKILL
    result = run(WRITE + 'print(len(trials.candidates()))', tmp_path)  # a relative path, as on the command line
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '2'


def test_half_a_last_line_is_dropped_and_damage_elsewhere_is_named(tmp_path):
    file = tmp_path / 'journal.log'
    fill(file, [0.5, 0.6], [1.0, 1.0])
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert len(Trials(file, SPACE).history()) == 1
    assert all(json.loads(line) for line in file.read_text().splitlines())
    file.write_bytes(whole[:40] + b'\n' + whole[40:])
    with pytest.raises(ValueError, match=r'journal\.log is damaged .*: delete it to begin the search anew'):
        Trials(file, SPACE)
