"""A benchmark as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .authors import reported
from .measure import Benchmark, Contender

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ['check_plot_file', 'plot_benchmark']


def check_plot_file(file: Path) -> None:
    """Check that a picture can be drawn into a file of this name.

    Raises:
        ValueError: If matplotlib is missing, or knows no such format.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'pinas-models[search]'") from None
    formats = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in formats:
        raise ValueError(f'--plot cannot write {file}: the name must end in .png, .svg or .pdf')


def plot_benchmark(file: Path, benchmark: Benchmark) -> None:
    """Draw speeds beside those of the authors, and memory.

    Args:
        file: Picture to write; its suffix says the format.
        benchmark: A finished benchmark.

    Raises:
        OSError: If it cannot be written.
    """
    from matplotlib.figure import Figure

    contenders = [c for c in benchmark.contenders if c.speeds][::-1]  # the first one on top
    panels = len(benchmark.benches) + 1
    figure = Figure(figsize=(1.6 + 3.2 * panels, 1.6 + 0.45 * len(contenders)), layout='constrained')
    *speed_axes, memory_axis = figure.subplots(1, panels, sharey=True)
    for axis, bench in zip(speed_axes, benchmark.benches, strict=True):
        _draw_speeds(axis, bench, contenders, benchmark)
    _draw_memory(memory_axis, contenders, benchmark)
    speed_axes[0].set_yticks(range(len(contenders)), [c.name for c in contenders])
    figure.legend(loc='outside lower center', ncols=3, fontsize=8)
    figure.suptitle(f'Batches of {benchmark.setup.batch_size}. {benchmark.machine}', fontsize=8)
    figure.savefig(file, dpi=150)


def _draw_speeds(axis: Axes, bench: str, contenders: Sequence[Contender], benchmark: Benchmark) -> None:
    """Ratios as bars with the range of the rounds, the speed written in them, the authors' ratios as diamonds."""
    theirs: list[tuple[float, int]] = []
    for row, contender in enumerate(contenders):
        ratio = None if benchmark.reference is None else contender.ratio(benchmark.reference, bench)
        if ratio is not None:
            axis.barh(row, ratio.median, 0.6, color='0.8', edgecolor='0.4')
            axis.plot([ratio.low, ratio.high], [row, row], color='0.2')
            axis.annotate(
                f'{contender.speed(bench):.1f} images/s',
                (0, row),
                (4, 0),
                textcoords='offset points',
                va='center',
                fontsize=8,
            )
        row_of_authors = reported(contender.name)
        if bench == 'infer' and row_of_authors is not None and row_of_authors.ratio is not None:
            theirs.append((row_of_authors.ratio, row))
    if theirs:
        axis.plot(
            *zip(*theirs, strict=True), 'D', color='white', markeredgecolor='0.1', label='reported by the authors'
        )
    axis.set_title({'infer': 'Inference', 'train': 'Training'}[bench])
    axis.set_xlabel(f'speed, {benchmark.reference.name if benchmark.reference else "-"} = 1')
    axis.grid(axis='x', color='0.9')
    axis.set_axisbelow(True)


def _draw_memory(axis: Axes, contenders: Sequence[Contender], benchmark: Benchmark) -> None:
    height = 0.6 / len(benchmark.benches)
    for index, bench in enumerate(benchmark.benches):
        peaks = [(row - 0.3 + (index + 0.5) * height, c.peaks.get(bench)) for row, c in enumerate(contenders)]
        known = [(row, peak / 2**30) for row, peak in peaks if peak is not None]
        label = {'infer': 'inference', 'train': 'training'}[bench]
        axis.barh([r for r, _ in known], [p for _, p in known], height, color='0.8' if index else '0.45', label=label)
    axis.set_title('Memory')
    axis.set_xlabel('largest, GiB')
    axis.grid(axis='x', color='0.9')
    axis.set_axisbelow(True)
