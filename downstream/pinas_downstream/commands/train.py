"""``pinas-downstream train``: train a detector or segmentor."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from ..checks import check_channels, check_last_batch, check_training
from ..running import build_runner, import_framework, is_main_process, prepare
from ..running.console import hiding_noise, printing_to
from ..running.explain import explaining
from ..running.resume import find_checkpoint, make_room, seed_of
from ._options import add_config_options, add_running_options, read_config

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'train a detector or segmentor'
EXAMPLES = """CONFIG is a name that pinas-downstream info lists, or a file. Checkpoints, the log and the figures of all
iterations (vis_data/scalars.json) are in the work directory; --resume goes on from the last checkpoint there.

examples:
  pinas-downstream train mask-rcnn_pinas-mini_pennfudan --data-root data/pennfudan_coco --seed 0
  pinas-downstream train deeplabv3_pinas-mini_camvid --data-root data/camvid --resume
  pinas-downstream train my_config.py --cfg-options train_dataloader.batch_size=4 model.backbone.choices=trans
  torchrun --nproc-per-node 8 -m pinas_downstream.cli train mask-rcnn_pinas-trans_coco --launcher pytorch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_options(parser)
    add_running_options(parser, 'runs/<config>')
    parser.add_argument('--seed', type=int, help="seed of everything random (default: the configuration's)")
    parser.add_argument(
        '--load-from', metavar='FILE', help='checkpoint to start from, with fresh optimizer and schedule'
    )
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint, if there is one')
    parser.add_argument('--force', action='store_true', help='delete the checkpoints of an earlier training there')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision, on a GPU')


def run(args: argparse.Namespace) -> int:
    """Train.

    Raises:
        OSError: If a file is missing.
        ValueError: If the configuration, the data or a checkpoint is wrong.
    """
    config = read_config(args)
    work_dir = args.work_dir or Path('runs') / Path(args.config).stem
    load_from = args.load_from
    resume = args.resume or bool(config.get('resume'))
    if resume and load_from is None:
        last = find_checkpoint(work_dir)
        load_from = None if last is None else str(last)
    new = not resume
    resume = resume and load_from is not None
    seed = args.seed
    if resume and seed is None and (config.get('randomness') or {}).get('seed') is None:
        seed = seed_of(load_from)  # the order of the images hangs on it
    prepare(
        config,
        work_dir,
        seed=seed,
        amp=args.amp,
        launcher=args.launcher,
        load_from=load_from,
        resume=resume,
    )
    try:
        with explaining(), nullcontext() if args.verbose else hiding_noise():
            import_framework(config)
            if is_main_process():
                check_training(config)
                if new:
                    make_room(work_dir, args.force)
            runner = build_runner(config, verbose=args.verbose)
            with nullcontext() if args.verbose else printing_to(runner.logger):
                check_channels(runner.model)
                check_last_batch(runner.train_loop.dataloader, config)
                runner.train()
    except KeyboardInterrupt:
        if is_main_process():
            print(_advice(work_dir), file=sys.stderr)
        raise
    return 0


def _advice(work_dir: Path) -> str:
    last = find_checkpoint(work_dir)
    if last is None:
        return f'{work_dir} has no checkpoint yet: the same command starts again'
    return f'the same command with --resume goes on from {last}'
