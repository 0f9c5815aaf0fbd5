"""Trainings that are interrupted, killed or out of space: nothing is lost, and --resume goes on."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from small_runs import DETECTOR, SEGMENTOR, SMALL, WITHOUT_VALIDATION, configuration, error_line, scalars_of, train

from pinas_downstream.cli import main
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
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
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


LONG = {
    DETECTOR: ['train_cfg.max_epochs=3', 'train_cfg.val_interval=1'],
    SEGMENTOR: ['train_cfg.max_iters=5', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1'],
}


@pytest.mark.parametrize(
    ('name', 'line', 'end'),
    [(DETECTOR, 'Epoch(train) [2][1/2]', 'epoch_3'), (SEGMENTOR, 'Iter(train) [3/5]', 'iter_5')],
)
def test_a_killed_training_ends_as_the_unbroken_one(name, line, end, tiny_pennfudan, tiny_camvid, tmp_path):
    """With kill -9: the same losses and weights, bit for bit, though validations lie between."""
    data_root, work_dir = tiny_pennfudan if name == DETECTOR else tiny_camvid, tmp_path / 'run'
    command = [sys.executable, '-m', 'pinas_downstream.cli', 'train', name, '--work-dir', str(work_dir)]
    command += ['--data-root', str(data_root), '--cfg-options', *SMALL[name], *LONG[name]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'}
    ) as run:
        for printed in run.stdout:
            if line in printed:
                run.kill()
    assert run.returncode == -9
    last = find_checkpoint(work_dir)
    assert last.stem in ('epoch_1', 'epoch_2', 'iter_2', 'iter_3', 'iter_4')
    done = read(last)['meta']
    (killed,) = work_dir.glob('*/vis_data/scalars.json')
    shutil.rmtree(killed.parents[1])
    # Neither has got a seed on the command line: it is drawn, and in the checkpoint.
    assert main([*command[3:9], '--resume', *command[9:]]) == 0
    assert train(name, data_root, tmp_path / 'whole', *LONG[name], flags=['--seed', str(done['seed'])]) == 0
    resumed, whole = (
        {line['step']: line['loss'] for line in scalars_of(folder) if 'loss' in line}
        for folder in (work_dir, tmp_path / 'whole')
    )
    assert list(resumed) == list(range(done['iter'] + 1, max(whole) + 1))
    assert resumed == {step: loss for step, loss in whole.items() if step in resumed}
    weights, expected = (read(folder / f'{end}.pth')['state_dict'] for folder in (work_dir, tmp_path / 'whole'))
    assert all(torch.equal(weights[key], tensor) for key, tensor in expected.items())


def test_resuming_where_nothing_was_trained_starts(trained_segmentor, tiny_camvid, tmp_path):
    """From the weights of load_from, which plain mmengine would take for the checkpoint to go on from."""
    assert find_checkpoint(tmp_path) is None
    options = [f'load_from={trained_segmentor}', *WITHOUT_VALIDATION]
    assert train(SEGMENTOR, tiny_camvid, tmp_path, *options, flags=['--resume']) == 0
    assert [line['step'] for line in scalars_of(tmp_path)] == [1, 2]


def test_a_training_goes_on_with_its_own_model_only(trained_segmentor, tiny_camvid, tmp_path, capsys):
    """Also where the configuration says resume. mmengine would go on with random weights where the shapes differ."""
    shutil.copy(trained_segmentor, tmp_path)
    options = ['train_cfg.max_iters=3', 'default_hooks.checkpoint.interval=1', *WITHOUT_VALIDATION]
    other = [*options, 'model.auxiliary_head.channels=8']
    assert train(SEGMENTOR, tiny_camvid, tmp_path, *other, flags=['--resume']) == 2
    assert 'iter_2.pth: does not fit the model: wrong shapes: ' in error_line(capsys)
    assert train(SEGMENTOR, tiny_camvid, tmp_path, *options, 'resume=True') == 0
    assert read(tmp_path / 'iter_3.pth')['meta']['iter'] == 3


def test_a_new_training_deletes_no_checkpoint_unasked(tiny_camvid, tmp_path, capsys):
    for name in ('iter_900.pth', 'best_mIoU_iter_750.pth', 'mine.pth'):
        checkpoint_file(tmp_path / name)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_900.pth'))
    assert train(SEGMENTOR, tiny_camvid, tmp_path) == 2
    assert 'earlier training (iter_900.pth, best_mIoU_iter_750.pth): --resume goes on' in error_line(capsys)
    assert train(SEGMENTOR, tiny_camvid, tmp_path, 'train_cfg.max_iter=1', flags=['--force']) == 2  # a mistake first
    assert find_checkpoint(tmp_path) == tmp_path / 'iter_900.pth'
    assert train(SEGMENTOR, tiny_camvid, tmp_path, 'train_cfg.max_iters=1', flags=['--force']) == 0
    assert find_checkpoint(tmp_path).name == 'iter_1.pth'
    assert {path.stem.split('_')[0] for path in tmp_path.glob('*.pth')} == {'iter', 'best', 'mine'}
    assert not (tmp_path / 'best_mIoU_iter_750.pth').exists()


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
