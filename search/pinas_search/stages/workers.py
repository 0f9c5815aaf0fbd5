"""Training many networks: one after the other in this process, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import torch

from pinas_models.common.progress import Progress

from .. import distributed
from ..records import StageDir, own
from .loop import Interrupted
from .run import Run

__all__ = ['Named', 'train_all']

_WAIT = 120.0  # seconds that a training may need to save its state and end


class Named(Protocol):
    """Something to train.

    Attributes:
        name: Name of its folder.
    """

    @property
    def name(self) -> str:
        """Name of its folder."""


NamedT = TypeVar('NamedT', bound=Named)


def train_all(
    run: Run, trainings: Sequence[NamedT], stage: StageDir, train: Callable[[Run, NamedT, StageDir], None]
) -> float:
    """Train networks, each in the folder of its name below a stage; those that are finished are left alone.

    With ``run.workers`` above 1 so many are trained at a time, each with its share of the threads.

    Args:
        run: The run.
        trainings: What to train.
        stage: The stage.
        train: Trains one of them in a folder, from its last checkpoint if there is one. A function of a module.

    Returns:
        Seconds of all trainings together.

    Raises:
        ValueError: If a training fails or its process dies; the others keep what they have saved.
    """
    waiting = distributed.first(lambda: [t for t in trainings if StageDir(stage.path / t.name).done is None])
    if run.workers == 1 or len(waiting) < 2:
        for training in waiting:
            train(run, training, StageDir(stage.path / training.name))
    else:
        _side_by_side(run, waiting, stage, train, len(trainings))
    records = distributed.first(lambda: [StageDir(stage.path / training.name).done for training in trainings])
    return sum(record['seconds'] for record in records if record)


def _side_by_side(
    run: Run, waiting: Sequence[NamedT], stage: StageDir, train: Callable[[Run, NamedT, StageDir], None], total: int
) -> None:
    workers = min(run.workers, len(waiting))
    threads = max(1, torch.get_num_threads() // workers)
    print(f'{stage.path.name}: {workers} at a time, what each says is in its log.txt', flush=True)
    # Fresh processes: a fork would inherit the threads of PyTorch in an unknown state.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'))
    here = Run(run.config, run.path)  # without the images, which each process reads itself
    finished = False
    with Progress(stage.path.name, total, total - len(waiting), unit='network', seconds=0.0) as progress:
        try:
            with _terminable():
                futures = {
                    pool.submit(_in_worker, train, here, item, stage.path / item.name, threads): item
                    for item in waiting
                }
                for future in as_completed(futures):
                    future.result()
                    progress.update(note=futures[future].name)
            finished = True
        except BrokenProcessPool as error:
            raise ValueError(
                f'a process that trained a network of {stage.path} died (out of memory?): start again, trainings go on '
                'from their last checkpoints; with fewer --workers each has more memory'
            ) from error
        finally:
            if not finished:  # the trainings under way save their state and end
                for process in multiprocessing.active_children():
                    process.terminate()
            pool.shutdown(cancel_futures=True)


def _in_worker(
    train: Callable[[Run, NamedT, StageDir], None], run: Run, training: NamedT, folder: Path, threads: int
) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / 'log.txt').open('a', encoding='utf-8', buffering=1) as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
        # A process whose parent was killed may still be saving.
        own(folder, timeout=_WAIT),
    ):
        train(run, training, StageDir(folder))


def _end_with_parent() -> None:
    """Stop as for SIGTERM when the parent has died: nobody would know of what this process does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM interrupt the block, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
