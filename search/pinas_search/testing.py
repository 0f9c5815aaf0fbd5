"""Contracts that a space, a supernet, a method or a strategy can be run through, ours or anybody's.

Each function raises ``AssertionError`` with a sentence that says what is broken, so it works in any test runner:

    def test_my_space():
        check_space(my_space())
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .config import LearnConfig
from .data import Batch, Splits
from .methods import Method, apply_update
from .randomness import generator
from .spaces import Limits, Space
from .stages import Run
from .strategies import Proposer, SpaceExhaustedError, Strategy
from .supernets import GatedSupernet, Graph, Supernet

__all__ = [
    'GivenRun',
    'MemoryStep',
    'check_method',
    'check_space',
    'check_strategy',
    'check_supernet',
    'train_in_memory',
]

_PATHS = 8


def check_space(space: Space, image_size: int = 32) -> None:
    """Check encoding, costs, description and stand-alone networks of a space.

    Args:
        space: The space.
        image_size: Side of the images that its networks take, in pixels.

    Raises:
        AssertionError: If something is broken.
    """
    numbers = generator(0, 'testing/space')
    paths = [space.sample(numbers) for _ in range(_PATHS)]
    for path in paths:
        _expect(space.validate(list(path)) == path, f'validate changes {path}')
        _expect(space.decode(space.encode(path)) == path, f'decode does not undo encode for {path}')
        canonical = space.canonical(path)
        _expect(space.canonical(canonical) == canonical, f'canonical({path}) is not canonical itself')
    _expect_error(lambda: space.validate(paths[0][:-1]), 'a path that is too short')
    wrong = (*paths[0][:-1], max(space.num_choices))
    _expect_error(lambda: space.validate(wrong), 'a choice that is too large', f'[{space.num_positions - 1}]')
    costs = space.costs(np.array(paths))
    _expect(set(costs) == set(space.cost_names), f'costs() gives {sorted(costs)}, cost_names says {space.cost_names}')
    _expect({'params', 'macs'} <= set(space.cost_names), 'params and macs must be among the costs')
    for name, values in costs.items():
        _expect(bool((values >= space.least_cost(name)).all()), f'{name} is below least_cost({name!r})')
    for path, params in zip(paths, costs['params'], strict=True):
        network = space.build(path)
        _expect(_count(network) == params, f'{path} has {_count(network)} parameters, costs() says {params}')
    network = space.build(paths[0], num_classes=7).eval()
    _expect(network(torch.zeros(2, 3, image_size, image_size)).shape == (2, 7), 'build(num_classes=7) has other logits')
    description = space.describe()
    _expect(len(description.positions) == space.num_positions, 'describe() does not name every position')
    _expect(len(description.choices) == max(space.num_choices), 'describe() does not name every choice')
    described = [position for group in description.groups for position in group.positions]
    _expect(sorted(described) == list(range(space.num_positions)), 'the groups do not hold every position once')


def check_supernet(supernet: Supernet, image_size: int = 32) -> None:
    """Check that a path uses its own modules and no others, and that ``lay_out`` and ``extract`` do not change it.

    Args:
        supernet: The supernet; its weights are not changed.
        image_size: Side of the images that it takes, in pixels.

    Raises:
        AssertionError: If something is broken.
    """
    supernet = copy.deepcopy(supernet)
    space, numbers = supernet.space, generator(0, 'testing/supernet')
    images = torch.rand(4, 3, image_size, image_size, generator=numbers)
    for path in [space.sample(numbers) for _ in range(_PATHS // 2)]:
        supernet.train().zero_grad(set_to_none=True)
        feature_map = supernet(images, path)
        features = supernet.features(feature_map)
        _expect(features.shape == (4, supernet.num_features), f'features have the shape {tuple(features.shape)}')
        features.square().sum().backward()
        own = {id(p) for module in supernet.path_modules(path) for p in module.parameters()}
        used = {id(p) for p in supernet.parameters() if p.grad is not None}
        _expect(used <= own, f'{path} uses {len(used - own)} parameters that path_modules does not give')
        shared = {id(p) for module in supernet.shared_modules() for p in module.parameters()}
        _expect(shared <= own, f'path_modules of {path} lacks {len(shared - own)} shared parameters')
        supernet.eval()
        with torch.no_grad():
            graph = Graph()
            ((_, laid_out),) = graph.run(images, [supernet.lay_out(graph, path)])
            _expect(torch.equal(laid_out, supernet(images, path)), f'lay_out({path}) computes something else')
            classifier = nn.Linear(supernet.num_features, 3)
            inside = classifier(supernet.features(supernet(images, path)))
            outside = supernet.extract(path, classifier)(images)
        _expect(torch.equal(inside, outside), f'extract({path}) computes something else than the supernet')
        if isinstance(supernet, GatedSupernet):
            with torch.no_grad():
                gated = supernet.forward_gated(images, [{choice: torch.ones(())} for choice in path])
                _expect(torch.equal(gated, supernet(images, path)), f'gates of 1 on {path} are not that path')
    restored = copy.deepcopy(supernet)
    restored.load_state_dict(supernet.state_dict())
    pointers = [t.data_ptr() for t in supernet.state_dict().values() if t.numel()]
    _expect(len(set(pointers)) == len(pointers), 'the state dict names a tensor twice, which safetensors refuses')


def check_strategy(create: Callable[[Limits], Strategy], asks: int = 30) -> None:
    """Check that proposals are new, allowed, reproducible, and the same after a restart.

    Args:
        create: Makes the strategy, with the limits it must respect.
        asks: Number of proposals.

    Raises:
        AssertionError: If something is broken.
    """
    space = create(Limits()).space
    numbers = generator(0, 'testing/strategy')
    sample = np.array([space.sample(numbers) for _ in range(200)])
    limits = Limits({'params': float(np.median(space.costs(sample)['params']))})

    def value(path: tuple[int, ...]) -> float:
        return sum(path) / len(path) + path[0]

    def search(steps: int, restart: int | None = None) -> list[tuple[int, ...]]:
        proposer, found = Proposer(create(limits), seed=3), []
        for step in range(steps):
            if step == restart:
                history, proposer = proposer.history, Proposer(create(limits), seed=3)
                proposer.restore(history)
            try:
                found.append(proposer.ask())
            except SpaceExhaustedError:
                break
            proposer.tell(found[-1], value(found[-1]))
        return found

    paths = search(asks)
    _expect(len(set(paths)) == len(paths), 'a path was proposed twice')
    for path in paths:
        _expect(space.validate(path) == path, f'{path} is not in the space')
    _expect(bool(limits.allow(space, np.array(paths)).all()), 'a proposal exceeds the limits')
    _expect(search(asks) == paths, 'the same seed and history give other proposals')
    _expect(search(asks, restart=asks // 2) == paths, 'after a restart the search goes on with other proposals')
    parallel = Proposer(create(limits), seed=3)
    together = [parallel.ask() for _ in range(4)]
    _expect(len(set(together)) == 4, 'paths that are asked for before the first is told are not distinct')


@dataclass(frozen=True)
class GivenRun(Run):
    """A run whose images and networks are given, for scorers outside the stages.

    Attributes:
        supernet: The supernet.
        classifier: The classifier.
        splits: The images.
    """

    supernet: Supernet
    classifier: nn.Linear
    splits: Splits

    def load_supernet(self) -> Supernet:
        """The given one."""
        return self.supernet

    def load_classifier(self) -> nn.Linear:
        """The given one."""
        return self.classifier


@dataclass
class MemoryStep:
    """A training step on random images, for methods outside a run: ``pinas_search.methods.Step``.

    Attributes:
        method: The method.
        all_optimizers: Its optimizers.
        batch_size: Images per batch.
        image_size: Side of the images, in pixels.
        num_classes: Number of classes.
        number: Steps before this one.
        total: Steps of the training.
    """

    method: Method
    all_optimizers: dict[str, torch.optim.Optimizer]
    batch_size: int
    image_size: int
    num_classes: int
    number: int = 0
    total: int = 4
    epoch: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this step."""
        return generator(0, f'testing/{purpose}', self.number)

    def batch(self, stream: str = 'train') -> Batch:
        """Random images [V, N, 3, S, S] and labels [N]."""
        numbers, views = self.generator(f'batch/{stream}'), self.method.streams[stream].num_views
        images = torch.randn(views, self.batch_size, 3, self.image_size, self.image_size, generator=numbers)
        return Batch(images, torch.randint(self.num_classes, (self.batch_size,), generator=numbers))

    def autocast(self) -> torch.autocast:
        """No autocast."""
        return torch.autocast('cpu', enabled=False)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        loss.backward()

    def update(self, optimizer: str = 'weights', *, max_norm: float | None = None, lr_factor: float = 1.0) -> None:
        """Step an optimizer, then drop all gradients."""
        apply_update(self.all_optimizers[optimizer], max_norm, lr_factor)
        self.method.zero_grad(set_to_none=True)


