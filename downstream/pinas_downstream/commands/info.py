"""``pinas-downstream info``: which configurations there are, and what is in one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from ..checks.model import check_channels
from ..config import builtin_configs
from ..config.classes import inner_datasets
from ..running import import_framework
from ..running.explain import explaining
from ._options import add_config_options, read_config

if TYPE_CHECKING:
    from torch import nn

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'list the configurations, or tell what is in one'
EXAMPLES = """examples:
  pinas-downstream info
  pinas-downstream info mask-rcnn_pinas-cls_coco
  pinas-downstream info deeplabv3_pinas-mini_camvid --data-root data/camvid --dump camvid.py
  pinas-downstream info my_config.py --cfg-options model.backbone.choices=trans
"""

_TASKS = {'mmdet': 'instance segmentation', 'mmseg': 'semantic segmentation'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_options(parser, optional=True)
    parser.add_argument('--dump', type=Path, metavar='FILE', help='write the complete configuration, bases and all')


def run(args: argparse.Namespace) -> int:
    """List the configurations, or describe one.

    Raises:
        OSError: If there is no such configuration, or a file cannot be written.
        ValueError: If the configuration is wrong.
    """
    if args.config is None:
        if args.dump or args.cfg_options or args.data_root or args.classes:
            raise ValueError('--dump, --cfg-options, --classes and --data-root are for a configuration: name one')
        _list()
        return 0
    config = read_config(args)
    with explaining():
        import_framework(config)
        lines = _describe(config)
    print('\n'.join(lines))
    if args.dump is not None:
        args.dump.parent.mkdir(parents=True, exist_ok=True)
        config.dump(args.dump)
        print(f'\nwritten to {args.dump}')
    return 0


def _list() -> None:
    known = builtin_configs()
    width = max(map(len, known))
    for framework, task in _TASKS.items():
        print(f'{framework}: {task}')
        for name, path in known.items():
            if path.parent.name == framework:
                print(f'  {name:{width}}  {_first_sentence(path)}')


def _first_sentence(path: Path) -> str:
    """What the comment at the top of a configuration says first."""
    comment = []
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        comment.append(line.lstrip('# '))
    return ' '.join(comment).split('. ')[0].rstrip('.:')


def _describe(config: Config) -> list[str]:
    import torch
    from mmengine.registry import MODELS, DefaultScope

    with torch.device('meta'), DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmengine')):
        model = MODELS.build(config.model)
    check_channels(model)
    rows = [
        ('configuration', str(config.filename)),
        ('model', f'{type(model).__name__} ({config.get("default_scope", "mmengine")})'),
        *_backbone(model),
        *_parameters(model),
        ('data', str(config.get('data_root', '-'))),
        *((split, _dataset(config.get(f'{split}_dataloader'))) for split in ('train', 'val', 'test')),
        ('schedule', _schedule(config)),
        ('optimizer', _call((config.get('optim_wrapper') or {}).get('optimizer') or {})),
        *(('learning rate', _call(scheduler)) for scheduler in _listed(config.get('param_scheduler'))),
        ('starts from', _start(config)),
    ]
    return [f'{label:16}{text}' for label, text in rows]


def _backbone(model: nn.Module) -> list[tuple[str, str]]:
    from pinas_models.choices import BLOCK_CHOICES

    from ..models.backbone import PiNAS

    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PiNAS):
        return [('backbone', type(backbone).__name__)]
    rows = [('backbone', f'PiNAS, path {"".join(map(str, backbone.choices))}')]
    outputs = dict(
        zip(backbone.out_indices, zip(backbone.out_strides, backbone.out_channels, strict=True), strict=True)
    )
    start = 0
    for stage, count in enumerate(backbone.layers):
        blocks = ' '.join(BLOCK_CHOICES[choice].name for choice in backbone.choices[start : start + count])
        start += count
        output = 'stride {}, {} channels: '.format(*outputs[stage]) if stage in outputs else ''
        rows.append((f'  layer{stage + 1}', output + blocks))
    return rows


def _parameters(model: nn.Module) -> list[tuple[str, str]]:
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    rows = [(f'  {name}', f'{count:>12,}') for name, count in counts.items() if count]
    return [('parameters', f'{sum(p.numel() for p in model.parameters()):>12,}'), *rows]


def _dataset(loader: Mapping[str, Any] | None) -> str:
    if not loader:
        return '-'
    texts = []
    for _, dataset in inner_datasets(loader['dataset'], ''):
        files = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
        texts.append(f'{dataset.get("type")}: {", ".join(filter(None, files))}')
    return f'{" and ".join(texts)}; batches of {loader.get("batch_size")} per process'


def _schedule(config: Config) -> str:
    train = config.get('train_cfg') or {}
    length, unit = train.get('max_epochs'), 'epochs'
    if length is None:
        length, unit = train.get('max_iters'), 'iterations'
    return f'{length} {unit}, validated every {train.get("val_interval", 1)}'


def _call(settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return str(settings)
    options = ', '.join(f'{name}={value}' for name, value in settings.items() if name not in ('type', '_scope_'))
    return f'{settings.get("type", "-")}({options})'


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _start(config: Config) -> str:
    if config.get('load_from'):
        return str(config.load_from)
    for init in _listed((config.model.get('backbone') or {}).get('init_cfg')):
        if init.get('checkpoint'):
            return f'{init["checkpoint"]} (the backbone)'
    return 'random weights'
