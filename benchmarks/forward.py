"""Forward time of ``pinas_resnest50`` against timm's ``resnest50d``: the same network, the same weights, in eval mode.

The outputs are compared before anything is timed. The networks run alternately, so that a busy machine slows all alike,
and a second copy of timm's network shows how far a ratio strays from 1 by noise alone.
"""

import argparse
import copy
import statistics
import time

import timm
import torch
from hardware import description
from torch import nn

import pinas_models  # noqa: F401 - registers the models


def build(batch_size: int, size: int, channels_last: bool, device: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Both networks with equal weights, and an input that they give equal outputs for.

    Args:
        batch_size: Images per batch.
        size: Side of the images in pixels.
        channels_last: Use the channels-last memory format.
        device: Where to run.

    Returns:
        timm's network, ours, the input.

    Raises:
        SystemExit: If the outputs differ.
    """
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    theirs = timm.create_model('resnest50d', zero_init_last=False)
    ours = timm.create_model('pinas_resnest50')
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs, ours = (m.eval().to(device, memory_format=memory_format) for m in (theirs, ours))
    x = torch.randn(batch_size, 3, size, size).to(device, memory_format=memory_format)
    expected, actual = theirs(x), ours(x)
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not difference < 1e-5:
        raise SystemExit(f'the outputs differ by {difference:.1e} of the largest logit: nothing to compare')
    print(f'outputs equal: largest difference {difference:.1e} of the largest logit')
    return theirs, ours, x


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """Time one forward pass."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    """Print the medians and the ratios; 1.0 and more means as fast as timm or faster."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/forward.py --threads 1 --batch-size 8 --repeats 15',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per batch')
    parser.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    parser.add_argument('--repeats', type=int, default=15, help='timed passes per network')
    parser.add_argument('--warmup', type=int, default=3, help='untimed passes per network')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--channels-last', action='store_true', help='use the channels-last memory format')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    layout = 'channels last' if args.channels_last else 'contiguous'
    print(description(args.device))
    print(f'fp32, batch {args.batch_size} of {args.size}x{args.size}, {layout}, medians of {args.repeats} passes')
    theirs, ours, x = build(args.batch_size, args.size, args.channels_last, args.device)
    models = {'timm resnest50d': theirs, 'pinas_resnest50': ours, 'timm, second copy': copy.deepcopy(theirs)}
    times = {name: [] for name in models}
    for i in range(args.warmup + args.repeats):
        order = list(models)[i % 3 :] + list(models)[: i % 3]  # none always runs behind the same other
        for name in order:
            elapsed = seconds(models[name], x)
            if i >= args.warmup:
                times[name].append(elapsed)
    for name, values in times.items():
        median = statistics.median(values)
        speed = args.batch_size / median
        print(f'{name:18} {median * 1000:9.1f} ms, {speed:7.1f} images/s  (fastest {min(values) * 1000:.1f} ms)')
    reference, *others = times
    for name in others:
        # A ratio per round: neighbouring passes saw the same load of the machine.
        ratios = sorted(a / b for a, b in zip(times[reference], times[name], strict=True))
        print(f'ratio timm / {name:18} {statistics.median(ratios):.3f}  ({ratios[0]:.3f} .. {ratios[-1]:.3f})')


if __name__ == '__main__':
    main()
