"""The ranks of a training: processes that torchrun starts and that share every batch.

No other module knows ``torch.distributed``. The functions ask torch's process group, so nothing has to be handed
around; with one process they return at once. Whatever all ranks call, they call in the same order.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from pinas_models.common.text import first_line

__all__ = [
    'alone',
    'broadcast',
    'expect_equal',
    'first',
    'gather',
    'joined',
    'largest',
    'mean',
    'mean_',
    'rank',
    'reduce_gradients',
    'size',
    'sum_',
    'sync_batch_norm',
    'together',
]

T = TypeVar('T')
ModuleT = TypeVar('ModuleT', bound=nn.Module)

_alone: ContextVar[bool] = ContextVar('alone', default=False)
# For as long as the first rank may be busy with what it does alone: a search takes days.
_PATIENCE = timedelta(days=365)
_START = timedelta(minutes=10)
_PAUSES = (0.0005, 0.1)


def size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """Number of this rank, from 0; the first one writes the files."""
    return dist.get_rank() if size() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """Be the only rank inside the block: what would wait for the others does not."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[None]:
    """Join the ranks that torchrun started, if it did (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say so).

    Args:
        device: Where the networks run: gradients travel by NCCL on GPUs, by gloo otherwise.
        timeout: Seconds that a rank waits for another one within a step before it gives up.

    Raises:
        ValueError: If the ranks cannot run on the device.
        ConnectionError: If they do not find each other.
    """
    environment = os.environ
    if int(environment.get('WORLD_SIZE', 1)) < 2 or not {'RANK', 'MASTER_ADDR', 'MASTER_PORT'} <= set(environment):
        yield
        return
    local_rank = int(environment.get('LOCAL_RANK', 0))
    if device.type == 'mps':
        raise ValueError('ranks exchange gradients on CPUs and CUDA GPUs only: set device=cpu, or start one process')
    if device.type == 'cuda':
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f'there are more ranks than GPUs: start {torch.cuda.device_count()} on this machine '
                '(--nproc-per-node), or set device=cpu'
            )
        torch.cuda.set_device(local_rank)
    with _connection():
        shared, number, count = next(dist.rendezvous('env://', timeout=_START))
        store = _fresh(shared)
        if store.add('arrived', 1) % count == 0:
            store.set('complete', '1')
        store.wait(['complete'], _START)
        dist.init_process_group(
            'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo',
            store=store,
            rank=number,
            world_size=count,
            timeout=timedelta(seconds=timeout),
        )
        _patient(dist.group.WORLD)
    yield
    # Not after an error: the others may be gone, and the system closes what is open.
    _patient.cache_clear()
    dist.destroy_process_group()


def _fresh(store: dist.Store) -> dist.Store:
    """A part of the store that no earlier attempt has written to.

    torchrun (torch 2.14) hands the same store to all attempts, and gloo finds the addresses of dead processes in it.
    With several agents the attempts are counted by each on its own, so only their environment helps.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return store
    if os.environ.get('GROUP_WORLD_SIZE') == '1':
        return dist.PrefixStore(f'attempt-{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
    if int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) > 0 and os.environ.get('RANK') == '0':
        warnings.warn(
            'torchrun cannot restart ranks on several machines when they share its store: set '
            'TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where it is started',
            stacklevel=2,
        )
    return store


@functools.cache
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """The same ranks, for waiting without a limit."""
    return cast(dist.ProcessGroup, dist.new_group(backend='gloo', timeout=_PATIENCE))


@contextmanager
def _connection() -> Iterator[None]:
    """Say in a line that another rank is gone; the backends raise RuntimeError, with their own stack in it."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r'^\[\S+\] ', '', first_line(error))  # the place in gloo's source
        raise ConnectionError(
            f'rank {os.environ.get("RANK", 0)} has lost the other ranks ({reason}): '
            'the same command goes on from the last checkpoint'
        ) from error


