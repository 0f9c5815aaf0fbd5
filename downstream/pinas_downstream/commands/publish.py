"""``pinas-downstream publish``: what others need of a trained model, without the records of its training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..running import import_framework
from ..running.console import hiding_noise
from ..running.explain import explaining
from ._options import add_config_options, read_config

if TYPE_CHECKING:
    from ..models.backbone import PiNAS

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'strip a checkpoint of a training to a model to give away'
EXAMPLES = """written into OUT
  model.pth    the weights and the names of the classes, without optimizer and histories
  config.py    the complete configuration, bases and all
  backbone/    the backbone alone, as a folder that timm and pinas-models publish take

examples:
  pinas-downstream publish mask-rcnn_pinas-mini_pennfudan runs/detector/epoch_36.pth pedestrians
  pinas-downstream predict pedestrians/config.py pedestrians/model.pth photos
  pinas-models publish pedestrians/backbone ORG/pinas-mini-pedestrians --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_options(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the whole model')
    parser.add_argument('out', metavar='OUT', type=Path, help='the folder to write')
    parser.add_argument('--force', action='store_true', help='replace what is in the folder')


def run(args: argparse.Namespace) -> int:
    """Write the three.

    Raises:
        OSError: If a file is missing, or the folder is there or cannot be written.
        ValueError: If the configuration and the checkpoint do not fit.
    """
    config = read_config(args)
    if args.out.exists() and any(args.out.iterdir()) and not args.force:
        raise FileExistsError(f'{args.out} is not empty: name another folder, or replace it with --force')
    with explaining(), hiding_noise():
        import_framework(config)
        import torch

        from pinas_models.checkpoints.writer import sha256
        from pinas_models.common.files import atomic_path

        from ..inference.predictor import Predictor
        from ..models.backbone import PiNAS as Backbone

        predictor = Predictor(config, args.checkpoint, torch.device('cpu'))
        weights = predictor.model.state_dict()
        backbone = getattr(predictor.model, 'backbone', None)
    metainfo = {name: predictor.metainfo.get(name) for name in ('classes', 'palette')}
    with atomic_path(args.out / 'model.pth') as temporary:
        torch.save({'state_dict': weights, 'meta': {'dataset_meta': metainfo}}, temporary)
    config.load_from, config.resume = None, False
    if isinstance(config.model.get('backbone'), dict):
        config.model.backbone.init_cfg = None  # its weights are in the file
    with atomic_path(args.out / 'config.py') as temporary:
        temporary.write_text(config.pretty_text, encoding='utf-8')
    print(f'{args.out / "model.pth"}  {len(weights)} tensors, {len(metainfo["classes"] or ())} classes')
    print(f'  sha256  {sha256(args.out / "model.pth")}')
    print(f'{args.out / "config.py"}')
    if isinstance(backbone, Backbone) and hasattr(backbone, 'layer4'):
        _write_backbone(backbone, args.out / 'backbone')
    return 0


def _write_backbone(backbone: PiNAS, folder: Path) -> None:
    from pinas_models.checkpoints import convert_checkpoint
    from pinas_models.checkpoints.writer import write_folder

    conversion = convert_checkpoint(backbone.state_dict(), backbone.choices, layers=backbone.layers)
    write_folder(conversion, folder)
    print(f"{folder}  timm.create_model('local-dir:{folder}', pretrained=True) opens it")