def train_in_memory(
    method: Method, optimizers: dict[str, torch.optim.Optimizer], numbers: range, **shape: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Make training steps on random images.

    Args:
        method: The method.
        optimizers: Its optimizers.
        numbers: Numbers of the steps.
        **shape: ``batch_size``, ``image_size`` and ``num_classes``.

    Yields:
        What each step returns.
    """
    for number in numbers:
        yield method.step(MemoryStep(method, optimizers, number=number, **shape))


def check_method(
    create: Callable[[], Method], batch_size: int = 8, image_size: int = 32, num_classes: int = 10
) -> None:
    """Check steps, artifacts and resuming of a method.

    Args:
        create: Makes the method, with the same weights each time.
        batch_size: Images per batch.
        image_size: Side of the images, in pixels.
        num_classes: Number of classes.

    Raises:
        AssertionError: If something is broken.
    """
    shape = dict(batch_size=batch_size, image_size=image_size, num_classes=num_classes)
    config = LearnConfig(lr=0.05, epochs=1, batch_size=batch_size)
    method = create().train()
    method.check_batch_size(batch_size)
    _expect('supernet' in method.artifacts(), 'artifacts() has no supernet')
    _expect(method.artifacts()['supernet'] is method.supernet, 'artifacts() gives another supernet')
    shares = [stream.share for stream in method.streams.values()]
    _expect(0 < sum(shares) <= 1 + 1e-9, f'the shares of the streams add up to {sum(shares)}')
    optimizers = method.optimizers(config)
    _expect(bool(optimizers), 'optimizers() has none')
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for values in train_in_memory(method, optimizers, range(2), **shape):
        _expect('loss' in values, 'a step returns no loss')
        _expect(all(bool(torch.isfinite(v).all()) for v in values.values()), f'a step returns {values}')
    _expect(
        any(not torch.equal(before[name], p) for name, p in method.supernet.named_parameters(prefix=_prefix(method))),
        'two steps change no weight of the supernet',
    )
    _expect(all(p.grad is None for p in method.parameters()), 'gradients are left after a step')
    state = copy.deepcopy(method.state_dict())
    states = {name: copy.deepcopy(optimizer.state_dict()) for name, optimizer in optimizers.items()}
    expected = list(train_in_memory(method, optimizers, range(2, 4), **shape))
    resumed = create().train()
    again: dict[str, Any] = resumed.optimizers(config)
    resumed.load_state_dict(state)
    for name, optimizer in again.items():
        optimizer.load_state_dict(states[name])
    for one, two in zip(expected, train_in_memory(resumed, again, range(2, 4), **shape), strict=True):
        _expect(all(torch.equal(one[key], two[key]) for key in one), 'a resumed training goes on with other numbers')
    end, end_again = method.state_dict(), resumed.state_dict()
    changed = [name for name, tensor in end.items() if not torch.equal(tensor, end_again[name])]
    _expect(not changed, f'a resumed training ends with another {changed[:3]}')


def _prefix(method: Method) -> str:
    return next(name for name, module in method.named_modules() if module is method.supernet)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _expect_error(call: Callable[[], object], what: str, part: str = '') -> None:
    try:
        call()
    except ValueError as error:
        _expect(part in str(error), f'the message about {what} does not say {part!r}: {error}')
        return
    raise AssertionError(f'{what} is accepted')
