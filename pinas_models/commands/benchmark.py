"""``pinas-models benchmark``: speed and memory of networks, side by side."""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from timm.models import get_model_input_config

from ..benchmarking import BENCHES, Benchmark, Contender, Setup, measure_peaks, measure_speeds
from ..benchmarking.authors import DEFAULT_MODELS, DEFAULT_SIZES, REFERENCE
from ..benchmarking.plot import check_plot_file, plot_benchmark
from ..benchmarking.tables import (
    MARKERS,
    check_markdown_file,
    check_results_file,
    replace_in_markdown,
    text_table,
    write_results,
)
from ..benchmarking.workloads import open_untrained
from ..common.progress import Progress
from ..common.text import one_line
from ..evaluation import resolve_device
from ..inspect.costs import measure_costs
from ._options import add_running_arguments, positive

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'measure speed and memory of networks side by side'
EXAMPLES = f"""
what is measured
  speed   in rounds: in each, every network runs in its turn, so that the ratios within a round can be trusted on a
          machine that does other things as well. Inference is the forward pass, training is forward, backward and a
          step of SGD with momentum. Weights are random.
  memory  the largest, for weights, images, gradients and whatever torch needs: on a GPU what torch has allocated, on
          the CPU by how much a process of its own grows once Python and its libraries are loaded.

networks, without --models: those of Table 2 of the Π-NAS paper that timm has, and pinas_trans
  {' '.join(DEFAULT_MODELS)}
  The paper's SENet-50 and SKNet-50 have the parameters and FLOPs of seresnext50_32x4d and skresnext50_32x4d.

exit code:
  0, or 1 if a network could not be measured: its row says why, and the others are there

examples:
  pinas-models benchmark --threads 2 --markdown README.md
  pinas-models benchmark --device cuda --batch-size 128 --amp fp16 --channels-last --results-file b.csv --plot b.svg
  pinas-models benchmark --models resnet50 pinas_cls local-dir:runs/cifar10/retrain/winner/model --bench infer
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        '--models',
        nargs='+',
        default=list(DEFAULT_MODELS),
        metavar='MODEL',
        help='names of timm, local-dir:FOLDER or hf-hub:ORG/name (default: see below)',
    )
    parser.add_argument(
        '--reference', metavar='MODEL', help=f'ratios are to this one (default: {REFERENCE} or the first)'
    )
    parser.add_argument('--bench', choices=[*BENCHES, 'both'], default='both', help='what to measure (default: both)')
    parser.add_argument(
        '--size',
        type=positive,
        help="width and height of the images (default: the network's own; efficientnet_b3: 300, as in the paper)",
    )
    parser.add_argument('--threads', type=positive, help="CPU threads (default: torch's)")
    add_running_arguments(parser, batch_size=16)
    parser.add_argument('--repeats', type=positive, default=5, help='rounds (default: 5)')
    parser.add_argument(
        '--seconds', type=float, default=1.0, help='shortest measurement of a network in a round (default: 1)'
    )
    parser.add_argument('--results-file', type=Path, metavar='CSV', help="write a table in timm's columns")
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw a picture (.png, .svg, .pdf)')
    parser.add_argument(
        '--markdown',
        type=Path,
        metavar='FILE',
        help=f'put the table between the lines {MARKERS[0]} and {MARKERS[1]} of this file',
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print a row per network.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the options do not fit together, or no network could be measured.
    """
    _check(args)
    device = resolve_device(args.device)
    setup = Setup(
        batch_size=args.batch_size,
        device=str(device),
        dtype=args.dtype,
        amp=args.amp,
        channels_last=args.channels_last,
        compiler=args.compile,
        threads=args.threads,
    )
    contenders = [_contender(name, args.size) for name in dict.fromkeys(args.models)]
    benches = BENCHES if args.bench == 'both' else (args.bench,)
    _measure(contenders, benches, setup, args)
    benchmark = Benchmark(
        contenders, _reference(contenders, args.reference), benches, setup, args.repeats, _machine(setup)
    )
    if args.results_file is not None:
        write_results(args.results_file, benchmark)
    if args.plot is not None:
        plot_benchmark(args.plot, benchmark)
    if args.markdown is not None:
        replace_in_markdown(args.markdown, benchmark)
    print(text_table(benchmark))
    return 1 if any(contender.errors for contender in contenders) else 0


def _check(args: argparse.Namespace) -> None:
    """Find mistakes now that would otherwise be found after the measurements."""
    if args.amp is not None and args.dtype != 'fp32':
        raise ValueError(f'--amp needs fp32 weights, but --dtype is {args.dtype}: use one of the two')
    if args.seconds < 0:
        raise ValueError(f'--seconds is {args.seconds}; it must be 0 or more')
    if args.compile is not None and args.compile not in (known := [*torch.compiler.list_backends(), 'eager']):
        raise ValueError(f'there is no compiler {args.compile!r} here; there are {", ".join(known)}')
    if args.reference is not None and args.reference not in args.models:
        raise ValueError(f'--reference {args.reference} is not among the models')
    if args.results_file is not None:
        check_results_file(args.results_file)
    if args.plot is not None:
        check_plot_file(args.plot)
    if args.markdown is not None:
        check_markdown_file(args.markdown)


def _contender(name: str, size: int | None) -> Contender:
    """Open and count a network; what is wrong with it goes into its row."""
    try:
        model = open_untrained(name)
        channels, height, width = get_model_input_config(model)['input_size']
        if size := size or DEFAULT_SIZES.get(name.partition('.')[0]):
            height = width = size
        return Contender(name, model, (channels, height, width), measure_costs(model, (channels, height, width)))
    except (OSError, ValueError) as error:
        warnings.warn(one_line(error), stacklevel=2)
        return Contender(name, errors={'open': one_line(error)})


def _measure(contenders: Sequence[Contender], benches: Sequence[str], setup: Setup, args: argparse.Namespace) -> None:
    opened = sum(contender.model is not None for contender in contenders)
    if not opened:
        raise ValueError('none of the networks can be opened')
    total = opened * len(benches) * (1 + args.repeats)
    with Progress('benchmark', total, unit='measurement', seconds=0) as progress:

        def tell(note: str) -> None:
            progress.update(note=note)

        measure_peaks(contenders, benches, setup, tell)
        measure_speeds(contenders, benches, setup, repeats=args.repeats, seconds=args.seconds, progress=tell)


def _reference(contenders: Sequence[Contender], name: str | None) -> Contender | None:
    """The network that ratios are to: the one asked for, else ResNeSt-50, else the first that ran."""
    measured = {contender.name: contender for contender in contenders if contender.speeds}
    first = next(iter(measured), None)
    return measured.get(name or (REFERENCE if REFERENCE in measured else first) or '')


def _machine(setup: Setup) -> str:
    """Hardware, versions and date in one line."""
    if setup.device.startswith('cuda'):
        hardware = torch.cuda.get_device_name(setup.device)
    else:
        cpuinfo = Path('/proc/cpuinfo')
        lines = cpuinfo.read_text(encoding='utf-8').splitlines() if cpuinfo.exists() else []
        names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
        threads = setup.threads or torch.get_num_threads()
        hardware = f'{next(iter(names), platform.machine())}, {os.cpu_count()} cores, {threads} thread(s)'
    versions = ', '.join(f'{package} {version(package)}' for package in ('torch', 'timm', 'pinas-models'))
    return f'{hardware}, {versions}, {date.today()}'
