"""``pinas-downstream convert``: the authors' detector and segmentor to ours, and our backbone to their detector."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pinas_models.common.files import write_json

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = "convert the authors' detector and segmentor to ours, or our backbone to their detector"
EXAMPLES = """IN is a Mask R-CNN of the authors' Detectron2 or a DeepLabV3 of their PyTorch-Encoding, recognised by the
names in it; OUT then loads into the configurations of this package (test, predict, --load-from). With --to detectron2,
IN is a model of mmdet or mmseg with our backbone, or the backbone alone, and OUT holds the backbone for their detector.
Nothing in IN is executed, and what is left out is listed. OUT ends with .safetensors, .pth, .pth.tar or .pt.

A file with a backbone alone needs no conversion: init_cfg=dict(type='Pretrained', checkpoint=...) takes it.

examples:
  pinas-downstream convert PiNAS_trans_COCO.pth mask_rcnn_trans.safetensors
  pinas-downstream convert PiNAS_trans_ade.pth.tar deeplabv3_ade20k.safetensors --report report.json
  pinas-downstream convert runs/mask-rcnn/iter_90000.pth backbone.pth --to detectron2
"""

# Key of the weights in a file of torch.save.
_WRAPPERS = {'mm': 'state_dict', 'detectron2': 'model'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('source', metavar='IN', help='the checkpoint')
    parser.add_argument('target', metavar='OUT', help='the file to write')
    parser.add_argument(
        '--to',
        choices=list(_WRAPPERS),
        default='mm',
        help="names to write: those of our models in mmdet and mmseg (default), or of the authors' detector",
    )
    parser.add_argument('--report', metavar='FILE', help='write what was done, name by name, as JSON')
    parser.add_argument('--force', action='store_true', help='replace what exists')


def run(args: argparse.Namespace) -> int:
    """Convert one file.

    Raises:
        OSError: If a file is missing, exists, or cannot be written.
        ValueError: If the file is no such checkpoint.
    """
    # Here, because they load torch, which the help of the command can do without.
    from pinas_models.checkpoints import load_checkpoint
    from pinas_models.checkpoints.writer import check_suffix, check_targets, sha256, write_file

    from ..convert import convert_model, reverse_backbone
    from ..patches.checkpoints import read

    source, target = Path(args.source), Path(args.target)
    report = None if args.report is None else Path(args.report)
    check_suffix(target)
    check_targets(source, target, report, args.force)

    # A Runner's checkpoint holds the records of its training, which only our own reader allows.
    content = load_checkpoint(source) if args.to == 'mm' else read(source, map_location='cpu')
    try:
        conversion = convert_model(content) if args.to == 'mm' else reverse_backbone(content)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    facts: dict[str, Any] = {
        'source': source.name,
        'source_sha256': sha256(source),
        'family': conversion.family,
        'choices': ''.join(map(str, conversion.choices)),
        'num_classes': conversion.num_classes,
    }
    metadata = {key: str(value) for key, value in facts.items()}
    write_file(conversion.state_dict, target, wrapper=_WRAPPERS[args.to], metadata=metadata)
    facts |= {
        'target': str(target),
        'target_sha256': sha256(target),
        'to': args.to,
        'mapped': conversion.mapped,
        'left_out': conversion.left_out,
    }
    if report is not None:
        write_json(report, facts)
    _print(facts)
    return 0


def _print(facts: dict[str, Any]) -> None:
    parts = {ours.partition('.')[0] for _, ours in facts['mapped']}
    classes = f'{facts["num_classes"]} classes' if facts['num_classes'] else 'its backbone'
    if 'decode_head' in parts and 'auxiliary_head' not in parts:
        classes += ', no auxiliary head (auxiliary_head=None in the config)'
    print(f'{facts["source"]}: {facts["family"]}, {classes}')
    print(f'  path      {facts["choices"]}')
    print(f'  mapped    {_count(ours for _, ours in facts["mapped"])}')
    print(f'  left out  {_count(facts["left_out"])}')
    print(f'  written   {facts["target"]}')
    print(f'  sha256    {facts["target_sha256"]}')


def _count(names: Iterable[str]) -> str:
    """How many names there are, by their first part."""
    groups = Counter(name.partition('.')[0] for name in names)
    listed = ', '.join(group if count == 1 else f'{group}.* {count}' for group, count in groups.items())
    return f'{groups.total()} names ({listed})' if groups else 'nothing'
