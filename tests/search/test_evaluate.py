"""Candidate evaluation: what is scored, on which images, with which statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pinas_search.augment import normalize
from pinas_search.config import DataConfig, EvaluateConfig, ViewConfig
from pinas_search.data import InMemoryImages
from pinas_search.evaluate import CandidateEvaluator
from pinas_search.recalibrate import recalibrate_bn
from pinas_search.spaces import mini
from pinas_search.supernets import ResNeStSupernet

PATH = (3, 1, 0, 2, 2, 0, 1, 3)
WHOLE = ViewConfig(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0
)
DATA = DataConfig()


@pytest.fixture
def supernet() -> ResNeStSupernet:
    torch.manual_seed(0)
    return ResNeStSupernet(mini())


def images(count: int, classes: int, seed: int) -> InMemoryImages:
    """Images sorted by class, as folders list them; a class has a brightness of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) * classes // count
    noise = torch.randint(0, 40, (count, 3, 32, 32), generator=generator)
    return InMemoryImages((noise + labels.view(-1, 1, 1, 1) * 200 // classes).to(torch.uint8), labels)


def evaluator(supernet: ResNeStSupernet, train: InMemoryImages, held_out: InMemoryImages, **options):
    torch.manual_seed(1)
    head = nn.Linear(supernet.num_features, 4)
    result = CandidateEvaluator(
        supernet,
        head,
        train,
        held_out,
        data=DATA,
        config=EvaluateConfig(**options),
        views=WHOLE,
        seed=0,
        autocast=lambda: torch.autocast('cpu', enabled=False),
    )
    return result, head


@torch.no_grad()
def test_score_is_the_accuracy_after_recalibration_on_the_training_images(supernet: ResNeStSupernet) -> None:
    train, held_out = images(64, 4, 0), images(60, 4, 1)
    score = evaluator(supernet, train, held_out, batches=1, batch_size=64)
    measured = [score[0].score(PATH) for _ in range(2)]

    def whole(source: InMemoryImages) -> torch.Tensor:
        (batch,) = source.center_crops([torch.arange(len(source))])
        return normalize(batch.images, DATA.mean, DATA.std)

    recalibrate_bn(supernet, PATH, [whole(train)])
    logits = score[1](supernet(whole(held_out), PATH).mean((2, 3)))
    expected = float((logits.argmax(1) == held_out.labels).float().mean())
    assert measured == pytest.approx([expected, expected])
    assert (score[0].num_calibration, score[0].num_scored) == (64, 60)


def test_few_calibration_images_come_from_all_classes(supernet: ResNeStSupernet) -> None:
    """The mean of the stem's input tells which images were used: those of the first folder alone are much darker."""
    train = images(4000, 4, 0)
    evaluator(supernet, train, images(8, 4, 1), batches=2, batch_size=100)[0].score(PATH)
    few = supernet.conv1[1].running_mean.clone()
    evaluator(supernet, train, images(8, 4, 1), batches=40, batch_size=100)[0].score(PATH)
    every = supernet.conv1[1].running_mean.clone()
    evaluator(supernet, train.subset(torch.arange(1000)), images(8, 4, 1), batches=2, batch_size=100)[0].score(PATH)
    first_class = supernet.conv1[1].running_mean
    # 200 random images: the mean brightness of four equally likely classes has 4 % of the spread between the extremes.
    assert (few - every).norm() < 0.3 * (first_class - every).norm()


def test_the_order_of_candidates_does_not_matter(supernet: ResNeStSupernet) -> None:
    score, _ = evaluator(supernet, images(128, 4, 0), images(80, 4, 1), batches=2, batch_size=64)
    other = (0,) * 8
    first = score.score(PATH), score.score(other)
    assert (score.score(other), score.score(PATH)) == first[::-1]


def test_max_images(supernet: ResNeStSupernet) -> None:
    score, _ = evaluator(supernet, images(64, 4, 0), images(80, 4, 1), batches=1, batch_size=32, max_images=40)
    assert score.num_scored == 40
    assert score.score(PATH) * 40 == pytest.approx(round(score.score(PATH) * 40))


def test_without_recalibration_it_warns_and_leaves_the_statistics_alone(supernet: ResNeStSupernet) -> None:
    with pytest.warns(UserWarning, match='recalibrate is off'):
        score, _ = evaluator(supernet, images(64, 4, 0), images(8, 4, 1), recalibrate=False)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    score.score(PATH)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert score.num_calibration == 0


def test_no_held_out_images(supernet: ResNeStSupernet) -> None:
    with pytest.raises(ValueError, match='held_out_per_class above 0'):
        evaluator(supernet, images(64, 4, 0), images(64, 4, 1).subset(torch.arange(0)))
