"""``pinas-models convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm

from ..checkpoints import Conversion, convert_checkpoint, load_checkpoint, to_authors, to_detectron2
from ..checkpoints.writer import check_suffix, check_targets, sha256, write_file, write_folder
from ..choices import VARIANTS, variant_name
from ..common.files import write_json
from ..loading import resolve_name

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = "convert the authors' checkpoints to ours and back"
EXAMPLES = """The kind of IN is recognised by the names in it: classification (and weights of ours), deeplabv3,
detectron2 (Mask R-CNN), supernet, linear and learning. Nothing in IN is executed, and what is left out is listed.

OUT is a .safetensors file, a .pth, .pth.tar or .pt file, or with --folder a model folder that
timm.create_model('local-dir:OUT', pretrained=True) opens.

examples:
  pinas-models convert PiNAS_cls.pth.tar pinas_cls.safetensors
  pinas-models convert PiNAS_trans_ade.pth.tar pinas_trans_ade20k --folder --model pinas_trans.ade20k
  pinas-models convert learning.pth best.safetensors --choices 3013231203213032 --report report.json
  pinas-models convert pinas_trans.safetensors backbone.pth --to detectron2
"""

_SHOWN = 4  # names of a group that are printed one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('source', metavar='IN', help='the checkpoint')
    parser.add_argument('target', metavar='OUT', help='what to write')
    parser.add_argument('--choices', metavar='PATH', help='the network to take out of a supernet, a digit per block')
    parser.add_argument('--teacher', action='store_true', help='take the teacher of a learning, not the student')
    parser.add_argument(
        '--to',
        choices=['timm', 'authors', 'detectron2'],
        default='timm',
        help="names to write: ours, those of the authors' classification, or of their Detectron2 backbone",
    )
    parser.add_argument('--folder', action='store_true', help='write a model folder: config.json and model.safetensors')
    parser.add_argument('--model', metavar='NAME', help='registered name that the weights belong to (default: by path)')
    parser.add_argument('--report', metavar='FILE', help='write what was done, with all names left out, as JSON')
    parser.add_argument('--force', action='store_true', help='replace what exists')


def run(args: argparse.Namespace) -> int:
    """Convert one file.

    Raises:
        OSError: If a file is missing, exists, or cannot be written.
        ValueError: If the file is no such checkpoint, or the options do not fit it.
    """
    source, target = Path(args.source), Path(args.target)
    report = None if args.report is None else Path(args.report)
    if args.folder and args.to != 'timm':
        raise ValueError(f'--folder holds a model for timm; it cannot be written --to {args.to}')
    if not args.folder:
        check_suffix(target)
    check_targets(source, target, report, args.force)

    choices = args.choices if args.model is None else _path_of_model(args.model, args.choices)
    content = load_checkpoint(source)
    try:
        conversion = convert_checkpoint(content, choices, teacher=args.teacher)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    name = args.model or variant_name(conversion.layers, conversion.choices)
    try:
        timm.create_model(name, choices=conversion.choices, device='meta')  # has it a path of this length?
    except ValueError as error:
        raise ValueError(f'{source} does not fit --model {name}: {error}') from error
    path_digits = ''.join(map(str, conversion.choices))
    facts: dict[str, Any] = {
        'source': source.name,
        'source_sha256': sha256(source),
        'family': conversion.family,
        'network': 'teacher' if args.teacher else 'student' if conversion.family == 'learning' else None,
        'model': name,
        'choices': path_digits,
        'num_classes': conversion.num_classes,
    }
    dropped = _write(args, conversion, target, {key: str(value) for key, value in facts.items() if value is not None})
    facts |= {
        'target': str(target),
        'to': args.to,
        'mapped': len(conversion.state_dict) - len(dropped),
        'left_out': [*conversion.left_out, *dropped],
    }
    if report is not None:
        write_json(report, facts)
    _print(facts)
    return 0


def _path_of_model(name: str, choices: str | None) -> str | Sequence[int] | None:
    """The path that a registered name implies; the user's for names that stand for many."""
    source = resolve_name(name)
    if ':' in source:
        raise ValueError(f'--model {name}: a registered name is meant (pinas-models list shows them)')
    variant = VARIANTS.get(source.partition('.')[0])
    if variant is None:
        raise ValueError(f'--model {name} is no network of this space; the names are those of pinas-models list')
    return choices if choices is not None or variant.any_path else variant.choices


def _write(args: argparse.Namespace, conversion: Conversion, target: Path, metadata: dict[str, str]) -> list[str]:
    """Write the weights; returns the names for which the target has no place."""
    if args.folder:
        write_folder(conversion, target, args.model)
        return []
    tensors, wrapper = conversion.state_dict, None
    dropped: list[str] = []
    if args.to == 'authors':
        tensors, wrapper = to_authors(tensors), 'state_dict'
    elif args.to == 'detectron2':
        dropped = [name for name in tensors if name.startswith('fc.')]
        tensors, wrapper = to_detectron2(tensors), 'model'
    write_file(tensors, target, wrapper=wrapper, metadata=metadata)
    return dropped


def _print(facts: dict[str, Any]) -> None:
    network = f', its {facts["network"]}' if facts['network'] else ''
    classes = f'{facts["num_classes"]} classes' if facts['num_classes'] else 'no classifier'
    print(f'{facts["source"]}: {facts["family"]}{network}')
    print(f'  path      {facts["choices"]} ({facts["model"]})')
    print(f'  mapped    {facts["mapped"]} names, {classes}')
    print(f'  left out  {len(facts["left_out"])}{":" if facts["left_out"] else ""}')
    for line in _summary(facts['left_out']):
        print(f'    {line}')
    print(f'  written   {facts["target"]}')


def _summary(names: Sequence[str]) -> list[str]:
    """Group names by their first part."""
    groups = Counter(name.partition('.')[0] for name in names)
    lines: list[str] = []
    for group, count in groups.items():
        if count > _SHOWN:
            lines.append(f'{group}.* ({count} names)')
        else:
            lines += [name for name in names if name.partition('.')[0] == group]
    return lines
