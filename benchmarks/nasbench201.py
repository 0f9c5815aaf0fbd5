"""NAS-Bench-201: scoring many cells, a training step, and ranking statistics, each beside a plain way in the same run.

    python benchmarks/nasbench201.py --threads 1

1. Scores of cells on shared images: ``run_many``, which computes shared results once, beside a loop through
   ``forward``; and both beside a plain supernet in which the edges of a path run without skipping. Equal: all scores, bit for bit.
2. A SPOS step: this supernet, which runs one operation per edge, beside the plain one of the benchmark's authors, which
   weights all five operations of each edge by 0 and 1. Equal: loss and gradients, to rounding.
3. ``correlate``'s statistics for 15,625 networks with made-up scores, beside a tau computed from scratch per sample.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from hardware import processor
from scipy import stats
from torch import nn
from torch.nn import functional as F

from pinas_search.scoring.ranking import kendall_tau_interval, ranking_report, trivial_predictors
from pinas_search.spaces import nasbench201
from pinas_search.spaces.nasbench201_network import EDGES
from pinas_search.supernets import NASBench201Supernet
from pinas_search.supernets.nasbench201 import SearchCell


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--cells', type=int, default=729, help='cells of the 729 that are scored')
    parser.add_argument('--images', type=int, default=3000)
    parser.add_argument('--batch-size', type=int, default=250)
    parser.add_argument('--channels', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--samples', type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f'{processor()}, {args.threads} thread(s), torch {torch.__version__}')
    score_cells(args)
    train_step(args)
    correlate(args)


def score_cells(args: argparse.Namespace) -> None:
    """Features' accuracy of a random classifier for every cell: what counts is the time."""
    torch.manual_seed(0)
    supernet = NASBench201Supernet(nasbench201(args.channels, 1)).eval()
    classifier = nn.Linear(supernet.num_features, 10)
    cells = list(itertools.product((2, 3, 4), repeat=6))
    cells = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))[: args.cells]]
    images = torch.rand(args.images, 3, 32, 32).split(args.batch_size)
    labels = torch.randint(10, (args.images,)).split(args.batch_size)

    def correct(feature_map: torch.Tensor, target: torch.Tensor) -> int:
        return int((classifier(supernet.features(feature_map)).argmax(1) == target).sum())

    def plain() -> dict[tuple[int, ...], int]:
        return {c: sum(correct(supernet(x, c), t) for x, t in zip(images, labels, strict=True)) for c in cells}

    def shared() -> dict[tuple[int, ...], int]:
        scores = dict.fromkeys(cells, 0)
        for x, target in zip(images, labels, strict=True):
            for cell, feature_map in supernet.run_many(x, cells):
                scores[cell] += correct(feature_map, target)
        return scores

    with torch.inference_mode():
        seconds, results = _turns([plain, shared], 1)
    assert results[0] == results[1]
    print(
        f'scoring {len(cells)} cells on {args.images} images (N=1, C={args.channels}, batch statistics): plain '
        f'{seconds[0]:.1f} s, sharing {seconds[1]:.1f} s, {seconds[0] / seconds[1]:.2f}x; scores equal'
    )


def _all_operations(supernet: NASBench201Supernet, x: torch.Tensor, path: tuple[int, ...]) -> torch.Tensor:
    """The forward pass of the benchmark's authors: every operation times 0 or 1."""
    x = supernet.stem(x)
    weights = F.one_hot(torch.tensor(path), 5).to(x)
    for cell in supernet.cells:
        if not isinstance(cell, SearchCell):
            x = cell(x)
            continue
        nodes = [x, 0, 0, 0]
        for (source, target), operations, row in zip(EDGES, cell.edges.values(), weights, strict=True):
            nodes[target] = nodes[target] + sum(op(nodes[source]) * w for op, w in zip(operations, row, strict=True))
        x = nodes[-1]
    return supernet.lastact(x)


def train_step(args: argparse.Namespace) -> None:
    """Steps over the same random paths."""
    torch.manual_seed(0)
    supernet = NASBench201Supernet(nasbench201(args.channels, 1)).train()
    classifier = nn.Linear(supernet.num_features, 10)
    images, labels = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))
    generator = torch.Generator().manual_seed(0)
    paths = [supernet.space.sample(generator) for _ in range(20)]
    optimizer = torch.optim.SGD([*supernet.parameters(), *classifier.parameters()], lr=0.0, momentum=0.9)

    def steps(forward: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for path in paths:
            optimizer.zero_grad()
            loss = F.cross_entropy(classifier(supernet.features(forward(images, path))), labels)
            loss.backward()
            optimizer.step()
            found += [loss.detach(), supernet.stem[0].weight.grad.clone()]
        return found

    seconds, results = _turns(
        [lambda: steps(lambda x, p: _all_operations(supernet, x, p)), lambda: steps(supernet)], args.repeats
    )
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)
    print(
        f'a SPOS step (batch 64, N=1, C={args.channels}): all operations {1e3 * seconds[0] / len(paths):.0f} ms, '
        f'one per edge {1e3 * seconds[1] / len(paths):.0f} ms, {seconds[0] / seconds[1]:.2f}x; losses, gradients equal'
    )


def correlate(args: argparse.Namespace) -> None:
    """The statistics of one table of the whole space."""
    space = nasbench201()
    paths = list(itertools.product(range(5), repeat=6))
    generator = np.random.default_rng(0)
    truth = generator.normal(size=len(paths)).round(3)
    scores = (truth + generator.normal(size=len(paths))).round(3)
    start = time.perf_counter()
    trivial = trivial_predictors(space, paths)
    ranking_report(scores, truth, np.random.default_rng(0), samples=args.samples, trivial=trivial)
    whole = time.perf_counter() - start

    def plain() -> tuple[float, float]:
        order, draws, taus = np.argsort(truth, kind='stable'), np.random.default_rng(0), []
        for _ in range(50):
            drawn = order[draws.integers(len(truth), size=len(truth))]
            taus.append(stats.kendalltau(scores[drawn], truth[drawn]).statistic)
        low, high = np.quantile(taus, [0.025, 0.975])
        return float(low), float(high)

    seconds, results = _turns([plain, lambda: kendall_tau_interval(scores, truth, np.random.default_rng(0), 50)], 3)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-12)
    print(
        f'correlate, {len(paths)} networks: everything with {args.samples} bootstrap samples and as many permutations '
        f'{whole:.1f} s; a bootstrap sample {20 * seconds[1]:.2f} ms, plain scipy {20 * seconds[0]:.2f} ms, '
        f'{seconds[0] / seconds[1]:.2f}x; intervals equal'
    )


def _turns(functions: list[Callable], repeats: int) -> tuple[list[float], list]:
    """Median seconds and results of functions that take turns."""
    times: list[list[float]] = [[] for _ in functions]
    results: list = [None] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            results[index] = function()
            times[index].append(time.perf_counter() - start)
    return [statistics.median(t) for t in times], results


if __name__ == '__main__':
    main()
