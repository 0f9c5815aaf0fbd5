"""Wall time and peak memory of ``make demo`` after installation, and the time of each stage."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hardware import description

from pinas_search import STAGES


def main() -> None:
    """Run the demo in a fresh folder and print its cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Example: python benchmarks/demo.py', formatter_class=argparse.HelpFormatter
    )
    parser.add_argument('overrides', nargs='*', help='settings, key=value')
    args = parser.parse_args()
    print(description())
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / 'run'
        begin = time.perf_counter()
        command = [sys.executable, '-m', 'pinas_search.cli', 'run', '--config', 'digits', '--out', str(run)]
        subprocess.run([*command, *args.overrides], check=True)
        seconds = time.perf_counter() - begin
        for stage in STAGES:
            done = run / stage / 'done.json'
            if done.exists():  # the report keeps no time; without a truth there is no ranking
                print(f'{stage:8} {json.loads(done.read_text())["seconds"]:7.1f} s')
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    print(f'whole    {seconds:7.1f} s, peak memory {peak:.2f} GiB')


if __name__ == '__main__':
    main()
