"""``pinas-downstream tool``: run a program of mmdet, mmseg or anybody else with everything registered."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
import traceback
from pathlib import Path

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'run any program of mmdet, mmseg or your own with the backbone and the operators at hand'
EXAMPLES = """TOOL is a Python file, or mmdet/NAME or mmseg/NAME for a tool that comes with these packages (train, test,
analysis_tools/get_flops, ...). It runs as python TOOL ARGS... would, behind import pinas_downstream: a configuration
then needs no custom_imports, and programs that import mmdet before they read one work without compiled operators.

examples:
  pinas-downstream tool mmdet/train my_config.py --work-dir runs/detector
  pinas-downstream tool mmseg/test my_config.py runs/segmentor/iter_900.pth
  pinas-downstream tool my_script.py --any --option
  torchrun --nproc-per-node 8 -m pinas_downstream.cli tool mmdet/train my_config.py --launcher pytorch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('tool', metavar='TOOL', help='a Python file, mmdet/NAME or mmseg/NAME')
    parser.add_argument('arguments', metavar='ARGS', nargs=argparse.REMAINDER, help='its arguments, as they are')


def run(args: argparse.Namespace) -> int:
    """Run the program; returns 1 with its traceback if it fails.

    Raises:
        FileNotFoundError: If there is no such program.
        SystemExit: If the program ends so.
    """
    tool = _find(args.tool)
    sys.argv = [str(tool), *args.arguments]
    sys.path.insert(0, str(tool.parent))  # as python does
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except Exception:  # it is not ours to say whether this is a user's mistake
        traceback.print_exc()
        return 1
    return 0


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    package, _, tool = name.partition('/')
    spec = importlib.util.find_spec(package) if package in ('mmdet', 'mmseg') and tool else None
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / '.mim' / 'tools'
        path = folder / (tool if tool.endswith('.py') else f'{tool}.py')
        if path.is_file():
            return path
        known = sorted(str(file.relative_to(folder).with_suffix('')) for file in folder.rglob('*.py'))
        raise FileNotFoundError(f'{name}: there is no such tool in {folder}; it has {", ".join(known) or "none"}')
    raise FileNotFoundError(f'{name}: no such file; the tools of the packages are mmdet/train, mmseg/test and so on')
