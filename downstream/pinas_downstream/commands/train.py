"""``pinas-downstream train``: train a detector or segmentor."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..configs import load_config
from ..running import build_runner, prepare
from ._options import add_config_options, cfg_options

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
    parser.add_argument('--seed', type=int, help="seed of everything random (default: the configuration's)")
    parser.add_argument(
        '--load-from', metavar='FILE', help='checkpoint to start from, with fresh optimizer and schedule'
    )
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint, if there is one')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision, on a GPU')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help='pytorch: started by torchrun')


def run(args: argparse.Namespace) -> int:
    """Train.

    Raises:
        OSError: If a file is missing.
        ValueError: If the configuration or a checkpoint is wrong.
    """
    config = load_config(args.config, cfg_options(args.cfg_options), args.data_root)
    prepare(
        config,
        args.work_dir or Path('runs') / Path(args.config).stem,
        seed=args.seed,
        amp=args.amp,
        launcher=args.launcher,
        load_from=args.load_from,
        resume=args.resume,
    )
    build_runner(config).train()
    return 0
