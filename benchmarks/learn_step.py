"""Learning step of Π-NAS on the 4^16 supernet against a plain re-statement of the authors' loop.

Losses and teachers of both are compared before anything is timed; the two run alternately. The share of the time inside
the students' and teachers' forward and backward passes is measured in the same run.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hardware import description
from torch import nn

from pinas_search.methods import SupernetPi
from pinas_search.randomness import generator
from pinas_search.spaces import ChoicePath, mini, resnest50
from pinas_search.supernets import ResNeStSupernet


def plain_step(method: SupernetPi, views: torch.Tensor, paths: tuple[ChoicePath, ChoicePath]) -> torch.Tensor:
    """The authors' iteration written down as it reads: one parameter, one query after the other."""
    student, teacher = method.encoder_q, method.encoder_k
    q, k = [], []
    for i, path in enumerate(paths):
        q.append(F.normalize(student[1](student[0](views[2 * i], path).mean((2, 3))), dim=1))
        with torch.no_grad():
            modules = zip(
                [*student[0].path_modules(path), student[1]], [*teacher[0].path_modules(path), teacher[1]], strict=True
            )
            for source, target in modules:
                for p_q, p_k in zip(source.parameters(), target.parameters(), strict=True):
                    p_k.data = p_k.data * method.momentum + p_q.data * (1 - method.momentum)
            k.append(F.normalize(teacher[1](teacher[0](views[2 * i + 1], path).mean((2, 3))), dim=1))
    loss = 0
    for query, key in ((q[0], k[1]), (q[1], k[0])):
        positive = torch.einsum('nc,nc->n', query, key).unsqueeze(-1)
        negative = torch.einsum('nc,ck->nk', query, method.queue.clone().detach())
        logits = torch.cat((positive, negative), dim=1) / method.temperature
        loss = loss + F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
    start, n = int(method.queue_ptr), len(k[0])
    method.queue[:, start : start + n] = ((k[0] + k[1]) / 2).transpose(0, 1)
    method.queue_ptr[0] = (start + n) % method.queue.shape[1]
    return loss


class Stopwatch:
    """Seconds inside the supernets and necks."""

    def __init__(self, method: SupernetPi) -> None:
        self.seconds = 0.0
        for module in (*method.encoder_q, *method.encoder_k):
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, module: nn.Module, args: object) -> None:
        self.begin = time.perf_counter()

    def _stop(self, module: nn.Module, args: object, output: object) -> None:
        self.seconds += time.perf_counter() - self.begin


def run(
    method: SupernetPi,
    optimizer: torch.optim.Optimizer,
    step: Callable[[torch.Tensor, tuple[ChoicePath, ChoicePath]], torch.Tensor],
    views: torch.Tensor,
    number: int,
) -> tuple[float, float, float]:
    """One whole iteration: (loss, seconds, seconds of backward)."""
    begin = time.perf_counter()
    paths = method.sample_paths(generator(0, 'paths', number))
    loss = step(views, paths)
    optimizer.zero_grad(set_to_none=True)
    middle = time.perf_counter()
    loss.backward()
    backward = time.perf_counter() - middle
    optimizer.step()
    return loss.item(), time.perf_counter() - begin, backward


def main() -> None:
    """Print the ratio (1.0 and more: ours is as fast or faster) and the share of the networks."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/learn_step.py --threads 2 --batch-size 8 --size 128 --repeats 7',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--space', choices=['resnest50', 'mini'], default='resnest50', help='search space')
    parser.add_argument('--batch-size', type=int, default=8, help='images per step, four views each')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels')
    parser.add_argument('--queue-size', type=int, default=49152, help='negatives')
    parser.add_argument('--repeats', type=int, default=7, help='timed steps of each')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads of torch')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(description())
    space = {'resnest50': resnest50, 'mini': mini}[args.space]()
    queue_size = args.queue_size // args.batch_size * args.batch_size
    ours = SupernetPi(ResNeStSupernet(space), queue_size=queue_size)
    plain = copy.deepcopy(ours)
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.03, momentum=0.9, weight_decay=1e-4)
        for m in (ours, plain)
    ]
    steps = (ours.training_step, lambda views, paths: plain_step(plain, views, paths))
    views = torch.randn(4, args.batch_size, 3, args.size, args.size, generator=generator(0, 'views'))

    losses = [run(m, o, s, views, 0)[0] for m, o, s in zip((ours, plain), optimizers, steps, strict=True)]
    teachers = zip(ours.encoder_k.parameters(), plain.encoder_k.parameters(), strict=True)
    difference = max(float((a - b).abs().max()) for a, b in teachers)
    if abs(losses[0] - losses[1]) > 1e-4 or difference > 1e-6:
        raise SystemExit(f'the two steps differ: losses {losses}, teachers by {difference:.1e}')
    print(f'equal after a step: losses {losses[0]:.6f} and {losses[1]:.6f}, teachers within {difference:.1e}')

    watch = Stopwatch(ours)
    times: tuple[list[float], list[float]] = ([], [])
    shares = []
    for number in range(1, args.repeats + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            watch.seconds = 0.0
            method, optimizer, step = (ours, plain)[which], optimizers[which], steps[which]
            _, seconds, backward = run(method, optimizer, step, views, number)
            times[which].append(seconds)
            if which == 0:
                shares.append((watch.seconds + backward) / seconds)
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    print(f'{args.space}, batch {args.batch_size} of {args.size}x{args.size}, queue {queue_size}, {args.repeats} steps')
    print(f'ours {statistics.median(times[0]) * 1e3:.0f} ms, plain {statistics.median(times[1]) * 1e3:.0f} ms')
    print(f'ratio plain / ours {statistics.median(ratios):.3f}  ({ratios[0]:.3f} .. {ratios[-1]:.3f})')
    print(f'inside forward and backward of students and teachers: {statistics.median(shares):.1%}')


if __name__ == '__main__':
    main()
