"""How many milliseconds ``import pinas_models`` adds to ``import timm``.

Each measurement is a fresh interpreter; the two kinds alternate, so that a busy machine slows both alike.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version

from hardware import cpu_name

# The time of the imports alone, without the start of the interpreter, which is the same for both.
CODE = """
import time
start = time.perf_counter()
import timm
after_timm = time.perf_counter()
{second}
end = time.perf_counter()
print(end - start, end - after_timm)
"""


def measure(second: str) -> tuple[float, float]:
    """Run the imports once in a fresh interpreter.

    Args:
        second: The statement after ``import timm``.

    Returns:
        Milliseconds of both imports, and of the second one.
    """
    done = subprocess.run(
        [sys.executable, '-c', CODE.format(second=second)], capture_output=True, text=True, check=True
    )
    both, alone = map(float, done.stdout.split())
    return both * 1000, alone * 1000


def main() -> None:
    """Print the medians and what the package adds."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/import_time.py --repeats 15',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--repeats', type=int, default=11, help='fresh interpreters per kind, at least 7')
    args = parser.parse_args()
    if args.repeats < 7:
        parser.error(f'--repeats is {args.repeats}; the median needs at least 7')

    for second in ('pass', 'import pinas_models'):  # fill the file cache and write the bytecode
        measure(second)
    timm_alone, with_ours, ours = [], [], []
    for _ in range(args.repeats):
        timm_alone.append(measure('pass')[0])
        both, alone = measure('import pinas_models')
        with_ours.append(both)
        ours.append(alone)

    versions = ', '.join(f'{package} {version(package)}' for package in ('torch', 'timm', 'pinas-models'))
    threads = os.environ.get('OMP_NUM_THREADS', 'default')
    print(f'{cpu_name()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}, {platform.system()}')
    print(f'Python {platform.python_version()}, {versions}; medians of {args.repeats} fresh interpreters')
    before, after = statistics.median(timm_alone), statistics.median(with_ours)
    print(f'import timm                 {before:8.1f} ms  ({min(timm_alone):.1f} .. {max(timm_alone):.1f})')
    print(f'import timm, pinas_models   {after:8.1f} ms  ({min(with_ours):.1f} .. {max(with_ours):.1f})')
    print(f'added, difference of medians{after - before:8.1f} ms')
    print(f'added, the second import    {statistics.median(ours):8.1f} ms  ({min(ours):.1f} .. {max(ours):.1f})')


if __name__ == '__main__':
    main()
