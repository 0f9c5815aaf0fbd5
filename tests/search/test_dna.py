"""DNA: blocks that imitate a teacher, their rating, and the traversal of all combinations."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import all_paths, toy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pinas_search.cli import main
from pinas_search.config import Config, DataConfig, EvaluateConfig, LearnConfig, SearchConfig
from pinas_search.data import Batch, InMemoryImages, Splits
from pinas_search.methods.dna import BlockRating, Options, create
from pinas_search.randomness import seeded_scope
from pinas_search.spaces import Limits, Space, mini, nasbench201
from pinas_search.strategies.traversal import best_paths
from pinas_search.supernets import ResNeStSupernet
from pinas_search.testing import GivenRun, MemoryStep

CONFIG = LearnConfig(lr=0.5)
pytestmark = pytest.mark.filterwarnings('ignore:the teacher pinas_mini has random weights')


def method(**options):
    """A supernet of ``mini`` behind an untrained teacher, with weights that are nowhere zero."""
    with seeded_scope(0, 'test/dna'):
        ours = create(ResNeStSupernet(mini()), Options(teacher='pinas_mini', **options), 10)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return ours.train()


@dataclass
class DoubleStep(MemoryStep):
    only: str | None = None

    def batch(self, stream='train'):
        batch = super().batch(stream)
        return Batch(batch.images.double(), batch.labels)

    def update(self, optimizer='weights', **more):
        if self.only in (None, optimizer):
            super().update(optimizer, **more)
        else:
            self.method.zero_grad(set_to_none=True)


def step_of(ours, **more):
    return DoubleStep(ours, ours.optimizers(CONFIG), 4, 16, 10, **more)


def in_turn(supernet, stage, path, x):
    """A stage of the paper's network, by the names of its modules."""
    if stage == 0:
        x = supernet.maxpool(supernet.act1(supernet.bn1(supernet.conv1(x))))
    for block in range(2):
        x = supernet.get_submodule(f'layer{stage + 1}.{block}.{path[2 * stage + block]}')(x)
    return x


