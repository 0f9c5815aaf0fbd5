"""Two ranks against one process at the same global batch, and the bytes that they exchange against DDP's.

Before anything is timed, loss and gradients of two ranks are compared with those of one process (BN in eval mode, since
each rank has batch statistics of its own). One process and two ranks then run in turns, each with one thread per
process; two ranks time the same under DistributedDataParallel as well. Bytes are counted where tensors are handed to
torch.distributed, and for DDP in its buckets.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hardware import description
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from pinas_search import distributed
from pinas_search.methods import PathMethod, SupernetPi
from pinas_search.methods.spos import Spos
from pinas_search.randomness import generator, seeded_scope
from pinas_search.spaces import mini, resnest50
from pinas_search.supernets import ResNeStSupernet

SPACES = {'mini': mini, 'resnest50': resnest50}
UNTIMED = 2  # steps; DDP makes its buckets anew after the first


class Counter:
    """Counts the bytes that this rank hands to torch.distributed."""

    def __init__(self) -> None:
        self.bytes = 0
        dist.all_reduce = self._counting(dist.all_reduce, 0)
        dist.all_gather = self._counting(dist.all_gather, 1)

    def _counting(self, function: Any, place: int) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.bytes += args[place].numel() * args[place].element_size()
            return function(*args, **kwargs)

        return counted

    def of_bucket(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """DDP's own reduction of a bucket, counted; DDP does not call ``dist.all_reduce``."""
        self.bytes += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(dist.group.WORLD, bucket)


class Whole(nn.Module):
    """A training step as the forward pass that DDP wants."""

    def __init__(self, method: PathMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, *arguments: Any) -> torch.Tensor:
        """The loss."""
        return self.method.training_step(*arguments)


def build(args: argparse.Namespace) -> PathMethod:
    """The method around a supernet, the same weights each time."""
    with seeded_scope(0, 'benchmark'):
        supernet = ResNeStSupernet(SPACES[args.space]())
        method = SupernetPi(supernet, queue_size=64 * args.batch_size) if args.method == 'pinas' else Spos(supernet, 10)
    return method.to(memory_format=torch.channels_last)


def batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's views [V, N, 3, S, S] and labels [N]."""
    count, numbers = args.batch_size // distributed.size(), generator(0, 'views')
    mine = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    views = torch.randn(4, args.batch_size, 3, args.size, args.size, generator=numbers)
    labels = torch.randint(10, (args.batch_size,), generator=numbers)
    return views[: 4 if args.method == 'pinas' else 1, mine], labels[mine]


def gradients(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step, BN in eval mode."""
    method, (views, labels) = build(args).eval(), batch(args)
    loss = method.training_step(views, method.sample_paths(generator(0, 'paths')), labels)
    loss.backward()
    distributed.reduce_gradients(method.parameters())
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return {'loss': distributed.mean(loss), **found}


def time_steps(args: argparse.Namespace, counter: Counter, ddp: bool) -> tuple[float, float]:
    """Seconds and bytes of a training step."""
    method, (views, labels) = build(args).train(), batch(args)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.03, momentum=0.9, weight_decay=1e-4)
    step: nn.Module = Whole(method)
    if ddp:
        step = DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)
        step.register_comm_hook(None, counter.of_bucket)
    seconds, sent = [], []
    for number in range(args.steps + UNTIMED):
        paths = method.sample_paths(generator(0, 'paths', number))
        begin, counter.bytes = time.perf_counter(), 0
        step(views, paths, labels).backward()
        if not ddp:
            distributed.reduce_gradients(trained)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        sent.append(counter.bytes)
    return statistics.median(seconds[UNTIMED:]), statistics.mean(sent[UNTIMED:])


def work(args: argparse.Namespace) -> None:
    """What a process does; the first rank writes down what it found."""
    torch.set_num_threads(1)
    with distributed.joined(torch.device('cpu'), 600.0):
        counter, found = Counter(), {'gradients': gradients(args)}
        found['ours'] = time_steps(args, counter, ddp=False)
        if distributed.size() > 1:
            found['ddp'] = time_steps(args, counter, ddp=True)
        if distributed.rank() == 0:
            torch.save(found, args.worker)


def start(args: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """Run ``work`` in one process or several; return what the first one found."""
    settings = {'space': args.space, 'method': args.method, 'batch-size': args.batch_size, 'size': args.size}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'found.pt'
        launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(ranks)] if ranks > 1 else []
        command = [sys.executable, *launcher, __file__, f'--worker={file}', f'--steps={args.steps}']
        environment = {'GLOO_SOCKET_IFNAME': 'lo', 'OMP_WAIT_POLICY': 'PASSIVE', **os.environ, 'OMP_NUM_THREADS': '1'}
        subprocess.run([*command, *(f'--{k}={v}' for k, v in settings.items())], env=environment, check=True)
        return torch.load(file)


def compare(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Make sure that two ranks computed what one process computes."""
    if one.keys() != two.keys():
        raise SystemExit('two ranks have gradients of other weights than one process')
    loss = abs(float(one.pop('loss') - two.pop('loss')))
    errors = sum(float((one[name] - two[name]).square().sum()) for name in one)
    difference = (errors / sum(float(gradient.square().sum()) for gradient in one.values())) ** 0.5
    if loss > 1e-5 or difference > 1e-5:
        raise SystemExit(f'two ranks differ from one process: loss by {loss:.1e}, gradients by {difference:.1e}')
    print(f'equal with BN in eval mode: losses within {loss:.1e}, gradients within {difference:.1e} of their norm')


def main() -> None:
    """Print the speed of two ranks and the share of DDP's bytes."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/ranks.py --method spos --rounds 3',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--space', choices=SPACES, default='mini', help='search space')
    parser.add_argument('--method', choices=['pinas', 'spos'], default='pinas', help='how the supernet is trained')
    parser.add_argument('--batch-size', type=int, default=128, help='images per step on all ranks together')
    parser.add_argument('--size', type=int, default=32, help='side of the images in pixels')
    parser.add_argument('--steps', type=int, default=10, help='timed steps of each')
    parser.add_argument('--rounds', type=int, default=3, help='times that they take turns')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    torch.set_num_threads(1)
    print(f'{description()} per process')
    print(f'{args.space}, {args.method}, batch {args.batch_size} of {args.size}x{args.size}, {args.steps} steps')
    found: dict[str, list[tuple[float, float]]] = {'one process': [], 'two ranks': [], 'two ranks, DDP': []}
    for number in range(args.rounds):
        one, two = start(args, 1), start(args, 2)
        if number == 0:
            compare(one['gradients'], two['gradients'])
        for name, figures in zip(found, (one['ours'], two['ours'], two['ddp']), strict=True):
            found[name].append(figures)
    for name, rounds in found.items():
        milliseconds = statistics.median(seconds for seconds, _ in rounds) * 1e3
        print(f'{name:15}{milliseconds:8.0f} ms/step, {rounds[0][1] / 1e6:.2f} MB/step from each rank')
    for name in ('two ranks', 'two ranks, DDP'):
        ratios = [a / b for (a, _), (b, _) in zip(found['one process'], found[name], strict=True)]
        print(f'ratio one process / {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})')
    ours, theirs = (found[name][0][1] for name in ('two ranks', 'two ranks, DDP'))
    print(f'bytes, ours / DDP: {ours / theirs:.1%}')


if __name__ == '__main__':
    main()
