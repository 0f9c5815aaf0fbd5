"""A study in words, before any of it runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..config import differences
from .spec import Study

__all__ = ['describe']


def describe(study: Study, out: Path) -> str:
    """The runs, where they will be, and the settings in which they differ from the baseline.

    Args:
        study: The study.
        out: The folder of the run directories.
    """
    base = study.baseline
    count = sum(len(run.configs) for run in study.runs)
    lines = [f'{study.name}: {count} runs in {out}, stages {", ".join(study.stages)}']
    if base.config.truth.trained_here:
        lines.append(f'the truth, {base.config.truth.networks} networks, is trained once in {out / "truth"}')
    for run in study.runs:
        seeds = ', '.join(map(str, run.configs))
        passes = (
            ''
            if run.passes is None
            else f', {run.passes.forward:g} forward and {run.passes.backward:g} backward passes'
        )
        lines.append(f'\n{run.name}  seeds {seeds}{passes}{"  (the baseline)" if run is base else ""}')
        for key, (value, before) in differences(run.config, base.config).items():
            if key != 'seed':
                lines.append(f'  {key}: {_value(value)}  ({base.name}: {_value(before)})')
    return '\n'.join(lines) + '\n'


def _value(value: object) -> str:
    return '-' if value is None else yaml.safe_dump(value, default_flow_style=True).split('\n')[0]
