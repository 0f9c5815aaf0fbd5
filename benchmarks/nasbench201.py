"""NAS-Bench-201: scoring many cells, a training step, and ranking statistics, each beside a plain way in the same run.

    python benchmarks/nasbench201.py --threads 1

1. Scores of cells: ``CandidateEvaluator``, which computes once what cells share, beside a plain loop that recalibrates
   the module on each cell and runs it. Both with running statistics and with batch statistics in the cells, both on
   the same images in memory, channels-last. Equal: logits to 1e-5 of the largest, top-1 up to ties that are printed.
   The loop takes the same time for every cell on average, so ``--plain-cells`` of them are enough; the two take turns.
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
from pathlib import Path

import numpy as np
import torch
from hardware import description
from scipy import stats
from torch import nn
from torch.nn import functional as F

from pinas_search.config import Config, EvaluateConfig, SearchConfig
from pinas_search.data import InMemoryImages, Splits
from pinas_search.scoring import CandidateEvaluator, unpack
from pinas_search.scoring.ranking import kendall_tau_interval, ranking_report, trivial_predictors
from pinas_search.scoring.sharing import ManyPaths
from pinas_search.spaces import nasbench201
from pinas_search.spaces.nasbench201_network import EDGES
from pinas_search.supernets import NASBench201Supernet
from pinas_search.supernets.nasbench201 import SearchCell
from pinas_search.testing import GivenRun


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--cells', type=int, default=729, help='cells of the 729 that are scored')
    parser.add_argument('--chunk', type=int, default=81, help='cells that are scored together')
    parser.add_argument('--chunks', type=int, help='time this many of the chunks; all if not given')
    parser.add_argument('--plain-cells', type=int, default=27, help='cells that the plain loop is timed on')
    parser.add_argument('--calibration', type=int, default=2000, help='images that each cell is recalibrated on')
    parser.add_argument('--images', type=int, default=3000)
    parser.add_argument('--batch-size', type=int, default=250)
    parser.add_argument('--channels', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--samples', type=int, default=1000)
    parser.add_argument('--only-scores', action='store_true', help='leave out 2. and 3.')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(description())
    score_cells(args)
    if args.only_scores:
        return
    train_step(args)
    correlate(args)


def score_cells(args: argparse.Namespace) -> None:
    """Recalibrate and score cells with random weights on random images: what counts is the time."""
    cells = list(itertools.product((2, 3, 4), repeat=6))
    order = np.random.default_rng(0).permutation(len(cells))
    cells = sorted(cells[i] for i in order[: args.cells])
    chunks = [cells[i : i + args.chunk] for i in range(0, len(cells), args.chunk)][: args.chunks]
    few = np.random.default_rng(1).permutation(len(cells))[: min(args.plain_cells, len(cells))]
    for track in (True, False):
        _score_cells(args, track, chunks, [cells[i] for i in few])


@torch.no_grad()
def _score_cells(
    args: argparse.Namespace, track: bool, chunks: list[list[tuple[int, ...]]], sampled: list[tuple[int, ...]]
) -> None:
    """Time both ways with or without running statistics in the cells."""
    torch.manual_seed(0)
    space = nasbench201(args.channels, 1)
    supernet = NASBench201Supernet(space, track_running_stats=track).to(memory_format=torch.channels_last)
    classifier = nn.Linear(supernet.num_features, 10)
    start = time.process_time()
    evaluator = _evaluator(supernet, classifier, args)
    calibration, scored = [x for x, _ in evaluator._images.calibration()], list(evaluator._images.scored())
    images_time = time.process_time() - start  # once for all cells, in both ways
    labels = torch.cat([y for _, y in scored])

    def plain(cell: tuple[int, ...]) -> torch.Tensor:
        _recalibrate(supernet, cell, calibration)
        return torch.cat([classifier(supernet.features(supernet(x, cell))) for x, _ in scored])

    _check_scores(supernet, classifier, evaluator, {cell: plain(cell) for cell in sampled[:4]}, calibration, scored)
    plain_times, ours, count = [], 0.0, sum(map(len, chunks))
    for chunk, some in zip(chunks, np.array_split(np.array(sampled), len(chunks)), strict=True):
        start = time.process_time()
        evaluator.score(chunk)
        ours += time.process_time() - start
        for cell in some:
            start = time.process_time()
            logits = plain(tuple(cell.tolist()))
            F.cross_entropy(logits, labels), logits.argmax(1)
            plain_times.append(time.process_time() - start)
    per_cell = statistics.mean(plain_times)
    factor = (per_cell * count + images_time) / (ours + images_time)
    print(
        f'scoring {count} cells on {evaluator.num_scored} images after {evaluator.num_calibration} for calibration '
        f'(N=1, C={args.channels}, {"running" if track else "batch"} statistics, {args.chunk} cells at a time), CPU '
        f'time: plain {per_cell:.3f} s per cell (measured on {len(plain_times)}), ours {ours / count:.3f} s, images '
        f'{images_time:.1f} s once, {factor:.2f}x; scores equal'
    )


def _evaluator(supernet: NASBench201Supernet, classifier: nn.Linear, args: argparse.Namespace) -> CandidateEvaluator:
    """The evaluator on random images."""
    generator = torch.Generator().manual_seed(0)

    def source(count: int) -> InMemoryImages:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return InMemoryImages(pixels, torch.randint(10, (count,), generator=generator))

    evaluate = EvaluateConfig(batches=args.calibration // args.batch_size, batch_size=args.batch_size)
    config = Config(device='cpu', search=SearchConfig(evaluate=evaluate))
    train, names = source(args.calibration), tuple('abcdefghij')
    splits = Splits(train=train, held_out=source(args.images), full_train=train, test=None, class_names=names)
    return CandidateEvaluator(GivenRun(config, Path(), supernet, classifier, splits))


@torch.no_grad()
def _recalibrate(supernet: nn.Module, cell: tuple[int, ...], batches: list[torch.Tensor]) -> None:
    """What ``update_bn_stats`` of the Π-NAS authors does, as a loop through the module."""
    norms = [m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    supernet.train()
    for number, batch in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the average of what the batches give
        supernet(batch, cell)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    supernet.eval()


def _check_scores(
    supernet: NASBench201Supernet,
    classifier: nn.Linear,
    evaluator: CandidateEvaluator,
    expected: dict[tuple[int, ...], torch.Tensor],
    calibration: list[torch.Tensor],
    scored: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Compare logits and top-1 of both ways."""
    together = ManyPaths(supernet, expected)
    together.recalibrate(calibration)
    found: dict[tuple[int, ...], list[torch.Tensor]] = {cell: [] for cell in expected}
    for images, _ in scored:
        for cell, feature_map in together.run(images):
            found[cell].append(classifier(supernet.features(feature_map)).detach())
    labels = torch.cat([y for _, y in scored])
    scores = dict(zip(expected, evaluator.score(list(expected)), strict=True))
    for cell, logits in expected.items():
        difference = float((torch.cat(found[cell]) - logits).abs().max() / logits.abs().max())
        assert difference < 1e-5, f'{cell}: logits differ by {difference:.1e}'
        other = torch.from_numpy(unpack(scores[cell].correct)) != (logits.argmax(1) == labels)
        best = logits[other].topk(2).values
        assert bool(((best[:, 0] - best[:, 1]) < 2e-5 * logits.abs().max()).all()), f'{cell}: other images are right'
        if int(other.sum()):
            print(f'{cell}: {int(other.sum())} of {len(labels)} images have two best classes within rounding')


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
