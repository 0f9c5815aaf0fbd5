"""Π-NAS backbones in MMDetection and MMSegmentation, without compiled operators.

``custom_imports = dict(imports=['pinas_downstream'])`` in a config, or the import in Python, does four things:

- It registers the names below, once for mmdet, mmseg and plain mmengine configs. What stands behind them is imported
  when a config asks for it: the import itself loads neither torch nor mmdet nor mmseg.
- Where mmcv was installed without its compiled operators, it serves those that Mask R-CNN needs from torchvision.
- It replaces mmengine's reading of checkpoints by one that executes nothing from a file, and lets mmcv open images of
  the named formats of ours only where it uses Pillow, which would start Ghostscript.
- It lets ``_base_ = 'mmseg::...'`` find the configs of the fork of mmseg, from the next config on.

The forks of mmdet and mmseg may have been imported before; the originals cannot be, without compiled operators.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from .patches.imports import after_import, find_configs_of_mmseg, mend_late_imports, serve_operators

try:
    from mmengine.registry import MODELS
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"pinas_downstream needs {error.name}: install it with pip install 'pinas-models[downstream]'"
    ) from error

__all__ = ['EncodingDeepLabHead', 'EncodingFCNHead', 'MultiEval', 'MultiEvalEncoderDecoder', 'PiNAS']

_MODULES = {
    'PiNAS': '.models.backbone',
    'EncodingDeepLabHead': '.models.heads',
    'EncodingFCNHead': '.models.heads',
    'MultiEval': '.models.segmentors',
    'MultiEvalEncoderDecoder': '.models.segmentors',
}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _register(name: str) -> None:
    """Register a function that imports and builds a class: registering the class itself would import it now."""

    def build(**options: Any) -> Any:
        cls = __getattr__(name)
        unknown = sorted(options.keys() - inspect.signature(cls).parameters.keys())
        if unknown:
            raise TypeError(
                f'{name} has no option {", ".join(unknown)}. If the config did not write it, a base config did: '
                '_delete_=True in the same dict drops what the base has set'
            )
        return cls(**options)

    build.__name__ = name  # mmengine puts it before the text of an error
    MODELS.register_module(name=name, module=build)


def _secure(module: Any) -> None:
    from .patches.checkpoints import secure

    secure(module)


def _name_formats(module: Any) -> None:
    from .patches.images import name_formats

    name_formats(module)


serve_operators()
mend_late_imports()
after_import('mmengine.runner.checkpoint', _secure)
after_import('mmcv.image.io', _name_formats)
find_configs_of_mmseg()
for _name in _MODULES:
    _register(_name)
