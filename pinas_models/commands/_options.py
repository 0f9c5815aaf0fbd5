"""Options that commands share which run a model."""

from __future__ import annotations

import argparse

from torch import nn

from ..evaluation import Classifier, resolve_device
from ..evaluation.classifier import DTYPES
from ..loading import open_model

__all__ = ['add_model_arguments', 'add_running_arguments', 'make_classifier', 'open_with_weights', 'positive']


def positive(text: str) -> int:
    """An ``int`` of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = 'positive int'  # argparse says "invalid positive int value"


def add_model_arguments(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Declare the options that name a model and its weights."""
    parser.add_argument(
        '--model',
        default=default,
        required=default is None,
        help='a name of timm (pinas_cls, pinas_cls.in1k, resnet50), local-dir:FOLDER or hf-hub:ORG/name'
        + (f' (default: {default})' if default else ''),
    )
    parser.add_argument('--checkpoint', metavar='FILE', help="weights: ours, timm's or the authors' checkpoint")
    parser.add_argument('--choices', metavar='PATH', help='the path of the checkpoint, where the name stands for many')


def add_running_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Declare the options that say how a model runs."""
    parser.add_argument('--batch-size', type=positive, default=batch_size, help=f'default: {batch_size}')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)')
    parser.add_argument('--amp', choices=[name for name in DTYPES if name != 'fp32'], help='autocast to this precision')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='of weights and activations')
    parser.add_argument('--channels-last', action='store_true', help='store the channels innermost')
    parser.add_argument(
        '--compile', nargs='?', const='inductor', metavar='BACKEND', help='compile the model (default: inductor)'
    )


def open_with_weights(args: argparse.Namespace) -> nn.Module:
    """Open the model that the options name.

    Raises:
        OSError: If a file is missing.
        ValueError: If there is no such model, or it has no weights: what a random network says is of no use.
    """
    if args.checkpoint is not None:
        return open_model(args.model, checkpoint=args.checkpoint, choices=args.choices)
    return open_model(args.model, pretrained=True, choices=args.choices)


def make_classifier(model: nn.Module, args: argparse.Namespace) -> Classifier:
    """Prepare a model as the options say.

    Raises:
        ValueError: If the device is not there, or the model cannot classify.
    """
    return Classifier(
        model,
        device=resolve_device(args.device),
        dtype=args.dtype,
        amp=args.amp,
        channels_last=args.channels_last,
        compiler=args.compile,
    )
