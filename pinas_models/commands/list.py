"""``pinas-models list``: the registered models and their weights."""

from __future__ import annotations

import argparse
import json

import timm

from .. import pinas

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'list the models and the weights known for them'
EXAMPLES = """examples:
  pinas-models list
  pinas-models list 'pinas_t*' --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('filter', nargs='?', default='*', help='only names that match this pattern (default: all)')
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Print one line per model and tag.

    Raises:
        ValueError: If no model matches the pattern.
    """
    module = pinas.__name__.rsplit('.', 1)[-1]
    rows = []
    for name in timm.list_models(args.filter, module=module, include_tags=True):
        cfg = timm.get_pretrained_cfg(name)
        source = cfg.file or cfg.hf_hub_id or None
        rows.append({'model': name, 'input_size': list(cfg.input_size), 'classes': cfg.num_classes, 'weights': source})
    if not rows:
        raise ValueError(f'no model matches {args.filter!r}; see pinas-models list')
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        size = 'x'.join(map(str, row['input_size']))
        print(f'{row["model"]:32} {size:>10} {row["classes"]:>5} classes   {row["weights"] or "no weights"}')
    return 0
