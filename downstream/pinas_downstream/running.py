"""From a configuration to a Runner of mmengine, on one process or several, with a GPU or without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['build_runner', 'prepare']


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
        ValueError: If mixed precision is asked for without a GPU.
    """
    import torch

    config.work_dir = str(work_dir)
    config.launcher = launcher
    config.resume = resume
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
        config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


def build_runner(config: Config) -> Runner:
    """Make the Runner of a prepared configuration.

    Raises:
        ValueError: If a setting is wrong.
    """
    import torch
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    if config.launcher != 'none' and not torch.cuda.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')  # before mmengine does it, which would select a GPU first
    return RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
