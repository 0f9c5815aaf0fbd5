"""``pinas-models info``: what a network consists of and what it costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from timm.models import get_model_input_config
from torch import nn

from ..checkpoints.writer import check_free
from ..choices import BLOCK_CHOICES
from ..common.files import write_text
from ..inspect.costs import Costs, StageCosts, measure_costs, network_stages
from ..inspect.drawing import draw_svg, draw_text, network_columns, short_number
from ..loading import open_model
from ..pinas import PinasNet

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'draw the blocks of a network and count what it costs'
EXAMPLES = """counted for one image, from the code alone: no weights are read
  parameters            trainable ones
  multiply-accumulates  of convolutions and matrix products
  authors' FLOPs        the rule behind the numbers of the Π-NAS paper: a multiply-accumulate counts as one; convolution
                        biases, twice the input of batch normalisations, ReLUs and pools count as well
  activations           elements in the outputs of convolutions and matrix products, as in timm's tables
  weights               bytes of parameters and buffers
  activation memory     largest number of bytes alive at one time of an inference, weights and operators' scratch memory
                        left out

examples:
  pinas-models info pinas_cls
  pinas-models info pinas_subnet --choices 3013231203213032 --size 288 --svg network.svg
  pinas-models info local-dir:runs/demo/retrain/winner/model --json
  pinas-models info resnest50d
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('model', metavar='MODEL', help='a name of timm, local-dir:FOLDER or hf-hub:ORG/name')
    parser.add_argument('--choices', metavar='PATH', help='the path, a digit 0..3 per block (pinas_subnet, pinas_mini)')
    parser.add_argument('--num-classes', type=int, metavar='N', help='another number of classes; 0: no classifier')
    parser.add_argument('--size', type=_size, metavar='N|HxW', help="image size in pixels (default: the model's)")
    parser.add_argument('--svg', type=Path, metavar='FILE', help='draw the blocks into this file as well')
    parser.add_argument('--force', action='store_true', help='replace an existing file')
    parser.add_argument('--json', action='store_true', help='print JSON')


def _size(text: str) -> tuple[int, int]:
    """Height and width from ``224`` or ``256x192``."""
    parts = text.split('x')
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 224 or 256x192 (height x width)')
    return int(parts[0]), int(parts[-1])


def run(args: argparse.Namespace) -> int:
    """Print the drawing and the counts.

    Raises:
        OSError: If the model's folder is missing, or the picture cannot be written.
        ValueError: If there is no such model, it does not run at the size, or a picture is asked of another family.
    """
    if args.num_classes is not None and args.num_classes < 0:
        raise ValueError(f'--num-classes is {args.num_classes}; it must be 0 or more')
    if args.svg is not None:
        check_free(args.svg, args.force)
    model = open_model(args.model, pretrained=False, choices=args.choices, num_classes=args.num_classes)
    channels, height, width = get_model_input_config(model)['input_size']
    costs = measure_costs(model, (channels, *(args.size or (height, width))))
    stages = network_stages(model, costs) if isinstance(model, PinasNet) else []
    if args.svg is not None:
        if not stages:
            raise ValueError(f'--svg draws the blocks of a PinasNet; {args.model} is a {type(model).__name__}')
        facts = [_headline(model, costs), *_summary(costs)]
        legend = {choice: f'{block.name}: {block.meaning}' for choice, block in enumerate(BLOCK_CHOICES)}
        write_text(args.svg, draw_svg(network_columns(stages), title=args.model, facts=facts, legend=legend))
    if args.json:
        print(json.dumps(_report(args.model, model, costs, stages), indent=2))
        return 0
    _print(args.model, model, costs, stages)
    if args.svg is not None:
        print(f'\ndrawn in {args.svg}')
    return 0


def _report(name: str, model: nn.Module, costs: Costs, stages: list[StageCosts]) -> dict[str, Any]:
    report: dict[str, Any] = {
        'model': name,
        'class': type(model).__name__,
        'num_classes': getattr(model, 'num_classes', None),
        'input_size': list(costs.input_size),
        'params': costs.params,
        'statistics': costs.statistics,
        'macs': costs.macs,
        'authors_flops': costs.authors_flops,
        'activations': costs.activations,
        'weight_bytes': costs.weight_bytes,
        'activation_bytes': costs.activation_bytes,
    }
    if isinstance(model, PinasNet):
        report['choices'] = ''.join(map(str, model.choices))
        report['stages'] = [
            {
                'name': stage.name,
                'choices': ''.join(map(str, stage.choices)),
                'blocks': [block.name for block in stage.blocks],
                'stride': stage.stride,
                'dilations': list(stage.dilations),
                'output_shape': list(stage.output_shape),
                'params': stage.params,
                'macs': stage.macs,
                'block_macs': list(stage.block_macs),
            }
            for stage in stages
        ]
    return report


def _headline(model: nn.Module, costs: Costs) -> str:
    classes = getattr(model, 'num_classes', 0)
    head = f'{classes} classes' if classes else 'no classifier'
    return f'{type(model).__name__}, image {" x ".join(map(str, costs.input_size))}, {head}'


def _summary(costs: Costs) -> list[str]:
    return [
        f'{costs.params:,} parameters, {costs.macs:,} multiply-accumulates',
        f"{costs.authors_flops:,} FLOPs by the authors' rule, {costs.activations:,} activations",
    ]


def _print(name: str, model: nn.Module, costs: Costs, stages: list[StageCosts]) -> None:
    print(f'{name}: {_headline(model, costs)}\n')
    if stages:
        print(draw_text(network_columns(stages), unicode=_can_print('┌─┐│├┤└┘')))
        params, macs = costs.params - sum(s.params for s in stages), costs.macs - sum(s.macs for s in stages)
        print(f'\nstem and classifier: {short_number(params)} params, {short_number(macs)} MACs\n')
        for choice in sorted({choice for stage in stages for choice in stage.choices}):
            block = BLOCK_CHOICES[choice]
            print(f'{choice}  {block.name}  {block.meaning}')
        print()
    rows = [
        ('parameters', f'{costs.params:,}', f'{costs.params + costs.statistics:,} with BN statistics'),
        ('multiply-accumulates', f'{costs.macs:,}', 'convolutions, matrix products'),
        ("authors' FLOPs", f'{costs.authors_flops:,}', 'BN, ReLU, pools, biases as well'),
        ('activations', f'{costs.activations:,}', 'outputs of convolutions, products'),
        ('weights', _bytes(costs.weight_bytes), 'parameters and buffers'),
        ('activation memory', _bytes(costs.activation_bytes), f'inference, one image, {_precision(model)}'),
    ]
    for label, value, note in rows:
        print(f'{label:20} {value:>15}  {note}')


def _bytes(size: int) -> str:
    return f'{size / 2**20:.1f} MiB' if size >= 2**20 else f'{size / 2**10:.1f} KiB'


def _precision(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return 'float32' if parameter is None else str(parameter.dtype).removeprefix('torch.')


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or 'ascii')
    except UnicodeEncodeError:
        return False
    return True
