"""The parts of a configuration, each built or looked up alone: a Runner would stop at the first that is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from mmengine.config import Config

from pinas_models.common.text import nearest

from ..running.explain import explaining, known_names
from .model import check_channels

__all__ = ['check_lengths', 'check_model', 'check_start', 'named_parts']


def check_model(config: Config) -> Iterator[Callable[[], None]]:
    """Checks of the model and its optimizer: the backbone, the neck, the whole.

    Each builds what it checks. What fails in another way than by a user's mistake is left to the Runner.

    Args:
        config: Complete.

    Yields:
        Functions that raise ``ValueError``; two may have the same text.
    """
    built: dict[str, Any] = {}
    for name in ('backbone', 'neck'):
        if isinstance(config.model.get(name), dict):
            yield partial(_build_part, config, name, built)
    yield partial(_check_channels, built)
    yield partial(_build_whole, config)
    yield partial(_build_optimizer, config)


def _build_part(config: Config, name: str, built: dict[str, Any]) -> None:
    from mmengine.registry import MODELS

    built[name] = _attempt(lambda: MODELS.build(config.model[name]))


def _check_channels(built: Mapping[str, Any]) -> None:
    from torch import nn

    model = nn.Module()
    for name, part in built.items():
        setattr(model, name, part)
    if len(built) == 2 and all(part is not None for part in built.values()):
        check_channels(model)


def _build_whole(config: Config) -> None:
    from mmengine.registry import MODELS

    model = _attempt(lambda: MODELS.build(config.model))
    if model is not None:
        check_channels(model)


def _build_optimizer(config: Config) -> None:
    """Build it for one number: what sorts the parameters of a model logs every one of them."""
    import torch
    from mmengine.registry import OPTIMIZERS

    settings = (config.get('optim_wrapper') or {}).get('optimizer')
    if isinstance(settings, dict) and settings.get('type'):
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        _attempt(lambda: OPTIMIZERS.build({**settings, 'params': parameters}))


def _attempt(build: Callable[[], Any]) -> Any:
    """Build; None if it fails by no mistake that is known to be a user's."""
    try:
        with explaining():
            return build()
    except (ValueError, OSError):
        raise
    except Exception:  # not ours to tell: the Runner will stop at it, with its traceback
        return None


def named_parts(config: Config) -> Iterator[Callable[[], None]]:
    """Checks of the hooks, schedules, metrics and loops: is there one of that type, with such options?

    They are not built: a hook may write.

    Args:
        config: Complete.

    Yields:
        Functions that raise ``ValueError``.
    """
    from mmengine import registry

    for name in ('default_hooks', 'custom_hooks'):
        yield from _entries(registry.HOOKS, config.get(name), name)
    schedulers = config.get('param_scheduler')
    yield from _entries(registry.PARAM_SCHEDULERS, schedulers, 'param_scheduler')
    for split in ('train', 'val', 'test'):
        if split != 'train':
            yield from _entries(registry.METRICS, config.get(f'{split}_evaluator'), f'{split}_evaluator')
        loader = config.get(f'{split}_dataloader') or {}
        yield from _entries(registry.DATA_SAMPLERS, loader.get('sampler'), f'{split}_dataloader.sampler')


def _entries(registry: Any, settings: Any, place: str) -> Iterator[Callable[[], None]]:
    if isinstance(settings, dict) and 'type' in settings:
        yield partial(_check_part, registry, settings, place)
    elif isinstance(settings, (dict, list)):
        for key, entry in settings.items() if isinstance(settings, dict) else enumerate(settings):
            yield from _entries(registry, entry, f'{place}.{key}')


def _check_part(registry: Any, settings: Mapping[str, Any], place: str) -> None:
    kind = settings['type']
    if not isinstance(kind, str):
        return
    with registry.switch_scope_and_registry(settings.get('_scope_')) as scoped:  # that of the default scope
        cls = scoped.get(kind)
    if cls is None:
        if registry.name == 'metric' and kind == 'Evaluator':
            return
        raise ValueError(f'{place}: there is no {registry.name} of type {kind!r}{nearest(kind, known_names(registry))}')
    known = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in settings:
        if option not in known and not option.startswith('_') and option not in ('type', 'priority'):
            raise ValueError(f'{place}: {kind} has no option {option}{nearest(option, known)}')


def check_lengths(config: Config) -> None:
    """Check that there is something to do, and a validation in it.

    Args:
        config: Complete.

    Raises:
        ValueError: If a number is not positive; mmengine would train nothing, or divide by zero after an iteration.
    """
    train = config.get('train_cfg') or {}
    wrong = [
        f'train_cfg.{name} is {train[name]}'
        for name in ('max_epochs', 'max_iters', 'val_interval')
        if isinstance(train.get(name), (int, float)) and train[name] < 1
    ]
    if wrong:
        raise ValueError(f'{" and ".join(wrong)}: write 1 or more')


def check_start(config: Config) -> None:
    """Check that the files are there that a training starts from.

    Args:
        config: Complete.

    Raises:
        FileNotFoundError: If one is not.
    """
    from ..models.weights import missing_file

    backbone = config.model.get('backbone')
    inits = backbone.get('init_cfg') if isinstance(backbone, dict) else None
    if isinstance(backbone, dict) and backbone.get('type') == 'PiNAS':
        for init in [inits] if isinstance(inits, dict) else inits or ():
            if isinstance(init, dict) and missing_file(init.get('checkpoint')):
                raise FileNotFoundError(f'model.backbone.init_cfg: {init["checkpoint"]}: no such file')
    if missing_file(config.get('load_from')):
        raise FileNotFoundError(f'{config.load_from}: no such file')
