"""Small trainings of the two configurations for a laptop, and what the commands print and write."""

import json

from pinas_downstream.cli import main
from pinas_downstream.config import find_config

DETECTOR, SEGMENTOR = 'mask-rcnn_pinas-mini_pennfudan', 'deeplabv3_pinas-mini_camvid'
# Small images and two iterations; the rest is as in the configurations.
SMALL_TEST = 'test_dataloader.dataset.pipeline.1.scale=(160,120)'
SMALL = {
    DETECTOR: [
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.pipeline.2.scales=[(160,120)]',
        'val_dataloader.dataset.pipeline.1.scale=(160,120)',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
    ],
    SEGMENTOR: [
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.pipeline.3.size=(96,96)',
        'train_dataloader.dataset.pipeline.4.crop_size=(96,96)',
        'model.data_preprocessor.size=(96,96)',
        'train_cfg.max_iters=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ],
}
# Where the evaluation is not what is tested.
WITHOUT_VALIDATION = ['default_hooks.checkpoint.save_best=None']
WITHOUT_VALIDATION += [f'val_{name}=None' for name in ('cfg', 'dataloader', 'evaluator')]


def train(config, data_root, work_dir, *options, flags=(), like=None):
    """Run the command in this process, for a configuration that is like one of the two; returns its exit code."""
    command = ['train', config, '--data-root', str(data_root), '--work-dir', str(work_dir), '--seed', '0', *flags]
    return main([*command, '--cfg-options', *SMALL[like or config], *options])


def log_of(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def scalars_of(work_dir):
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def error_line(capsys):
    """The line of the error, the only one of the standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1, lines
    assert ': error: ' in lines[0]
    return lines[0]


def configuration(path, name, text):
    """A file with a built-in configuration as its base."""
    path.write_text(f'_base_ = {str(find_config(name))!r}\n{text}')
    return str(path)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call