def first(function: Callable[[], T]) -> T:
    """Let the first rank do something, for as long as it takes; all ranks get what it returns.

    Args:
        function: What is to be done. Its result must be picklable.

    Raises:
        ValueError: What ``function`` raises, or OSError, on the first rank.
        SystemExit: On the other ranks, if it raised one of these on the first.
    """
    if size() == 1:
        return function()
    error: Exception | None = None
    box: list[T | None] = [None, None]
    if rank() == 0:
        try:
            with alone():
                box[0] = function()
        except (ValueError, OSError) as raised:
            error = raised
    failed = largest(error is not None, patient=True)[0]
    if error is not None:
        raise error
    if failed:
        raise SystemExit(2)  # the first rank says why
    with _connection():
        dist.broadcast_object_list(box, src=0, group=_patient(dist.group.WORLD))
    return box[0]  # type: ignore[return-value]


def together(function: Callable[[], None]) -> None:
    """Let every rank do something on its own, such as checks; if one fails, all end and one line says why.

    Raises:
        ValueError: On the first rank, what any rank raised.
        SystemExit: On the other ranks.
    """
    if size() == 1:
        function()
        return
    error: Exception | None = None
    try:
        with alone():
            function()
    except (ValueError, OSError) as raised:
        error = raised
    messages: list[str | None] = [None] * size()
    largest(0, patient=True)
    with _connection():
        dist.all_gather_object(messages, None if error is None else str(error), group=_patient(dist.group.WORLD))
    if not any(messages):
        return
    if rank():
        raise SystemExit(2)
    if error is not None:
        raise error
    number = next(i for i, message in enumerate(messages) if message)
    raise ValueError(f'rank {number}: {messages[number]}')


def largest(*values: int, patient: bool = False) -> tuple[int, ...]:
    """The largest of each value over the ranks.

    Args:
        *values: Numbers; the same count of them on each rank.
        patient: Wait without a limit, and answer to signals meanwhile.
    """
    if size() == 1:
        return values
    packed = torch.tensor([int(value) for value in values])
    with _connection():
        if patient:
            work = dist.all_reduce(packed, dist.ReduceOp.MAX, _patient(dist.group.WORLD), async_op=True)
            pause = _PAUSES[0]
            while not work.is_completed():
                time.sleep(pause)
                pause = min(2 * pause, _PAUSES[1])
            work.wait()
        else:
            dist.all_reduce(packed, dist.ReduceOp.MAX)
    return tuple(packed.tolist())


def sum_(tensor: torch.Tensor) -> None:
    """Replace a tensor by its sum over the ranks."""
    if size() > 1:
        with _connection():
            dist.all_reduce(tensor)


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the ranks, for example of a reward that steers what follows."""
    tensor = tensor.detach().clone()
    mean_([tensor])
    return tensor


@torch.no_grad()
def mean_(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their means over the ranks, all of them in one message."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    sum_(flat)
    flat /= size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients that exist by their means over the ranks, in one message.

    All ranks run the same paths, so the same gradients exist on each; a block off the path costs nothing, while
    DistributedDataParallel would send zeros for it.

    Args:
        parameters: In the same order on all ranks.
    """
    if size() == 1:
        return
    # In the order in which the weights lie in memory, which is the same on all ranks, so that nothing is transposed.
    mean_([_in_memory_order(p.grad, p) for p in parameters if p.grad is not None])


def _in_memory_order(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor


@torch.no_grad()
def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks, in the order of the ranks: [N, ...] -> [size * N, ...], without gradients.

    Args:
        tensor: As many rows on each rank.
    """
    if size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(size())]
    with _connection():
        dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def broadcast(modules: Iterable[nn.Module]) -> None:
    """Give all ranks the weights and buffers of the first; machines of different kinds draw them a bit differently."""
    if size() == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values():
            whole = tensor.contiguous()
            with _connection():
                dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def expect_equal(what: str, value: object, remedy: str) -> None:
    """Make sure that all ranks agree on something.

    Args:
        what: What it is, for the message.
        value: Something with a stable ``repr``.
        remedy: What to do about it.

    Raises:
        ValueError: If they do not.
    """
    if size() == 1:
        return
    digest = int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=7).digest(), 'big')
    different = (gather(torch.tensor([digest])) != digest).nonzero()[:, 0].tolist()
    if different:
        raise ValueError(f'rank {rank()}: {what} is another one on rank {different[0]}: {remedy}')


def sync_batch_norm(module: ModuleT) -> ModuleT:
    """Batch norms that take their statistics from all ranks; on GPUs only."""
    return module if size() == 1 else nn.SyncBatchNorm.convert_sync_batchnorm(module)
