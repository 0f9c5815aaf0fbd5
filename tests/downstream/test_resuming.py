"""Trainings that are interrupted, killed or out of space: nothing is lost, and --resume goes on."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from small_runs import DETECTOR, SEGMENTOR, SMALL, configuration, error_line, scalars_of, train

from pinas_downstream.patches.checkpoints import read
from pinas_downstream.running.resume import find_checkpoint

HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Interrupt(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_an_interrupted_training_says_how_to_go_on(tiny_camvid, tmp_path, monkeypatch, capsys):
    (tmp_path / 'interrupting_hook.py').write_text(HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    hook = "custom_imports = dict(imports=['pinas_downstream', 'interrupting_hook'])\n"
    config = configuration(tmp_path / 'c.py', SEGMENTOR, hook + "custom_hooks = [dict(type='Interrupt')]")
    interval = 'default_hooks.checkpoint.interval=1'
    assert train(config, tiny_camvid, tmp_path / 'run', interval, like=SEGMENTOR) == 130
    assert f'with --resume goes on from {tmp_path}/run/iter_1.pth' in capsys.readouterr().err
    assert train(config, tiny_camvid, tmp_path / 'early', like=SEGMENTOR) == 130
    assert 'has no checkpoint yet' in capsys.readouterr().err
    assert train(SEGMENTOR, tiny_camvid, tmp_path / 'run', interval, flags=['--resume']) == 0
    assert read(tmp_path / 'run' / 'iter_2.pth')['meta']['iter'] == 2


def test_a_killed_training_goes_on(tiny_pennfudan, tmp_path):
    """With kill -9, at any time after the first epoch; two more follow after --resume."""
    work_dir = tmp_path / 'run'
    epochs = ['train_cfg.max_epochs=3', 'train_cfg.val_interval=3']
    command = [sys.executable, '-m', 'pinas_downstream.cli', 'train', DETECTOR, '--work-dir', str(work_dir)]
    command += ['--data-root', str(tiny_pennfudan), '--seed', '0', '--cfg-options', *SMALL[DETECTOR], *epochs]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'}
    ) as run:
        for line in run.stdout:
            if 'Epoch(train) [2][1/2]' in line:
                run.kill()
    assert run.returncode == -9
    last = find_checkpoint(work_dir)
    assert last.name in ('epoch_1.pth', 'epoch_2.pth')
    done = read(last)['meta']['iter']
    (killed,) = work_dir.glob('*/vis_data/scalars.json')
    shutil.rmtree(killed.parents[1])
    assert train(DETECTOR, tiny_pennfudan, work_dir, *epochs, flags=['--resume']) == 0
    steps = [line['step'] for line in scalars_of(work_dir) if 'loss' in line]
    assert steps == list(range(done + 1, 7))
    assert read(work_dir / 'epoch_3.pth')['meta']['iter'] == 6


def test_resuming_where_nothing_was_trained_starts(trained_segmentor, tiny_camvid, tmp_path):
    """From the weights of load_from, which plain mmengine would take for the checkpoint to go on from."""
    assert find_checkpoint(tmp_path) is None
    options = [f'load_from={trained_segmentor}', 'default_hooks.checkpoint.save_best=None']
    options += [f'val_{name}=None' for name in ('cfg', 'dataloader', 'evaluator')]
    assert train(SEGMENTOR, tiny_camvid, tmp_path, *options, flags=['--resume']) == 0
    assert [line['step'] for line in scalars_of(tmp_path)] == [1, 2]


def checkpoint_file(path):
    torch.save({'meta': {}}, path)
    return path


def test_the_last_checkpoint(tmp_path):
    nine, ten = checkpoint_file(tmp_path / 'epoch_9.pth'), checkpoint_file(tmp_path / 'epoch_10.pth')
    assert find_checkpoint(tmp_path) == ten  # killed before the name was written
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('')
    assert find_checkpoint(tmp_path) == ten
    pointer.write_text(str(nine))
    assert find_checkpoint(tmp_path) == nine
    pointer.write_text('/another/folder/epoch_9.pth')
    assert find_checkpoint(tmp_path) == nine
    pointer.write_text(str(tmp_path / 'epoch_8.pth'))  # deleted before the next one was written
    assert find_checkpoint(tmp_path) == ten
    ten.write_bytes(ten.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r'epoch_10\.pth: is not a whole checkpoint.*has epoch_9\.pth as well'):
        find_checkpoint(tmp_path)
    nine.unlink()
    ten.unlink()
    checkpoint_file(tmp_path / 'best_mIoU_iter_7.pth')
    with pytest.raises(FileNotFoundError, match=r'is gone.*best_mIoU_iter_7\.pth'):
        find_checkpoint(tmp_path)


def test_resuming_from_a_checkpoint_that_is_cut_off(tiny_camvid, tmp_path, capsys):
    whole = checkpoint_file(tmp_path / 'iter_1.pth').read_bytes()
    (tmp_path / 'iter_1.pth').write_bytes(whole[:-30])
    assert train(SEGMENTOR, tiny_camvid, tmp_path, flags=['--resume']) == 2
    assert 'iter_1.pth: is not a whole checkpoint' in error_line(capsys)


def test_a_full_disk_leaves_no_half_checkpoint(tiny_camvid, tmp_path, capsys):
    """By the limit of the system on the size of a file, which ends the writing in the midst of it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        assert train(SEGMENTOR, tiny_camvid, tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large' in error_line(capsys)
    assert not list(tmp_path.glob('*.pth'))
    assert find_checkpoint(tmp_path) is None
