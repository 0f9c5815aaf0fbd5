"""The loop that all training stages share: batches, checkpoints, resuming, metrics and progress around a step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from pinas_models.common.progress import Progress
from pinas_models.common.text import first_line

from .. import distributed
from ..config import ViewConfig
from ..data import Batch, ImageSource, Part, epoch_batches
from ..methods import apply_update
from ..randomness import generator
from ..records import StageDir
from .run import Run

__all__ = ['Feed', 'Interrupted', 'Recipe', 'Stateful', 'TrainLoop', 'TrainStep']


class Interrupted(KeyboardInterrupt):
    """A signal asked the training to stop; it has saved its state.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stateful(Protocol):
    """Anything whose state is saved and loaded: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore the state."""


class Feed(NamedTuple):
    """Where a stream of batches comes from.

    Attributes:
        source: The images.
        views: Random views of the images.
        num_views: Views V of each image.
    """

    source: ImageSource
    views: ViewConfig
    num_views: int = 1


@dataclass(frozen=True)
class Recipe:
    """How long a training is, and what it is called.

    Attributes:
        title: What is trained, for the progress display.
        purpose: Name of its random streams.
        batch_size: Images per step, on all ranks together.
        epochs: Passes over the images of the first feed.
        max_steps: Stop after this many steps; None means all epochs.
        checkpoint_seconds: Time between checkpoints.
        log_epochs: A line of metrics per epoch, whatever their number; by default about 200 lines, at least one per
            epoch.
    """

    title: str
    purpose: str
    batch_size: int
    epochs: int
    checkpoint_seconds: float
    max_steps: int | None = None
    log_epochs: bool = False


class TrainStep:
    """One step of a loop: what ``pinas_search.methods.Step`` promises.

    Attributes:
        number: Steps before this one.
        total: Steps of the whole training.
        epoch: Passes over the first feed before this step.
    """

    def __init__(self, loop: TrainLoop, number: int) -> None:
        self._loop = loop
        self.number, self.total, self.epoch = number, loop.total, number // loop.per_epoch

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this step."""
        return generator(self._loop.run.config.seed, f'{self._loop.recipe.purpose}/{purpose}', self.number)

    def batch(self, stream: str = 'train') -> Batch:
        """The next batch of a stream, this rank's part: normalised images [V, N, 3, H, W], labels [N]."""
        return self._loop.draw(stream)

    def autocast(self) -> torch.autocast:
        """Context of the forward passes, in the configured precision."""
        return self._loop.run.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        loss.backward()

    def update(self, optimizer: str = 'weights', *, max_norm: float | None = None, lr_factor: float = 1.0) -> None:
        """Average the gradients over the ranks, step an optimizer, then drop all gradients.

        None, not zero: a block off the path gets neither momentum nor weight decay (the authors' optimizer hook).
        """
        self._loop.compare_ranks(self.number)
        chosen = self._loop.optimizers[optimizer]
        distributed.reduce_gradients(p for group in chosen.param_groups for p in group['params'])
        apply_update(chosen, max_norm, lr_factor)
        self._loop.module.zero_grad(set_to_none=True)


