"""From a configuration to a Runner of mmengine, on one process or several, with a GPU or without."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['build_runner', 'import_framework', 'is_main_process', 'prepare']


def is_main_process() -> bool:
    """Whether this is the one of torchrun's processes that speaks."""
    return os.environ.get('RANK', '0') == '0'


def import_framework(config: Config) -> None:
    """Import what a configuration of mmdet or mmseg needs, without what these print meanwhile."""
    scope = config.get('default_scope')
    if scope in ('mmdet', 'mmseg'):
        with redirect_stdout(io.StringIO()):
            for part in ('datasets', 'models', 'visualization'):
                import_module(f'{scope}.{part}')


def prepare(
    config: Config,
    work_dir: Path,
    *,
    seed: int | None = None,
    amp: bool = False,
    launcher: str = 'none',
    load_from: str | None = None,
    resume: bool = False,
) -> None:
    """Write what a command line says into a configuration.

    Args:
        config: Changed in place.
        work_dir: Folder for logs and checkpoints.
        seed: Seed of everything random; None leaves the configuration's.
        amp: Train with automatic mixed precision, on a GPU.
        launcher: ``'none'`` for one process, ``'pytorch'`` under torchrun.
        load_from: Checkpoint to start from.
        resume: Go on from the last checkpoint in ``work_dir`` (or from ``load_from``), if there is one.

    Raises:
        ValueError: If mixed precision is asked for without a GPU, or the launcher without torchrun.
    """
    import torch

    if launcher == 'pytorch' and 'LOCAL_RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch is for processes that torchrun starts: torchrun --nproc-per-node N '
            '-m pinas_downstream.cli ...; for one process leave it out'
        )
    config.work_dir = str(work_dir)
    config.launcher = launcher
    config.resume = resume
    if config.get('visualizer'):
        config.visualizer['name'] = str(work_dir)  # of several in a process, each writes into its own folder
    if seed is not None:
        config.randomness = dict(seed=seed)
    if load_from is not None:
        config.load_from = load_from
    if amp:
        if not torch.cuda.is_available():
            raise ValueError('--amp needs a GPU: mixed precision of mmengine does not run on a CPU; leave it out')
        wrapper = config.optim_wrapper
        if wrapper.get('type', 'OptimWrapper') == 'OptimWrapper':
            wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine's own ways assume a GPU: NCCL, a device id per process.
        config.setdefault('env_cfg', {}).dist_cfg = dict(backend='gloo')
        config.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=config.get('find_unused_parameters', False),
        )


def build_runner(config: Config, *, verbose: bool = True) -> Runner:
    """Make the Runner of a prepared configuration.

    Args:
        config: Prepared.
        verbose: Show all of the log on the console, not only progress and warnings.

    Raises:
        ValueError: If a setting is wrong.
    """
    import torch
    from mmengine.registry import RUNNERS

    from .runner import CommandRunner, QuietRunner

    if config.launcher != 'none' and not torch.cuda.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')  # before mmengine does it, which would select a GPU first
    if 'runner_type' in config:
        return RUNNERS.build(config)
    return (CommandRunner if verbose else QuietRunner).from_cfg(config)
