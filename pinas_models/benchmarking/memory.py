"""Peak memory of a network: of torch's allocator on a GPU, of a process of its own on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from .workloads import RUN_ERRORS, Setup, explain, open_untrained, running, synchronize

__all__ = ['answer_task', 'peak_memory']

_STEPS = 2  # the second has what the first leaves behind, such as the optimizer's momentum


def peak_memory(name: str, model: nn.Module, bench: str, input_size: tuple[int, int, int], setup: Setup) -> int | None:
    """Measure the largest memory that steps of a network take.

    On a GPU it is what torch has allocated for the network, its images and its gradients. On the CPU it is by how much
    the resident memory of a process grows that does nothing else, once Python and its libraries are there.

    Args:
        name: What opens the network in the other process.
        model: The network.
        bench: ``infer`` or ``train``.
        input_size: Shape of an image, [C, H, W].
        setup: How it runs.

    Returns:
        Bytes; None where the system does not tell.

    Raises:
        ValueError: If the network does not run, for example because there is not enough memory.
    """
    kind = torch.device(setup.device).type
    if kind == 'cpu':
        return _in_own_process(name, bench, input_size, setup)
    if kind != 'cuda':
        return None
    try:
        torch.cuda.reset_peak_memory_stats(setup.device)
        _make_steps(model, bench, input_size, setup)
        return torch.cuda.max_memory_allocated(setup.device)
    except RUN_ERRORS as error:
        raise ValueError(explain(error, setup.batch_size)) from error


def _make_steps(model: nn.Module, bench: str, input_size: tuple[int, int, int], setup: Setup) -> None:
    with running(model, bench, input_size, setup) as step:
        for _ in range(_STEPS):
            step()
        synchronize(setup.device)


def _in_own_process(name: str, bench: str, input_size: tuple[int, int, int], setup: Setup) -> int | None:
    task = json.dumps({'name': name, 'bench': bench, 'input_size': input_size, 'setup': asdict(setup)})
    done = subprocess.run([sys.executable, '-m', __package__, task], capture_output=True, text=True, check=False)
    if done.returncode < 0:  # by a signal: the system's way of saying that there is no more memory
        raise ValueError(f'out of memory with batches of {setup.batch_size} (its process was killed)')
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ['its process failed'])[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    if 'error' in answer:
        raise ValueError(answer['error'])
    return answer['peak']


def _resident_memory(largest: bool) -> int | None:
    """Resident memory of this process, now or at its largest, in bytes; None where the system does not tell."""
    status = Path('/proc/self/status')
    if status.exists():
        # Not getrusage, which begins with what the parent had when it started this process.
        field = 'VmHWM:' if largest else 'VmRSS:'
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the largest, in bytes on macOS


def answer_task(task: str) -> str:
    """What the process that was started for a measurement prints.

    Args:
        task: What ``_in_own_process`` asks for, as JSON.

    Returns:
        JSON with the ``peak`` in bytes, or an ``error``.
    """
    args = json.loads(task)
    setup = Setup(**args['setup'])
    before = _resident_memory(largest=False)
    try:
        _make_steps(open_untrained(args['name']), args['bench'], tuple(args['input_size']), setup)
    except RUN_ERRORS as error:
        return json.dumps({'error': explain(error, setup.batch_size)})
    peak = _resident_memory(largest=True)
    return json.dumps({'peak': None if peak is None or before is None else peak - before})