class TrainLoop:
    """Runs steps from the last checkpoint to the end. A resumed training goes the way of an uninterrupted one.

    Attributes:
        run: The run.
        recipe: Length and name.
        module: What is trained.
        optimizers: Its optimizers, by name.
        total: Steps of the whole training.
        per_epoch: Steps per pass over the first feed.
    """

    def __init__(
        self,
        run: Run,
        stage: StageDir,
        recipe: Recipe,
        feeds: Mapping[str, Feed],
        module: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        more: Mapping[str, Stateful] | None = None,
    ) -> None:
        """Prepare the training; nothing is read yet.

        Args:
            run: The run.
            stage: Where metrics and checkpoints go.
            recipe: Length and name.
            feeds: Where batches come from, by stream; passes over the first are the epochs.
            module: What is trained.
            optimizers: Its optimizers, by name.
            more: Further things that a checkpoint must hold.

        Raises:
            ValueError: If there are fewer images than a batch, or the ranks cannot share a batch.
        """
        self.part = Part(distributed.rank(), distributed.size())
        self.part.of(recipe.batch_size)
        self.run, self.stage, self.recipe, self.feeds = run, stage, recipe, feeds
        self.module, self.optimizers = module, optimizers
        for name, feed in feeds.items():
            if len(feed.source) < recipe.batch_size:
                which = '' if len(feeds) == 1 else f' of the stream {name}'
                raise ValueError(
                    f'{len(feed.source)} training images{which} are fewer than a batch of {recipe.batch_size}: '
                    'lower batch_size'
                )
        self.per_epoch = len(next(iter(feeds.values())).source) // recipe.batch_size
        steps = self.per_epoch * recipe.epochs
        self.total = steps if recipe.max_steps is None else min(steps, recipe.max_steps)
        self._state: dict[str, Stateful] = {'module': module, **(more or {})}
        self._state |= {f'optimizer/{name}': optimizer for name, optimizer in optimizers.items()}
        self._drawn = dict.fromkeys(feeds, 0)
        self._batches: dict[str, Iterator[Batch]] = {}
        self._ran: list[str] = []
        self.watch(module)

    def watch(self, module: nn.Module) -> None:
        """With ``compare_ranks``, note what of a module runs in a step: which paths, and in which order."""
        if not self.run.config.compare_ranks or distributed.size() == 1:
            return
        for name, part in module.named_modules():
            part.register_forward_pre_hook(lambda _, __, name=name: self._ran.append(name))

    def compare_ranks(self, number: int) -> None:
        """With ``compare_ranks``, make sure that all ranks ran the same modules since the last call.

        Raises:
            ValueError: If they did not.
        """
        if self.run.config.compare_ranks:
            remedy = 'a method must draw paths from step.generator only, and average what steers them over the ranks'
            expect_equal = distributed.expect_equal
            expect_equal(f'the path of step {number + 1} of {self.recipe.title}', self._ran, remedy)
            self._ran.clear()

    def draw(self, stream: str) -> Batch:
        """The next batch of a stream, this rank's part: normalised images [V, N, 3, S, S], labels [N]."""
        feed, number = self.feeds[stream], self._drawn[stream]
        # The first stream has the name of the training, so that methods with one stream all see the same images.
        first = stream == next(iter(self.feeds))
        purpose = self.recipe.purpose if first else f'{self.recipe.purpose}/{stream}'
        if stream not in self._batches:
            self._batches[stream] = self._crops(feed, purpose, number, self.total if first else None)
        batch = next(self._batches[stream])
        self._drawn[stream] += 1
        images = self.run.augment(batch.images, feed.views, f'{purpose}/photometric', number, self.part)
        return Batch(images, batch.labels)

    def _crops(self, feed: Feed, purpose: str, start: int, total: int | None) -> Iterator[Batch]:
        """Random crops from batch ``start`` on, epoch by epoch, the same that an uninterrupted training would see."""
        seed, size = self.run.config.seed, self.recipe.batch_size
        while total is None or start < total:
            epoch, offset = divmod(start, len(feed.source) // size)
            batches = epoch_batches(len(feed.source), size, seed=seed, purpose=f'{purpose}/order', epoch=epoch)
            batches = batches[offset : None if total is None else offset + total - start]
            yield from feed.source.random_crops(
                batches,
                num_views=feed.num_views,
                views=feed.views,
                seed=seed,
                purpose=f'{purpose}/crops',
                first_step=start,
                part=self.part,
            )
            start += len(batches)

    def train(
        self,
        step: Callable[[TrainStep], dict[str, torch.Tensor]],
        at_log: Callable[[], dict[str, float]] = dict,
    ) -> float:
        """Train.

        Args:
            step: Makes one step and returns scalars, which are averaged between lines of metrics and over the ranks.
            at_log: Further figures for a line of metrics, for example an evaluation; only the first rank calls it.

        Returns:
            Seconds of the whole training, earlier sessions included.

        Raises:
            ValueError: If the loss is not finite.
            Interrupted: If a signal asks to stop; the state is saved before.
        """
        start, seconds_before, sums = self._resume()
        clock = last_checkpoint = time.monotonic()
        log_every = self.per_epoch if self.recipe.log_epochs else max(1, min(self.per_epoch, self.total // 200))
        shown = distributed.rank() == 0
        with (
            Progress(self.recipe.title, self.total, start, unit='step', shown=shown) as progress,
            _signals() as stopped,
        ):
            for number in range(start, self.total):
                values = step(TrainStep(self, number))
                sums = {key: sums[key] + value if key in sums else value for key, value in values.items()}
                done, note = number + 1, ''
                if done % log_every == 0 or done == self.total:
                    count = (done - 1) % log_every + 1
                    means = {key: float(value) / count for key, value in _over_ranks(sums).items()}
                    sums = {}
                    note = ', '.join(f'{key} {value:.4g}' for key, value in means.items())
                    log = partial(self._log, done, means, at_log, lambda: seconds_before + _since(clock))
                    distributed.first(log)
                # The ranks save and stop together: at the step that the first one of them to be asked has reached.
                due = distributed.rank() == 0 and _since(last_checkpoint) >= self.recipe.checkpoint_seconds
                signal_number, due_anywhere = distributed.largest(stopped[0] if stopped else 0, due)
                # Saved at the end too: what follows (writing results) can then be interrupted without training again.
                if signal_number or due_anywhere or done == self.total:
                    sums = _over_ranks(sums)
                    distributed.first(partial(self._save, done, seconds_before + _since(clock), sums))
                    last_checkpoint = time.monotonic()
                if signal_number and done < self.total:
                    raise Interrupted(signal_number)
                progress.update(note=note)
        return seconds_before + _since(clock)

    def _log(
        self,
        done: int,
        means: Mapping[str, float],
        at_log: Callable[[], dict[str, float]],
        seconds: Callable[[], float],
    ) -> None:
        if not all(map(_is_finite, means.values())):
            raise ValueError(
                f'{self.recipe.title}: the loss is not finite at step {done}; the last checkpoint is kept '
                f'in {self.stage.path}. Lower the learning rate and start in a new run directory'
            )
        record = {'step': done, 'epoch': done / self.per_epoch, **means, **at_log(), 'lr': self._lr()}
        self.stage.append_metrics({**record, 'seconds': round(seconds(), 3)})

    def _lr(self) -> float:
        return next(iter(self.optimizers.values())).param_groups[0]['lr']

    def _resume(self) -> tuple[int, float, dict[str, torch.Tensor]]:
        checkpoint = self.stage.load_checkpoint()
        progress: tuple[int, float, dict[str, torch.Tensor]] = (0, 0.0, {})
        if checkpoint is not None:
            try:
                for key, item in self._state.items():
                    item.load_state_dict(checkpoint[key])
                self._drawn.update(checkpoint['drawn'])
                sums = {key: value.to(self.run.device) for key, value in checkpoint['sums'].items()}
                progress = int(checkpoint['step']), float(checkpoint['seconds']), sums
            except Exception as error:  # what modules and optimizers raise for a state that is not theirs
                raise ValueError(
                    f'{self.stage.path / "checkpoint.pt"} does not fit this training ({first_line(error)}): delete it '
                    'to begin the stage anew'
                ) from error
        remedy = 'the run directory must lie on a file system that all machines share'
        distributed.expect_equal(f'the checkpoint in {self.stage.path}', progress[0], remedy)
        distributed.first(lambda: self.stage.truncate_metrics(progress[0]))
        if checkpoint is None:
            distributed.broadcast(item for item in self._state.values() if isinstance(item, nn.Module))
        return progress

    def _save(self, step: int, seconds: float, sums: Mapping[str, torch.Tensor]) -> None:
        states = {key: item.state_dict() for key, item in self._state.items()}
        progress = {'step': step, 'seconds': seconds, 'sums': dict(sums), 'drawn': dict(self._drawn)}
        self.stage.save_checkpoint({**progress, **states})


def _over_ranks(sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of each sum over the ranks."""
    means = {key: value.clone() for key, value in sums.items()} if distributed.size() > 1 else dict(sums)
    distributed.mean_(list(means.values()))
    return means


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM inside the block, so that a step is finished first; a second one acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise Interrupted(number)
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _since(moment: float) -> float:
    return time.monotonic() - moment


def _is_finite(value: float) -> bool:
    return value - value == 0.0
