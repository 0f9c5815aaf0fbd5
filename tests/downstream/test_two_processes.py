"""Two processes under torchrun take the same first step as one process with the double batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pinas_downstream.cli import main
from pinas_downstream.config import find_config
from pinas_downstream.patches.checkpoints import read

# Cropping, flipping and dropout draw differently in each process, and BN in training has the statistics of its own
# images: all are off. The heads get a norm within each image, because only the backbone's BN has an eval mode.
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['pinas_downstream', 'record'], allow_failed_imports=False)
head = dict(channels=16, norm_cfg=dict(type='GN', num_groups=4), dropout_ratio=0.0)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(norm_eval=True, init_cfg=None),
    decode_head=dict(project_dropout_ratio=0.0, **head),
    auxiliary_head=head)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
val_dataloader = val_cfg = val_evaluator = None
train_cfg = dict(max_iters=1)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))  # the momentum: the gradient
param_scheduler = None
default_hooks = dict(checkpoint=dict(interval=1, save_best=None))
custom_hooks = [dict(type='Record')]
"""

RECORD = """
import json, pathlib
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Record(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        images = [sample.img_path for sample in data_batch['data_samples']]
        record = dict(images=images, losses={name: value.item() for name, value in outputs.items()})
        pathlib.Path(runner.work_dir, f'rank{get_rank()}.json').write_text(json.dumps(record))
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A configuration, the hook that it imports, and six images, of which the first step sees four."""
    folder = tmp_path_factory.mktemp('two')
    (folder / 'record.py').write_text(RECORD)
    (folder / 'config.py').write_text(CONFIG.format(base=str(find_config('deeplabv3_pinas-mini_camvid'))))
    generator = np.random.default_rng(0)
    for kind, suffix, high, shape in (('images', 'jpg', 256, (64, 64, 3)), ('annotations', 'png', 11, (64, 64))):
        (folder / kind / 'train').mkdir(parents=True)
        for index in range(6):
            pixels = generator.integers(0, high, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / 'train' / f'{index}.{suffix}')
    return folder


def train(project, name, launcher, *options):
    work_dir = project / name
    command = [sys.executable, *launcher, '-m', 'pinas_downstream.cli', 'train', str(project / 'config.py')]
    command += ['--data-root', str(project), '--work-dir', str(work_dir), '--seed', '3', *options]
    environment = {**os.environ, 'PYTHONPATH': str(project), 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
    if not launcher:  # one process: this one
        assert main(command[3:]) == 0
        return work_dir
    done = subprocess.run(
        command, env=environment, cwd=project, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return work_dir


def record(work_dir, rank):
    return json.loads((work_dir / f'rank{rank}.json').read_text())


def assert_close(actual, expected, name):
    """Within 1e-5 of the largest value; measured is 7e-7."""
    largest = expected.abs().max().item()
    assert largest > 0, name
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * largest, msg=lambda text: f'{name}: {text}')


def test_the_first_step_of_two_processes_is_that_of_one(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    two = train(project, 'two', torchrun, '--launcher', 'pytorch')
    one = train(project, 'one', [], '--cfg-options', 'train_dataloader.batch_size=4')

    whole, first, second = record(one, 0), record(two, 0), record(two, 1)
    assert len(set(whole['images'])) == 4
    assert sorted(whole['images']) == sorted(first['images'] + second['images'])
    for name, loss in whole['losses'].items():
        assert (first['losses'][name] + second['losses'][name]) / 2 == pytest.approx(loss, rel=1e-5), name
    assert first['losses']['loss'] != pytest.approx(whole['losses']['loss'], rel=1e-4)  # a rank alone is not enough

    expected, actual = read(one / 'iter_1.pth'), read(two / 'iter_1.pth')
    assert actual['state_dict'].keys() == expected['state_dict'].keys()
    gradients = expected['optimizer']['state']
    assert len(gradients) > 150
    for index, state in gradients.items():
        assert_close(actual['optimizer']['state'][index]['momentum_buffer'], state['momentum_buffer'], index)
    for name, weight in expected['state_dict'].items():
        if weight.is_floating_point() and not name.endswith('running_mean'):  # eval mode: all 0
            assert_close(actual['state_dict'][name], weight, name)
