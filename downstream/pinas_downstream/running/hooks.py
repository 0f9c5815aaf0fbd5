"""A hook of every training of the commands: a resumed one ends as the unbroken one would."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..patches.checkpoints import check_weights, weights_of

__all__ = ['RandomNumbers']

_KEY = 'random_states'


class RandomNumbers(Hook):
    """Lets a resumed training draw the numbers that the unbroken one would have drawn, on one process.

    A checkpoint keeps the states of the generators of Python, NumPy and PyTorch. A validation leaves them as they
    were, because it comes behind the checkpoint of the same iteration. Data must be loaded in this process
    (``num_workers=0``): the generators of workers are not reached.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        """Start without a checkpoint."""
        self._resumed: dict[str, Any] | None = None
        self._training: dict[str, Any] | None = None  # during a validation

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the states."""
        if get_world_size() == 1:  # the others have states of their own, and all would go on with the first one's
            checkpoint[_KEY] = self._training or _states()  # mmengine saves again when a validation was the best

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the states, unless the checkpoint is only what the training starts from.

        Raises:
            ValueError: If the training to go on with was of another model; mmengine would go on with random weights
                where the shapes differ, and with the optimizer's states of the others.
        """
        states = checkpoint.pop(_KEY, None)
        if runner._resume:
            if get_world_size() == 1:
                self._resumed = states
            try:
                check_weights(runner.model, weights_of(checkpoint), runner._load_from)
            except ValueError as error:
                raise ValueError(
                    f'{error}; --resume goes on with the same model, --load-from FILE alone starts a new training'
                ) from error
        # Of no use for going on, and mmengine would execute it as Python.
        checkpoint.get('meta', {}).pop('config', None)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the states where the next batch is loaded; a loop of iterations first skips what it has seen."""
        if self._resumed is None:
            return
        states, self._resumed = self._resumed, None
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = _Resumed(loop.dataloader_iterator, runner.iter, states)
        else:
            _restore(states)

    def before_val(self, runner: Runner) -> None:
        """Keep the states of the training."""
        self._training = _states()

    def after_val(self, runner: Runner) -> None:
        """Go back to them."""
        if self._training is not None:
            _restore(self._training)
        self._training = None


class _Resumed:
    """The batches of a loop that first skips those of before, one by one or, in the fork of mmengine, at once."""

    def __init__(self, batches: Any, skipped: int, states: dict[str, Any]) -> None:
        self.batches = batches
        self.left = skipped
        self.states: dict[str, Any] | None = states

    def skip_iter(self, count: int) -> None:
        self.batches.skip_iter(count)
        self.batches._ensure_iterator()  # it was dropped, and making it draws a number
        self.left -= count

    def __next__(self) -> Any:
        if self.left <= 0 and self.states is not None:
            _restore(self.states)
            self.states = None
        self.left -= 1
        return next(self.batches)


def _states() -> dict[str, Any]:
    # The transforms of mmcv and mmdet draw from it.
    name, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002
    states: dict[str, Any] = {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state_all()
    return states


def _restore(states: dict[str, Any]) -> None:
    name, keys, *rest = states['numpy']
    random.setstate(states['python'])
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states['torch'].cpu())
    if torch.cuda.is_available() and 'cuda' in states:
        torch.cuda.set_rng_state_all([state.cpu() for state in states['cuda']])
