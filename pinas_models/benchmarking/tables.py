"""A benchmark as text, as Markdown and in the columns of timm's tables."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

from ..common.files import write_text
from .authors import reported, table_title
from .measure import BENCHES, Benchmark, Contender, Ratio, Setup

__all__ = [
    'MARKERS',
    'check_markdown_file',
    'check_results_file',
    'markdown_table',
    'replace_in_markdown',
    'text_table',
    'write_results',
]

MARKERS = ('<!-- benchmark -->', '<!-- /benchmark -->')
# The headers of timm's results/benchmark-*.csv, so that its tools read the table; further columns stand behind these.
_TIMM_COLUMNS = (
    'model',
    'infer_img_size',
    'infer_samples_per_sec',
    'infer_step_time',
    'infer_batch_size',
    'param_count',
    'infer_gmacs',
    'infer_macts',
    'train_samples_per_sec',
    'train_step_time',
    'train_batch_size',
    'train_img_size',
)
_OUR_COLUMNS = (
    *(f'{bench}_{column}' for bench in BENCHES for column in ('ratio', 'ratio_low', 'ratio_high', 'peak_bytes')),
    'reference',
    'authors_params',
    'authors_flops',
    'authors_samples_per_sec',
    'authors_ratio',
    'authors_gpu_memory',
    'authors_top1',
    'device',
    'dtype',
    'channels_last',
    'compiler',
    'repeats',
    'machine',
    'error',
)
_BENCH_NAMES = {'infer': 'inference', 'train': 'training'}
_GIB = 2**30


def _header(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Group and name of the columns that people read."""
    measured = [(_BENCH_NAMES[bench], name) for bench in benchmark.benches for name in ('img/s', 'ratio', 'GiB')]
    theirs = [('authors', name) for name in ('params', 'FLOPs', 'img/s', 'ratio', 'memory', 'top-1')]
    return [('', 'network'), ('', 'params'), ('', 'GMACs'), *measured, *theirs]


def _cells(contender: Contender, benchmark: Benchmark) -> list[str]:
    costs, theirs = contender.costs, reported(contender.name)
    cells = [contender.name, *((f'{costs.params / 1e6:.2f}M', f'{costs.macs / 1e9:.2f}') if costs else '--')]
    for bench in benchmark.benches:
        speed, peak, ratio = contender.speed(bench), contender.peaks.get(bench), _ratio(contender, benchmark, bench)
        cells += [
            'failed' if speed is None else f'{speed:.1f}',
            '-' if ratio is None else f'{ratio.median:.2f}',
            '-' if peak is None else f'{peak / _GIB:.2f}',
        ]
    if theirs is None:
        return [*cells, *'------']
    ratio_text = '-' if theirs.ratio is None else f'{theirs.ratio:.2f}'
    return [*cells, theirs.params, theirs.flops, theirs.speed, ratio_text, theirs.memory, theirs.top1]


def _ratio(contender: Contender, benchmark: Benchmark, bench: str) -> Ratio | None:
    return None if benchmark.reference is None else contender.ratio(benchmark.reference, bench)


def _setup_text(setup: Setup) -> str:
    words = [f'amp {setup.amp}' if setup.amp else setup.dtype]
    if setup.channels_last:
        words.append('channels_last')
    if setup.compiler:
        words.append(f'compiled by {setup.compiler}')
    return ', '.join(words)


def _notes(benchmark: Benchmark) -> list[str]:
    """What the numbers mean, and what could not be measured."""
    setup = benchmark.setup
    memory = 'growth of a process of its own' if setup.device == 'cpu' else "sum of torch's allocations"
    reference = benchmark.reference.name if benchmark.reference else 'nothing'
    names = ', '.join(f'{row.title} is {c.name}' for c in benchmark.contenders if (row := reported(c.name)))
    return [
        f'Measured: batches of {setup.batch_size}, {_setup_text(setup)}; {_sizes(benchmark)}. {benchmark.machine}.',
        f'img/s: median of {benchmark.repeats} rounds in which the networks take turns. ratio: to {reference} in the '
        f'same round, median. GiB: largest {memory}. Training: forward, backward, a step of SGD with momentum.',
        f'Authors: reported by the authors, not measured here: {table_title()}. Their ratio is to ResNeSt-50.',
        f'Their names: {names or "none of these"}.',
        *(f'Failed: {c.name}, {what}: {why}' for c in benchmark.contenders for what, why in c.errors.items()),
    ]


def _sizes(benchmark: Benchmark) -> str:
    sizes = {c.name: 'x'.join(map(str, c.input_size[1:])) for c in benchmark.contenders if c.costs is not None}
    usual = statistics.mode(sizes.values()) if sizes else 'no size'
    others = [f'{name} {size}' for name, size in sizes.items() if size != usual]
    return ', '.join([f'images of {usual} px', *others])


