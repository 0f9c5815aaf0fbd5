"""Long tasks with a folder each: one after the other in this process, or several at a time in processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import torch

from pinas_models.common.progress import Progress
from pinas_models.common.text import one_line

from .. import distributed
from ..records import StageDir, own
from .loop import Interrupted
from .run import Run

__all__ = ['WAIT', 'Named', 'Task', 'side_by_side', 'train_all']

WAIT = 120.0
"""Seconds that a task may need to save its state and end when its parent was killed."""


class Named(Protocol):
    """Something to train.

    Attributes:
        name: Name of its folder.
    """

    @property
    def name(self) -> str:
        """Name of its folder."""


NamedT = TypeVar('NamedT', bound=Named)


@dataclass(frozen=True)
class Task:
    """Something to do in a process of its own, which goes on from its folder when it was stopped.

    Attributes:
        name: What it is, for messages.
        folder: Where it works; owned by the process, and what it says is in ``log.txt`` there.
        call: Does it. It is sent to the process: a ``partial`` of a function of a module.
    """

    name: str
    folder: Path
    call: Callable[[], None]


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
        here = Run(run.config, run.path)  # without the images, which each process reads itself
        folders = [stage.path / training.name for training in waiting]
        tasks = [
            Task(training.name, folder, partial(train, here, training, StageDir(folder)))
            for training, folder in zip(waiting, folders, strict=True)
        ]
        side_by_side(tasks, run.workers, stage.path.name, total=len(trainings), unit='network')
    records = distributed.first(lambda: [StageDir(stage.path / training.name).done for training in trainings])
    return sum(record['seconds'] for record in records if record)


def side_by_side(
    tasks: Sequence[Task],
    workers: int,
    title: str,
    *,
    total: int,
    unit: str,
    failed: Callable[[Task, Exception], None] | None = None,
) -> None:
    """Do tasks several at a time, each with its share of the threads.

    Args:
        tasks: What is left to do; at least one.
        workers: How many at a time.
        title: What is being done, for the progress display.
        total: Tasks with those that were done before.
        unit: What a task is called.
        failed: Is told of a task that fails; the others go on. None: the first that fails ends all.

    Raises:
        ValueError: If a process dies and ``failed`` is None; the others keep what they have saved.
        Interrupted: At SIGTERM or Ctrl-C; the tasks under way save their state and end.
    """
    workers = min(workers, len(tasks))
    threads = max(1, torch.get_num_threads() // workers)
    print(f'{title}: {workers} at a time, what each says is in its log.txt', flush=True)
    waiting, finished = list(reversed(tasks)), False
    # A pool for each worker, so that it is known whose process has died, and the others live on.
    running: dict[Future[None], tuple[ProcessPoolExecutor, Task]] = {}

    def begin(pool: ProcessPoolExecutor | None) -> None:
        if not waiting:
            if pool is not None:
                pool.shutdown()
            return
        # Fresh processes: a fork would inherit the threads of PyTorch in an unknown state.
        spawn = multiprocessing.get_context('spawn')
        pool, task = pool or ProcessPoolExecutor(1, spawn, initializer=_watch_parent), waiting.pop()
        running[pool.submit(_in_worker, task, threads)] = pool, task

    with Progress(title, total, total - len(tasks), unit=unit, seconds=0.0) as progress:
        try:
            with _terminable():
                for _ in range(workers):
                    begin(None)
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        pool, task = running[future]
                        alive, error = _outcome(future, task)
                        if error is not None and failed is None:
                            raise error
                        if error is not None and failed is not None:
                            failed(task, error)
                        del running[future]
                        if not alive:
                            pool.shutdown()
                        begin(pool if alive else None)
                        progress.update(note=task.name)
            finished = True
        finally:
            if not finished:  # the tasks under way save their state and end
                for process in multiprocessing.active_children():
                    process.terminate()
            for pool, _ in running.values():
                pool.shutdown(cancel_futures=True)


def _outcome(future: Future[None], task: Task) -> tuple[bool, Exception | None]:
    """Whether the process of a finished task is alive, and what went wrong."""
    try:
        future.result()
    except BrokenProcessPool as error:
        died = ValueError(
            f'the process that worked in {task.folder} died (out of memory?): start again, it goes on from its last '
            'checkpoint; with fewer --workers each has more memory'
        )
        died.__cause__ = error
        return False, died
    except Exception as error:
        return True, error
    return True, None


def _in_worker(task: Task, threads: int) -> None:
    torch.set_num_threads(threads)
    task.folder.mkdir(parents=True, exist_ok=True)
    with (
        (task.folder / 'log.txt').open('a', encoding='utf-8', buffering=1) as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
        # A process whose parent was killed may still be saving.
        own(task.folder, timeout=WAIT),
    ):
        try:
            task.call()
        except (ValueError, OSError) as error:
            print(f'error: {one_line(error)}', file=sys.stderr)
            raise
        except Exception:
            traceback.print_exc()
            raise


def _watch_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


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
