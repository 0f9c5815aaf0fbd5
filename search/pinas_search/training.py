"""The loop that all training stages share: checkpoints, resuming, metrics and progress around a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pinas_models.common.progress import Progress

from .config import ViewConfig
from .data import Batch, ImageSource, epoch_batches
from .rundir import StageDir

__all__ = ['Stateful', 'TrainLoop', 'training_batches']


class Stateful(Protocol):
    """Anything whose state is saved and loaded: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore the state."""


def training_batches(
    source: ImageSource,
    batch_size: int,
    start: int,
    total: int,
    *,
    num_views: int,
    views: ViewConfig,
    seed: int,
    purpose: str,
) -> Iterator[Batch]:
    """Batches of random crops from step ``start`` on, the same ones that an uninterrupted training would see.

    Args:
        source: The images.
        batch_size: Images per step.
        start: First step.
        total: Steps of the whole training.
        num_views: Crops per image.
        views: Scale and ratio of the crops.
        seed: Seed of the run.
        purpose: Name of the random stream.

    Yields:
        One batch per step.

    Raises:
        ValueError: If there are fewer images than a batch.
    """
    steps_per_epoch = len(source) // batch_size
    step = start
    while step < total:
        epoch, offset = divmod(step, steps_per_epoch) if steps_per_epoch else (0, 0)
        batches = epoch_batches(len(source), batch_size, seed=seed, purpose=f'{purpose}/order', epoch=epoch)
        batches = batches[offset : offset + total - step]
        yield from source.random_crops(
            batches, num_views=num_views, views=views, seed=seed, purpose=f'{purpose}/crops', first_step=step
        )
        step += len(batches)


@dataclass
class TrainLoop:
    """Runs steps from the last checkpoint to the end.

    Attributes:
        title: What is trained, for the progress display.
        stage: Where metrics and checkpoints go.
        total_steps: Steps of the whole training.
        steps_per_epoch: Steps per pass over the images.
        log_every: Steps between lines of metrics; checkpoints are written at such steps only.
        checkpoint_seconds: Time between checkpoints.
        state: What a checkpoint holds.
    """

    title: str
    stage: StageDir
    total_steps: int
    steps_per_epoch: int
    log_every: int
    checkpoint_seconds: float
    state: Mapping[str, Stateful]

    def run(
        self,
        batches: Callable[[int], Iterator[Batch]],
        step: Callable[[int, Batch], dict[str, torch.Tensor]],
        lr: Callable[[], float],
        at_log: Callable[[], dict[str, float]] = dict,
    ) -> float:
        """Train.

        Args:
            batches: Batches from a given step on.
            step: Makes one step (number from 0, batch) and returns scalars, which are averaged between lines of
                metrics.
            lr: Current learning rate.
            at_log: Further figures for a line of metrics, for example an evaluation.

        Returns:
            Seconds of the whole training, earlier sessions included.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        start, seconds_before = self._resume()
        clock = last_checkpoint = time.monotonic()
        sums: dict[str, torch.Tensor] = {}
        with Progress(self.title, self.total_steps, start, unit='step') as progress:
            for number, batch in enumerate(batches(start), start=start):
                values = step(number, batch)
                sums = {key: sums[key] + value if key in sums else value for key, value in values.items()}
                done = number + 1
                note = ''
                if done % self.log_every == 0 or done == self.total_steps:
                    count = (done - 1) % self.log_every + 1
                    means = {key: float(value) / count for key, value in sums.items()}
                    if not all(map(_is_finite, means.values())):
                        raise FloatingPointError(
                            f'{self.title}: the loss is not finite at step {done}; the last checkpoint is kept in '
                            f'{self.stage.path}. Lower the learning rate and start in a new run directory'
                        )
                    sums = {}
                    note = ', '.join(f'{key} {value:.4g}' for key, value in means.items())
                    now = time.monotonic()
                    record = {'step': done, 'epoch': done / self.steps_per_epoch, **means, **at_log(), 'lr': lr()}
                    self.stage.append_metrics({**record, 'seconds': round(seconds_before + now - clock, 3)})
                    if now - last_checkpoint >= self.checkpoint_seconds and done < self.total_steps:
                        self._save(done, seconds_before + now - clock)
                        last_checkpoint = time.monotonic()
                progress.update(note=note)
        seconds = seconds_before + time.monotonic() - clock
        # Saved at the end too: what follows the loop (writing results) can then be interrupted without training again.
        if start < self.total_steps:
            self._save(self.total_steps, seconds)
        return seconds

    def _resume(self) -> tuple[int, float]:
        checkpoint = self.stage.load_checkpoint()
        step = checkpoint['step'] if checkpoint else 0
        self.stage.truncate_metrics(step)
        if checkpoint is None:
            return 0, 0.0
        for key, item in self.state.items():
            item.load_state_dict(checkpoint[key])
        return step, checkpoint['seconds']

    def _save(self, step: int, seconds: float) -> None:
        states = {key: item.state_dict() for key, item in self.state.items()}
        self.stage.save_checkpoint({'step': step, 'seconds': seconds, **states})


def _is_finite(value: float) -> bool:
    return value - value == 0.0
