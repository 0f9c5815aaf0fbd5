"""``pinas-models export``: a model as ONNX, TorchScript or torch.export file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..deploy.export import FORMATS, ExportError, check_target, export, find_format
from ..loading import open_model
from ._options import open_with_weights

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'write a model as ONNX, TorchScript or torch.export file'
EXAMPLES = """The file takes batches of any size. Its outputs are compared with the model's, by onnxruntime or
PyTorch, for several batch sizes (and image sizes with --dynamic-size); it is kept only if they are equal to 1e-4 of the
largest. It holds the images' mean, std and so on as JSON under the name preprocessing, and the names of the classes
under classes. What runs it needs neither this package nor timm.

exit code:
  0 if the file was written, 1 if it computes something else than the model, 2 for a mistake

examples:
  pinas-models export pinas_cls.in1k pinas_cls.onnx
  pinas-models export pinas_cls segment.pt2 --checkpoint pinas_cls.pth.tar --size 512x1024 --dynamic-size --fuse
  pinas-models export local-dir:runs/cifar10/retrain/winner/model winner.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('model', metavar='MODEL', help='a name of timm, local-dir:FOLDER or hf-hub:ORG/name')
    parser.add_argument('out', metavar='OUT', type=Path, help='the file to write')
    suffixes = ', '.join(f'{suffix} for {name}' for name, suffix in FORMATS.items())
    parser.add_argument('--format', choices=list(FORMATS), help=f'default: by the suffix of OUT: {suffixes}')
    parser.add_argument('--checkpoint', metavar='FILE', help="weights: ours, timm's or the authors' checkpoint")
    parser.add_argument('--choices', metavar='PATH', help='the path, where the name stands for many')
    parser.add_argument('--untrained', action='store_true', help='export random weights, to measure speed')
    parser.add_argument(
        '--size', type=_size, metavar='N|HxW', help="height and width of the images in pixels (default: the model's)"
    )
    parser.add_argument('--dynamic-size', action='store_true', help='let height and width vary as well')
    parser.add_argument('--fuse', action='store_true', help='fold the batch norms into the convolutions before')
    parser.add_argument('--opset', type=int, help="version of the ONNX operators (default: PyTorch's choice)")
    parser.add_argument('--force', action='store_true', help='replace an existing file')


def run(args: argparse.Namespace) -> int:
    """Export and say how much the file differs; returns 1 if it was not kept because it does.

    Raises:
        OSError: If a file is missing or exists already.
        ValueError: If there is no such model, it has no weights, or it cannot be exported so.
    """
    format = find_format(args.out, args.format)
    check_target(args.out, format, args.force)
    if args.untrained:
        model = open_model(args.model, pretrained=False, choices=args.choices)
    else:
        model = open_with_weights(args)
    try:
        report = export(
            model,
            args.out,
            format=format,
            size=args.size,
            dynamic_size=args.dynamic_size,
            fused=args.fuse,
            opset=args.opset,
            overwrite=args.force,
        )
    except ExportError as error:
        print(f'pinas-models export: {args.out} was not written: {error}', file=sys.stderr)
        return 1
    kind = f'{report.format}, opset {report.opset}' if report.opset else report.format
    sizes = 'any size' if args.dynamic_size else 'x'.join(map(str, report.shapes[0][2:]))
    print(f'{report.path}: {kind}, {report.path.stat().st_size / 1e6:.1f} MB, images of {sizes} in batches of any size')
    shapes = ', '.join('x'.join(map(str, shape)) for shape in report.shapes)
    print(
        f'equal to the model on images {shapes}: '
        f'largest difference {report.max_difference:.1e}, largest output {report.max_output:.1e}'
    )
    return 0


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition('x')
    size = int(height), int(width if cross else height)
    if min(size) < 1:
        raise ValueError
    return size


_size.__name__ = 'size'  # argparse says "invalid size value"
