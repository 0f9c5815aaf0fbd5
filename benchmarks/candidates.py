"""Candidates per minute with the images in memory, against a loader that re-reads and augments them for each candidate.

The two score the same supernet. Their scores are compared on undistorted images before anything is timed.

Then rounds of candidates that are scored together, against one by one (``share_prefixes: false``): random ones, and
mutants of ten elites (each position drawn anew with a probability of 0.1, all distinct). Scores are compared first. CPU
time; one by one is timed on some candidates of the round, in turns with the rounds, because it is the same for each on
average.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from hardware import description
from PIL import Image
from timm.data import create_dataset
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from pinas_search.config import Config, DataConfig, EvaluateConfig, LinearConfig, SearchConfig, ViewConfig
from pinas_search.data import ImageSource, Splits, load_splits
from pinas_search.randomness import generator
from pinas_search.recalibrate import recalibrate_bn
from pinas_search.scoring import CandidateEvaluator, judge, unpack
from pinas_search.spaces import Space, mini
from pinas_search.supernets import ResNeStSupernet
from pinas_search.testing import GivenRun

PLAIN = ViewConfig(scale=(0.2, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0)
WHOLE = ViewConfig(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0
)


def write_images(root: Path, per_class: int) -> None:
    """Ten classes of random 32-pixel PNG images."""
    random = generator(0, 'images')
    for label in range(10):
        folder = root / 'train' / f'class{label}'
        folder.mkdir(parents=True)
        for i in range(per_class):
            pixels = torch.randint(0, 200 + 5 * label, (32, 32, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f'{i:05d}.png')


class LoaderEvaluator:
    """The same evaluation through a ``DataLoader``, as NAS code usually does it."""

    def __init__(
        self,
        supernet: ResNeStSupernet,
        classifier: nn.Linear,
        root: Path,
        held_out: int,
        data: DataConfig,
        workers: int,
    ) -> None:
        self.supernet, self.classifier, self.data, self.workers = supernet, classifier, data, workers
        self.dataset = create_dataset('', root=str(root), split='train')
        self.held_out = [i for i in range(len(self.dataset)) if i % 10 < held_out]
        self.train = [i for i in range(len(self.dataset)) if i % 10 >= held_out]

    def batches(self, indices: list[int], augment: bool, batch_size: int) -> DataLoader:
        """Batches that are read from the files anew."""
        random = [v2.RandomResizedCrop(32, scale=PLAIN.scale, antialias=True), v2.RandomHorizontalFlip()]
        self.dataset.transform = v2.Compose(
            [
                v2.ToImage(),
                *(random if augment else []),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.data.mean, self.data.std),
            ]
        )
        subset = torch.utils.data.Subset(self.dataset, indices)
        return DataLoader(subset, batch_size, num_workers=self.workers)

    def score(self, path: tuple[int, ...], calibration: list[int], augment: bool, batch_size: int) -> float:
        """Recalibrate on ``calibration`` images, score on the held-out ones."""
        with torch.no_grad():
            recalibrate_bn(self.supernet, path, (x for x, _ in self.batches(calibration, augment, batch_size)))
            network = lambda x: self.classifier(self.supernet(x, path).mean((2, 3)))  # noqa: E731
            return judge(network, self.batches(self.held_out, False, batch_size)).accuracy


def round_of(space: Space, kind: str, size: int, number: int) -> list[tuple[int, ...]]:
    """Distinct candidates, random or mutants of ten random elites."""
    numbers = generator(0, f'round/{kind}', number)
    elites = [space.sample(numbers) for _ in range(10)]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < size:
        path = space.sample(numbers)
        if kind == 'mutants':
            elite = elites[int(torch.randint(10, (), generator=numbers))]
            changed = torch.rand(len(path), generator=numbers) < 0.1
            path = tuple(new if change else old for new, old, change in zip(path, elite, changed, strict=True))
        found[path] = None
    return list(found)


def score_rounds(
    args: argparse.Namespace, space: Space, together: CandidateEvaluator, alone: CandidateEvaluator
) -> None:
    """Print the factor between scoring rounds together and one by one."""
    paths = round_of(space, 'random', 4, 100)
    largest, turned = 0.0, 0
    for one, two in zip(together.score(paths), alone.score(paths), strict=True):
        largest = max(largest, abs(one.extra['cross_entropy'] / two.extra['cross_entropy'] - 1))
        turned += int((unpack(one.correct) != unpack(two.correct)).sum())
    if largest > 1e-5 or turned > 4:
        raise SystemExit(f'the scores differ: cross-entropy by {largest:.1e}, top-1 of {turned} images')
    print(f'equal together and one by one: cross-entropy to {largest:.1e}, top-1 but for {turned} near-ties')
    for kind in ('random', 'mutants'):
        factors = []
        for number in range(args.rounds):
            paths = round_of(space, kind, args.round, number)
            begin = time.process_time()
            together.score(paths)
            middle = time.process_time()
            few = paths[:: max(1, len(paths) // args.one_by_one)]
            alone.score(few)
            end = time.process_time()
            factors.append((end - middle) / len(few) / ((middle - begin) / len(paths)))
            print(
                f'round of {len(paths)} {kind}: together {(middle - begin) / len(paths):.3f} s each, one by one '
                f'{(end - middle) / len(few):.3f} s ({len(few)} measured), {factors[-1]:.2f}x',
                flush=True,
            )
        print(f'{kind}: {statistics.median(factors):.2f}x  ({min(factors):.2f} .. {max(factors):.2f})')


def main() -> None:
    """Print candidates per minute of both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/candidates.py --threads 2 --workers 2 --candidates 5',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--images-per-class', type=int, default=600, help='images of each of 10 classes')
    parser.add_argument('--batches', type=int, default=16, help='calibration batches')
    parser.add_argument('--batch-size', type=int, default=256, help='images per batch')
    parser.add_argument('--candidates', type=int, default=5, help='timed candidates of each')
    parser.add_argument('--round', type=int, default=50, help='candidates of a round')
    parser.add_argument('--rounds', type=int, default=2, help='timed rounds of each kind')
    parser.add_argument('--one-by-one', type=int, default=10, help='candidates of a round that are timed one by one')
    parser.add_argument('--only-rounds', action='store_true', help='leave out the loader')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads of torch')
    parser.add_argument('--workers', type=int, default=2, help='worker processes of the loader')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(description())
    space = mini()
    supernet = ResNeStSupernet(space).to(memory_format=torch.channels_last)
    classifier = nn.Linear(supernet.num_features, 10)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images_per_class)
        data = DataConfig(source='folder', root=folder, test_split='', held_out_per_class=args.images_per_class // 5)
        splits = load_splits(data, seed=0, device=torch.device('cpu'))

        def in_memory(
            views: ViewConfig, train: ImageSource, held_out: ImageSource, batches: int, batch_size: int, share: bool
        ) -> CandidateEvaluator:
            evaluate = EvaluateConfig(batches=batches, batch_size=batch_size, share_prefixes=share)
            search = SearchConfig(evaluate=evaluate)
            config = Config(device='cpu', data=data, linear=LinearConfig(views=views), search=search)
            given = Splits(train, held_out, splits.full_train, None, splits.class_names)
            return CandidateEvaluator(GivenRun(config, Path(folder), supernet, classifier, given))

        loader = LoaderEvaluator(supernet, classifier, Path(folder), 2, data, args.workers)
        paths = [space.sample(generator(0, 'paths', i)) for i in range(args.candidates + 1)]
        # Equality: one batch of undistorted images each, so that neither order nor augmentation differs.
        train, held_out = (splits.full_train.subset(i) for i in (loader.train[:256], loader.held_out))
        ours = in_memory(WHOLE, train, held_out, 1, 256, True).score(paths[:1])[0].extra['accuracy']
        theirs = loader.score(paths[0], loader.train[:256], augment=False, batch_size=256)
        if abs(ours - theirs) > 1.5 / len(loader.held_out):  # rounding may turn one near-tie
            raise SystemExit(f'the scores differ: {ours} and {theirs}')
        print(f'equal on undistorted images: {ours:.4f} and {theirs:.4f} over {len(loader.held_out)} images')

        train = splits.full_train.subset(loader.train)
        evaluator, alone = (
            in_memory(PLAIN, train, held_out, args.batches, args.batch_size, share) for share in (True, False)
        )
        score_rounds(args, space, evaluator, alone)
        if args.only_rounds:
            return
        calibration = loader.train[: evaluator.num_calibration]
        evaluator.score(paths[:1])  # prepares the batches, once per search
        loader.score(paths[0], calibration, True, args.batch_size)
        times: tuple[list[float], list[float]] = ([], [])
        for path in paths[1:]:
            begin = time.perf_counter()
            evaluator.score([path])
            middle = time.perf_counter()
            loader.score(path, calibration, True, args.batch_size)
            times[0].append(middle - begin)
            times[1].append(time.perf_counter() - middle)
    print(f'{len(calibration)} calibration and {len(loader.held_out)} held-out images, {args.workers} loader workers')
    for name, values in zip(('in memory', 'loader'), times, strict=True):
        print(f'{name:10} {60 / statistics.median(values):6.1f} candidates per minute')
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    print(f'ratio {statistics.median(ratios):.2f}  ({ratios[0]:.2f} .. {ratios[-1]:.2f})')


if __name__ == '__main__':
    main()
