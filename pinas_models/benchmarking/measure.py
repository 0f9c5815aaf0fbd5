"""Measuring networks in turns, so that whatever else the machine does meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from ..inspect.costs import Costs
from .memory import peak_memory
from .workloads import BENCHES, RUN_ERRORS, Setup, explain, running, synchronize

__all__ = ['BENCHES', 'Benchmark', 'Contender', 'Ratio', 'Setup', 'measure_peaks', 'measure_speeds']


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one network is as another.

    Attributes:
        median: Median of the rounds.
        low: Smallest of the rounds.
        high: Largest of the rounds.
    """

    median: float
    low: float
    high: float


@dataclass
class Contender:
    """A network and what was measured of it.

    Attributes:
        name: What the user calls it.
        model: The network; None if it could not be opened.
        input_size: Shape of its images, [C, H, W].
        costs: What it costs for one image.
        speeds: Images per second in each round, by ``infer`` and ``train``.
        peaks: Largest memory in bytes, by ``infer`` and ``train``; None where the system does not tell.
        errors: Why something could not be measured, by ``infer`` and ``train``, or ``open``.
    """

    name: str
    model: nn.Module | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    costs: Costs | None = None
    speeds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def speed(self, bench: str) -> float | None:
        """Median of the images per second; None if they were not measured."""
        return statistics.median(self.speeds[bench]) if bench in self.speeds else None

    def ratio(self, other: Contender, bench: str) -> Ratio | None:
        """How many times as fast as another it is, each round for itself; None if one of them was not measured."""
        if bench not in self.speeds or bench not in other.speeds:
            return None
        ratios = [a / b for a, b in zip(self.speeds[bench], other.speeds[bench], strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Benchmark:
    """A finished benchmark.

    Attributes:
        contenders: The networks, in the user's order.
        reference: The network that ratios refer to; None if nothing could be measured.
        benches: What was measured, of ``infer`` and ``train``.
        setup: How the networks ran.
        repeats: Number of rounds.
        machine: Hardware and versions in words.
    """

    contenders: Sequence[Contender]
    reference: Contender | None
    benches: Sequence[str]
    setup: Setup
    repeats: int
    machine: str


def _runnable(contenders: Sequence[Contender], bench: str) -> list[tuple[Contender, nn.Module]]:
    return [(c, c.model) for c in contenders if c.model is not None and bench not in c.errors]


def measure_peaks(
    contenders: Sequence[Contender], benches: Sequence[str], setup: Setup, progress: Callable[[str], None]
) -> None:
    """Measure the peak memory of networks and write it into them, or why it could not be measured.

    Args:
        contenders: The networks.
        benches: What to measure, of ``infer`` and ``train``.
        setup: How they run.
        progress: Told of every measurement in a few words.
    """
    for bench in benches:
        for contender, model in _runnable(contenders, bench):
            try:
                peak = peak_memory(contender.name, model, bench, contender.input_size, setup)
                contender.peaks[bench] = peak
                note = 'unknown memory' if peak is None else f'{peak / 2**30:.2f} GiB'
            except ValueError as error:
                note = contender.errors[bench] = str(error)
            progress(f'{contender.name} {bench}: {note}')


def measure_speeds(
    contenders: Sequence[Contender],
    benches: Sequence[str],
    setup: Setup,
    *,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Measure the images per second of networks and write them into them, or why they could not be measured.

    In every round each network runs in its turn: one step to warm up, then steps for a given time.

    Args:
        contenders: The networks.
        benches: What to measure, of ``infer`` and ``train``.
        setup: How they run.
        repeats: Number of rounds.
        seconds: Shortest time that a network is measured in a round; at least one step is.
        progress: Told of every measurement in a few words.
    """
    for _ in range(repeats):
        for bench in benches:
            for contender, model in _runnable(contenders, bench):
                try:
                    speed = _images_per_second(model, bench, contender.input_size, setup, seconds)
                    contender.speeds.setdefault(bench, []).append(speed)
                    note = f'{speed:.1f} images/s'
                except RUN_ERRORS as error:
                    contender.speeds.pop(bench, None)
                    note = contender.errors[bench] = explain(error, setup.batch_size)
                progress(f'{contender.name} {bench}: {note}')


def _images_per_second(
    model: nn.Module, bench: str, input_size: tuple[int, int, int], setup: Setup, seconds: float
) -> float:
    with running(model, bench, input_size, setup) as step:
        step()
        synchronize(setup.device)
        steps, elapsed, begin = 0, 0.0, time.perf_counter()
        while steps == 0 or elapsed < seconds:
            step()
            synchronize(setup.device)
            steps += 1
            elapsed = time.perf_counter() - begin
        return steps * setup.batch_size / elapsed
