"""The commands that run stages: one each, all of them, or none but the checks before them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .. import STAGES

__all__ = ['STAGE_COMMANDS', 'StageCommand']


@dataclass(frozen=True)
class StageCommand:
    """Checks a configuration, then runs stages.

    Attributes:
        stages: Their names, in order; none for the checks alone.
        HELP: What the command does.
        EXAMPLES: Lines that show it.
    """

    stages: tuple[str, ...]
    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            '--config',
            action='append',
            metavar='NAME',
            help='YAML file or built-in name; several: later ones win (default: the one in --out, else digits)',
        )
        parser.add_argument('--out', type=Path, metavar='DIR', help='run directory (default: runs/<config>-<seed>)')
        parser.add_argument('--seed', type=int, help='seed of everything random')
        parser.add_argument('--device', help='auto, cpu, cuda or mps')
        parser.add_argument(
            '--workers', type=int, default=1, metavar='N', help='train so many networks at a time (truth, retrain)'
        )
        parser.add_argument('--show', action='store_true', help='print the resolved configuration as YAML and stop')
        parser.add_argument('overrides', nargs='*', metavar='key=value', help='any setting, such as learn.epochs=2')

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; returns the exit code.

        Raises:
            ValueError: For anything that is wrong with the configuration or the run directory.
        """
        import torch

        from .. import distributed
        from ..config import check_run_dir, parse_config, read_run_config, to_yaml
        from ..records import own
        from ..stages import Run, run_stages
        from ..stages.checks import check_run

        written = args.out / 'config.yaml' if args.out else None
        begun = written is not None and written.exists()
        if written is not None and begun:
            read_run_config(written)
        sources = args.config or ([str(written)] if begun else ['digits'])
        shortcuts = {'seed': args.seed, 'device': args.device}
        given = [f'{key}={value}' for key, value in shortcuts.items() if value is not None]
        config = parse_config(sources, [*args.overrides, *given])
        first = int(os.environ.get('RANK', 0)) == 0
        if args.show:
            print(to_yaml(config) if first else '', end='')
            return 0
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if args.workers < 1:
            raise ValueError(f'--workers is {args.workers}: at least 1 is needed')
        run = Run(config, args.out or Path('runs') / f'{Path(sources[-1]).stem}-{config.seed}', workers=args.workers)
        with ExitStack() as stack:
            stack.enter_context(distributed.joined(run.device, config.rank_timeout))
            ranks, first = distributed.size(), distributed.rank() == 0  # the first one speaks, and owns the directory

            def begin() -> None:
                if ranks > 1 and args.workers > 1:
                    raise ValueError('--workers trains networks side by side, ranks train one together: choose one')
                if self.stages != ('report',):
                    check_run(run, ranks)  # before the directory is begun
                if not self.stages or not first:
                    return
                stack.enter_context(own(run.path))
                if self.stages != ('report',):
                    check_run_dir(config, run.path)
                    run.note_classes()

            if not first:
                warnings.simplefilter('ignore')
            distributed.together(begin)
            if not self.stages and first:
                space, classes = run.space, run.num_classes
                print(f'nothing to object: {space.name} with {space.size:,} networks, {classes} classes')
            try:
                run_stages(run, run.stages if self.stages == STAGES else self.stages)
            except KeyboardInterrupt as error:
                if first:
                    print('pinas-search: interrupted; the same command goes on from here', file=sys.stderr)
                return 128 + getattr(error, 'number', 2)
        return 0


_ALL = """examples:
  pinas-search run --config digits                            everything on built-in data, a few minutes on two cores
  pinas-search run --config cifar10 data.root=data/cifar10    Π-NAS on CIFAR-10
  pinas-search run --config digits --seed 3 learn.epochs=2    change any setting with key=value
  pinas-search run --config cifar10 --show                    print every setting and its value, and stop

Starting again with the same --out continues where a run stopped. Settings are the fields of the configuration file,
dotted.
"""
_HELP = {
    'learn': 'learn the supernet',
    'linear': 'train a classifier on the frozen supernet',
    'search': 'score candidates and choose the winner',
    'truth': 'train networks whose true accuracies the ranking is judged by',
    'rank': 'say how well the supernet ranks networks of known accuracy',
    'retrain': 'train the winner, and others for comparison, on their own',
    'report': 'write the page again',
}
_ONE = """examples:
  pinas-search {0} --config digits --out runs/digits-0     it goes on where it stopped
"""
_EXAMPLES = {
    'truth': """examples:
  pinas-search truth --config cifar10 data.root=data/cifar10 truth.networks=24 truth.trainings=2 --workers 2

The recipe is that of retrain. The table of a run, runs/NAME/truth/table.csv, is the truth of other runs with
truth.file=runs/NAME/truth/table.csv truth.column=accuracy.
""",
    'rank': """examples:
  pinas-search rank --config nasbench201 data.root=data/cifar10 truth.file=nasbench201_200ep.csv.gz
  pinas-search rank --out runs/nasbench201-0 rank.calibration='[0,1,2,4]'
""",
}

STAGE_COMMANDS = {
    'run': StageCommand(STAGES, 'run all stages, in order', _ALL),
    **{name: StageCommand((name,), _HELP[name], _EXAMPLES.get(name, _ONE.format(name))) for name in STAGES},
    'check': StageCommand(
        (),
        'find what is wrong with a configuration before hours of work',
        'examples:\n  pinas-search check --config cifar10 data.root=data/cifar10\n',
    ),
}
