"""Speed and memory of networks, side by side: what ``pinas-models benchmark`` measures and how it shows it."""

from .measure import BENCHES, Benchmark, Contender, Setup, measure_peaks, measure_speeds

__all__ = ['BENCHES', 'Benchmark', 'Contender', 'Setup', 'measure_peaks', 'measure_speeds']