def test_a_step_is_an_adam_step_of_each_block_on_its_own_loss():
    ours = method().double()
    step = step_of(ours, epoch=2)
    reference, images = copy.deepcopy(ours).train(), step.batch().images[0]
    path = mini().sample(step.generator('paths'))
    features = reference.teacher.eval()
    for layer in features.modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
    with torch.no_grad():
        targets = features(images)[1:]
    losses = []
    for i, rate in enumerate((0.002, 0.005, 0.005, 0.002)):
        entered = images if i == 0 else targets[i - 1]
        left = reference.translations['leave'][i](in_turn(reference.network, i, path, entered))
        losses.append(((left - targets[i]) ** 2).mean())
        own = {name: p for name, p in reference.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(losses[i], list(own.values()), allow_unused=True)
        with torch.no_grad():
            for p, g in zip(own.values(), gradients, strict=True):
                if g is not None:
                    g = g + 1e-4 * p
                    p.sub_(rate * 0.9**2 * g / (g.abs() + 1e-8))  # Adam's first step
    values = ours.step(step)
    for i, loss in enumerate(losses, start=1):
        assert float(values[f'block-{i}']) == pytest.approx(loss.item(), rel=1e-9)
    assert float(values['loss']) == pytest.approx(sum(loss.item() for loss in losses) / 4, rel=1e-9)
    for (name, p), expected in zip(ours.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('norm', ['batch', 'running'])
def test_a_step_moves_the_path_and_neither_the_teacher_nor_other_blocks(norm):
    ours = method(teacher_norm=norm).double()
    step = step_of(ours, only='block-2')
    before, path = copy.deepcopy(ours), mini().sample(step.generator('paths'))
    ours.step(step)
    for old, new in zip(before.teacher.state_dict().values(), ours.teacher.state_dict().values(), strict=True):
        assert torch.equal(old, new)
    moved = {
        name for (name, p), old in zip(ours.named_parameters(), before.parameters(), strict=True) if (p != old).any()
    }
    allowed = ('network.layer2.0.0.downsample.', 'translations.enter.1.', 'translations.leave.1.')
    allowed += tuple(f'network.layer2.{block}.{path[2 + block]}.' for block in range(2))
    assert moved
    assert all(name.startswith(allowed) for name in moved), moved
    assert {name.rpartition('.')[0] for name in moved} >= {'translations.leave.1', f'network.layer2.1.{path[3]}.conv1'}


def test_the_teacher_normalises_by_the_batch_or_by_its_running_statistics():
    images = torch.randn(4, 3, 16, 16)
    for norm, differs in (('batch', True), ('running', False)):
        ours = method(teacher_norm=norm)
        whole, alone = ours.teach(images)[1], ours.teach(images[:2])[1]
        assert (not torch.allclose(whole[:2], alone, atol=1e-4)) == differs


def test_blocks_learn_to_imitate():
    ours = method()
    optimizers = ours.optimizers(CONFIG)
    step = MemoryStep(ours, optimizers, 16, 16, 10)
    first, *_, last = (float(ours.step(step)['loss']) for _ in range(12))
    assert last < 0.7 * first


def test_the_teacher_is_not_in_the_state_dict():
    ours, other = method(), method()
    state = ours.state_dict()
    assert not [name for name in state if 'teacher' in name]
    other.load_state_dict(state)
    with pytest.raises(RuntimeError, match='translations'):
        other.load_state_dict({name: t for name, t in state.items() if 'translations' not in name})


def test_feature_maps_are_chosen_by_their_strides(tmp_path):
    with pytest.warns(UserWarning, match='the teacher resnet10t has random weights'):
        ours = create(ResNeStSupernet(mini()), Options(teacher='resnet10t'), 10)
    images = torch.zeros(2, 3, 32, 32)
    assert [tuple(t.shape[1:]) for t in ours.teach(images)[1:]] == [(64, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    # Channels are translated only where they differ: the student has 64, 128, 256 and 512.
    assert [isinstance(m, nn.Identity) for m in ours.translations['enter']] == [True, True, False, False]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'learn.options.teacher is missing'),
        ({'teacher': 'resnet1'}, "there is no model 'resnet1', did you mean"),
        ({'teacher': 'vit_tiny_patch16_224'}, 'strides 16, 16, 16, the blocks end at strides 2, 4, 8, 16'),
        ({'teacher': './nowhere'}, 'there is no folder nowhere'),
    ],
)
@pytest.mark.filterwarnings('ignore:the teacher')
def test_a_teacher_that_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        create(ResNeStSupernet(mini()), Options(**options), 10)
    assert '\n' not in str(error.value)


def test_a_space_that_is_no_chain_is_refused_before_work_begins(tmp_path, capsys):
    settings = ['space=nasbench201', 'learn.method=dna', 'learn.options={teacher: pinas_mini}', 'threads=1']
    assert main(['check', '--config', 'digits', '--out', str(tmp_path / 'run'), *settings]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1
    assert 'that of nasbench201 is no chain: take another method' in lines[0]
    assert isinstance(nasbench201(), Space)


def rating(ours, **evaluate):
    noise = torch.Generator().manual_seed(1)
    labels = torch.arange(48) % 10
    shown = InMemoryImages(torch.randint(0, 255, (48, 3, 16, 16), generator=noise).to(torch.uint8), labels)
    splits = Splits(shown, shown.subset(torch.arange(24)), shown, None, tuple('0123456789'))
    data = DataConfig(image_size=16)
    config = Config(device='cpu', data=data, search=SearchConfig(evaluate=EvaluateConfig(batch_size=16, **evaluate)))
    return BlockRating(ours, GivenRun(config, Path(), ours.supernet, nn.Linear(512, 10), splits))


@pytest.mark.parametrize('loss', ['l1', 'mse'])
def test_a_rating_is_the_relative_difference_to_the_teacher(loss):
    ours, path = method(rating=loss), (3, 1, 0, 2, 2, 0, 1, 3)
    scorer = rating(ours, batches=1)
    (score,) = scorer.score([path])
    assert scorer.facts == {'recalibrated': True, 'calibration_images': 16, 'rated_images': 24, 'loss': loss}
    network = copy.deepcopy(ours.network).double()
    (calibration,) = [images for images, _ in scorer._images.calibration()]
    held_out = [images for images, _ in scorer._images.scored()]
    expected = []
    for i in range(4):
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = 1.0  # one batch: its statistics are those of the path

        def imitate(images, i=i):
            with torch.no_grad():
                taught = [t.double() for t in ours.teach(images)]
                enter, leave = (copy.deepcopy(ours.translations[name][i]).double() for name in ('enter', 'leave'))
                entered = taught[i] if i == 0 else enter(taught[i])
                return leave(in_turn(network, i, path, entered)), taught[i + 1]

        network.train()
        imitate(calibration)
        network.eval()
        made, taught = (torch.cat(parts) for parts in zip(*map(imitate, held_out), strict=True))
        spread = taught.std(correction=0)
        relative = (made - taught) / spread
        expected.append(float(relative.abs().mean() if loss == 'l1' else relative.square().mean()))
    assert [score.extra[f'loss_{i}'] for i in range(1, 5)] == pytest.approx(expected, rel=1e-4)
    assert score.value == pytest.approx(-sum(expected), rel=1e-4)
    again, other = scorer.score([path, (0, 1, 0, 2, 2, 0, 1, 3)])
    assert again == score  # whatever was rated in between
    assert [n for n in score.extra if other.extra[n] != score.extra[n]] == ['loss_1']


def test_the_best_of_all_paths_is_found_from_the_ratings_of_the_blocks():
    ours = method()
    scorer = rating(ours, batches=1, max_images=16)
    # Real ratings of the first block; those of the others are long to compute and known here.
    for i, block in enumerate(scorer._losses[1:], start=1):
        block.update({part: 0.1 * sum(part) + i for part in itertools.product(range(4), repeat=2)})
    cheap = Limits({'params': float(np.median(mini().costs(all_paths(toy(*[4] * 8))[::97])['params']))})
    (path, score), second = scorer.best(cheap, 2)
    assert cheap.allow(mini(), np.array([path]))[0]
    assert scorer.score([path])[0].value == pytest.approx(score)
    assert score >= second[1]
    (free, best), *_ = scorer.best()
    assert free[2:] == (0,) * 6
    assert best == max(scorer.score([(a, b, *free[2:])])[0].value for a in range(4) for b in range(4))


@given(
    st.lists(st.integers(0, 6), min_size=6 + 4 + 3, max_size=6 + 4 + 3),
    st.integers(1, 12),
    st.none() | st.integers(220, 420),
    st.none() | st.integers(320, 520),
    st.booleans(),
)
@settings(max_examples=150)
def test_the_traversal_finds_what_brute_force_finds(numbers, count, params, macs, additive):
    space = toy(2, 3, 2, 2, 3)
    parts = [list(itertools.product(*(range(m) for m in block))) for block in ((2, 3), (2, 2), (3,))]
    values = iter(numbers)
    blocks = [{part: float(next(values)) for part in block} for block in parts]
    limits = Limits({name: value for name, value in (('params', params), ('macs', macs)) if value is not None})
    if any(value < space.least_cost(name) for name, value in limits.largest.items()):
        with pytest.raises(ValueError, match='but the cheapest network'):
            best_paths(space, blocks, limits, count)
        return
    paths = [tuple(path) for path in all_paths(space).tolist()]
    allowed = [path for path, ok in zip(paths, limits.allow(space, np.array(paths)), strict=True) if ok]
    rated = [(blocks[0][path[:2]] + blocks[1][path[2:4]] + blocks[2][path[4:]], path) for path in allowed]
    expected = [(path, loss) for loss, path in sorted(rated)[:count]]
    searched = space if additive else Opaque(space)
    assert best_paths(searched, blocks, limits, count) == expected


class Opaque(Space):
    """A space of which only whole paths have a cost."""

    def __init__(self, inner):
        self.inner, self.name, self.num_choices = inner, 'opaque', inner.num_choices

    def costs(self, paths):
        return self.inner.costs(paths)

    def describe(self):
        return self.inner.describe()

    def build(self, path, **options):
        return self.inner.build(path, **options)


def test_the_traversal_ends_branches_early():
    """4^16 combinations; going through them would take hours."""
    space, rng = toy(*[4] * 16), np.random.default_rng(0)
    blocks = [{p: float(rng.random()) for p in itertools.product(range(4), repeat=n)} for n in (3, 4, 6, 3)]
    limits = Limits({'params': float(space.cost_table.fixed['params'] + 16 * 30)})
    found = best_paths(space, blocks, limits, 3)
    assert [loss for _, loss in found] == sorted(loss for _, loss in found)
    assert limits.allow(space, np.array([path for path, _ in found])).all()


def test_the_traversal_refuses_what_is_no_path():
    with pytest.raises(ValueError, match='do not make up a path of toy, which has 3 positions'):
        best_paths(toy(2, 2, 2), [{(0,): 1.0}, {(0,): 1.0}])
    with pytest.raises(ValueError, match='count is 0'):
        best_paths(toy(2), [{(0,): 1.0}], count=0)


def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    """Learning with DNA, then a search in the latent space of arch2vec for its score."""
    arch2vec = 'graphs: 40, epochs: 1, initial: 3, candidates: 40, fit_epochs: 3'
    run = [
        *('run', '--config', 'digits', 'threads=1', 'data.image_size=16', 'learn.method=dna', 'learn.epochs=3'),
        *('learn.max_steps=16', 'learn.checkpoint_seconds=0.001', 'learn.options={teacher: pinas_mini}'),
        *('search.strategy=arch2vec', f'search.options={{{arch2vec}}}', 'search.candidates=6', 'search.scorer=method'),
        *('search.evaluate={batches: 1, batch_size: 64, max_images: 64}', 'retrain.epochs=1'),
        *('retrain.random_paths=0', 'retrain.batch_size=512'),
    ]
    assert main([*run, '--out', str(tmp_path / 'whole')]) == 0
    killed = tmp_path / 'killed'
    for watched in ('learn/checkpoint.pt', 'search/journal.log'):
        process = subprocess.Popen(
            [sys.executable, '-m', 'pinas_search', *run, '--out', str(killed)], stderr=subprocess.DEVNULL
        )
        while not (killed / watched).exists() and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f'the run ended before {watched} was seen'
    assert main([*run, '--out', str(killed)]) == 0

    def figures(folder):
        found = {}
        for file in ('learn/metrics.jsonl', 'search/candidates.jsonl', 'search/result.json'):
            records = [json.loads(line) for line in (folder / file).read_text().splitlines()] if 'jsonl' in file else []
            found[file] = [{k: v for k, v in record.items() if k != 'seconds'} for record in records]
        found['result'] = [json.loads((folder / 'search' / 'result.json').read_text())]
        return found

    whole = figures(tmp_path / 'whole')
    assert figures(killed) == whole
    assert whole['learn/metrics.jsonl'][-1]['loss'] < whole['learn/metrics.jsonl'][0]['loss']
    assert sorted(path.stem for path in (killed / 'learn').glob('*.safetensors')) == ['supernet', 'translations']