def text_table(benchmark: Benchmark) -> str:
    """The benchmark as a table for a terminal, and what it means."""
    header = _header(benchmark)
    rows = [[name for _, name in header], *(_cells(c, benchmark) for c in benchmark.contenders)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    groups = dict.fromkeys(group for group, _ in header)
    top = ''
    for group in groups:
        columns = [width for (name, _), width in zip(header, widths, strict=True) if name == group]
        top += group.center(sum(columns) + 2 * len(columns))
    lines = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return '\n'.join([top.rstrip(), *lines, '', *_notes(benchmark)])


def markdown_table(benchmark: Benchmark) -> str:
    """The benchmark as a table in Markdown, and what it means."""
    header = _header(benchmark)
    lines = [
        '| ' + ' | '.join(f'{group} {name}'.strip() for group, name in header) + ' |',
        '|---|' + '---:|' * (len(header) - 1),
    ]
    for contender in benchmark.contenders:
        name, *cells = _cells(contender, benchmark)
        lines.append('| ' + ' | '.join([f'`{name}`', *cells]) + ' |')
    return '\n'.join([*lines, '', *(f'- {note}' for note in _notes(benchmark))])


def _split_markdown(file: Path) -> tuple[str, str]:
    """What stands before and behind the place of the table, the markers included."""
    text = file.read_text(encoding='utf-8')
    begin, end = MARKERS
    before, found_begin, rest = text.partition(begin)
    _, found_end, behind = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f'{file} has no place for the table: write the lines {begin} and {end} where it shall stand')
    return before + begin, end + behind


def check_markdown_file(file: Path) -> None:
    """Check that a table can be put into a Markdown file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has no place for the table.
    """
    _split_markdown(file)


def replace_in_markdown(file: Path, benchmark: Benchmark) -> None:
    """Put the table between the two ``MARKERS`` of a Markdown file, instead of what stands there.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If it has no place for the table.
    """
    before, behind = _split_markdown(file)
    write_text(file, f'{before}\n{markdown_table(benchmark)}\n{behind}')


def check_results_file(file: Path) -> None:
    """Check that a file may be written: it does not exist, or is a table of a benchmark.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is another kind of file.
    """
    if not file.exists():
        return
    with file.open(encoding='utf-8', errors='replace', newline='') as stream:
        header = next(csv.reader(stream), [])
    if not set(_TIMM_COLUMNS) <= set(header):
        raise ValueError(f'{file} exists and is no table of a benchmark: give another name for the results')


def write_results(file: Path, benchmark: Benchmark) -> None:
    """Write the benchmark as CSV: timm's columns first.

    Raises:
        OSError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_TIMM_COLUMNS, *_OUR_COLUMNS), restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(_record(contender, benchmark) for contender in benchmark.contenders)
    write_text(file, text.getvalue())


def _record(contender: Contender, benchmark: Benchmark) -> dict[str, object]:
    setup, costs, theirs = benchmark.setup, contender.costs, reported(contender.name)
    record: dict[str, object] = {
        'model': contender.name,
        'reference': benchmark.reference.name if benchmark.reference else '',
        'device': setup.device,
        'dtype': f'amp {setup.amp}' if setup.amp else setup.dtype,
        'channels_last': setup.channels_last,
        'compiler': setup.compiler or '',
        'repeats': benchmark.repeats,
        'machine': benchmark.machine,
        'error': '; '.join(f'{what}: {why}' for what, why in contender.errors.items()),
    }
    if costs is not None:
        record['param_count'] = round(costs.params / 1e6, 2)
        record['infer_gmacs'] = round(costs.macs / 1e9, 2)
        record['infer_macts'] = round(costs.activations / 1e6, 2)
    for bench in benchmark.benches if costs is not None else ():
        speed, ratio = contender.speed(bench), _ratio(contender, benchmark, bench)
        peak = contender.peaks.get(bench)
        record[f'{bench}_img_size'] = contender.input_size[-1]
        record[f'{bench}_batch_size'] = setup.batch_size
        record[f'{bench}_peak_bytes'] = '' if peak is None else peak
        if speed is not None:
            record[f'{bench}_samples_per_sec'] = round(speed, 2)
            record[f'{bench}_step_time'] = round(1000 * setup.batch_size / speed, 3)  # milliseconds
        if ratio is not None:
            record[f'{bench}_ratio'] = round(ratio.median, 4)
            record[f'{bench}_ratio_low'] = round(ratio.low, 4)
            record[f'{bench}_ratio_high'] = round(ratio.high, 4)
    if theirs is not None:
        record |= {
            'authors_params': theirs.params,
            'authors_flops': theirs.flops,
            'authors_samples_per_sec': theirs.speed,
            'authors_ratio': '' if theirs.ratio is None else round(theirs.ratio, 4),
            'authors_gpu_memory': theirs.memory,
            'authors_top1': theirs.top1,
        }
    return record
