"""Candidate evaluation: what is scored, on which images, with which statistics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pinas_search.config import Config, DataConfig, EvaluateConfig, LinearConfig, SearchConfig, ViewConfig
from pinas_search.data import InMemoryImages, Splits, normalize
from pinas_search.recalibrate import recalibrate_bn
from pinas_search.scoring import CandidateEvaluator, Judgement, judge, pack, unpack
from pinas_search.spaces import mini
from pinas_search.supernets import ResNeStSupernet
from pinas_search.testing import GivenRun

PATH = (3, 1, 0, 2, 2, 0, 1, 3)
WHOLE = ViewConfig(
    scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0
)
DATA = DataConfig()


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return ResNeStSupernet(mini())


def images(count, classes, seed):
    """Images sorted by class, as folders list them; a class has a brightness of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) * classes // count
    noise = torch.randint(0, 40, (count, 3, 32, 32), generator=generator)
    return InMemoryImages((noise + labels.view(-1, 1, 1, 1) * 200 // classes).to(torch.uint8), labels)


def evaluator(supernet, train, held_out, **options):
    torch.manual_seed(1)
    head = nn.Linear(supernet.num_features, 4)
    config = Config(
        device='cpu',
        data=DATA,
        linear=LinearConfig(views=WHOLE),
        search=SearchConfig(evaluate=EvaluateConfig(**options)),
    )
    splits = Splits(train=train, held_out=held_out, full_train=train, test=None, class_names=tuple('abcd'))
    return CandidateEvaluator(GivenRun(config, Path(), supernet, head, splits)), head


def score_of(scorer, path):
    return scorer.score([path])[0]


@torch.no_grad()
def test_score_is_the_accuracy_after_recalibration_on_the_training_images(supernet):
    train, held_out = images(64, 4, 0), images(60, 4, 1)
    scorer, head = evaluator(supernet, train, held_out, batches=1, batch_size=64)
    measured = scorer.score([PATH, PATH])

    def whole(source):
        (batch,) = source.center_crops([torch.arange(len(source))])
        return normalize(batch.images, DATA.mean, DATA.std)

    recalibrate_bn(supernet, PATH, [whole(train)])
    logits = head(supernet(whole(held_out), PATH).mean((2, 3)))
    score = measured[0]
    assert measured[1] == score
    # The images are scored in a random order, the same for every path.
    right = unpack(score.correct)
    assert right.sum() == int((logits.argmax(1) == held_out.labels).sum())
    assert score.extra['accuracy'] == right.mean()
    assert score.extra['cross_entropy'] == pytest.approx(float(F.cross_entropy(logits, held_out.labels)), rel=1e-5)
    assert (scorer.num_calibration, scorer.num_scored) == (64, 60)
    known = {'recalibrated': True, 'batch_norm': 'recalibrated', 'calibration_images': 64, 'held_out_images': 60}
    assert scorer.facts == known


def test_which_images_are_right_is_recorded_in_one_order_for_all_paths():
    images_, labels = torch.zeros(7, 3, 2, 2), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    always_0 = judge(
        lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), [(images_[:4], labels[:4]), (images_[4:], labels[4:])]
    )
    assert always_0.correct.tolist() == [True, False, True, False, False, True, False]
    assert always_0.accuracy == 3 / 7
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.e)]  # right, wrong
    assert always_0.cross_entropy == pytest.approx((3 * losses[0] + 4 * losses[1]) / 7)
    assert unpack(always_0.score.correct).tolist() == always_0.correct.tolist()


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_packed_bits_come_back(bits):
    assert unpack(pack(torch.tensor(bits))).tolist() == bits


def test_damaged_bits_are_named():
    with pytest.raises(ValueError, match="record of right and wrong images is damaged: '5:no bits'"):
        unpack('5:no bits')


@given(st.integers(0, 99_999), st.floats(0, 1e6), st.floats(0, 1e6))
def test_cross_entropy_decides_between_equal_accuracies_and_nothing_else(right, low, high):
    def value(count, loss):
        return Judgement(torch.arange(100_000) < count, loss).score.value

    assert value(right + 1, math.inf) > value(right, 0.0)
    if min(high, 100.0) - min(low, 100.0) > 1e-6:
        assert value(right, low) > value(right, high)


def test_few_calibration_images_come_from_all_classes(supernet):
    """The mean of the stem's input tells which images were used: those of the first folder alone are much darker."""
    train = images(1000, 4, 0)
    evaluator(supernet, train, images(8, 4, 1), batches=2, batch_size=100)[0].score([PATH])
    few = supernet.conv1[1].running_mean.clone()
    evaluator(supernet, train, images(8, 4, 1), batches=10, batch_size=100)[0].score([PATH])
    every = supernet.conv1[1].running_mean.clone()
    evaluator(supernet, train.subset(torch.arange(250)), images(8, 4, 1), batches=2, batch_size=100)[0].score([PATH])
    first_class = supernet.conv1[1].running_mean
    # 200 random images: the mean brightness of four equally likely classes has 4 % of the spread between the extremes.
    assert (few - every).norm() < 0.3 * (first_class - every).norm()


def test_the_order_of_candidates_does_not_matter(supernet):
    score, _ = evaluator(supernet, images(128, 4, 0), images(80, 4, 1), batches=2, batch_size=64)
    other = (0,) * 8
    assert score.score([PATH, other]) == score.score([other, PATH])[::-1]


def test_max_images(supernet):
    score, _ = evaluator(supernet, images(64, 4, 0), images(80, 4, 1), batches=1, batch_size=32, max_images=40)
    assert score.num_scored == 40
    assert len(unpack(score_of(score, PATH).correct)) == 40


def test_without_recalibration_it_warns_and_leaves_the_statistics_alone(supernet):
    with pytest.warns(UserWarning, match='recalibrate is off'):
        score, _ = evaluator(supernet, images(64, 4, 0), images(8, 4, 1), recalibrate=False)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    score.score([PATH])
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert score.num_calibration == 0


def test_no_held_out_images(supernet):
    with pytest.raises(ValueError, match='held_out_per_class above 0'):
        evaluator(supernet, images(64, 4, 0), images(64, 4, 1).subset(torch.arange(0)))
