"""Hooks into Python's import system: mmcv's operators where they are missing, and what to do after a module's import.

Nothing here imports torch or an OpenMMLab package.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

__all__ = ['OPERATORS', 'after_import', 'check_order', 'find_configs_of_mmseg', 'serve_operators']

OPERATORS = 'mmcv._ext'  # the module that mmcv compiles
ORIGIN = 'pinas_downstream: operators of torchvision'

# They replace every operator that they cannot import by a function that raises, or by None, and keep it for good.
_KEEP_FALLBACKS = ('mmdet.models', 'mmdet.structures.mask.structures', 'mmseg.models')


def check_order() -> None:
    """Refuse to come after modules that found no operators.

    Raises:
        RuntimeError: If there is such a module. Not ``ImportError``, whose text ``custom_imports`` would swallow.
    """
    late = [name for name in _KEEP_FALLBACKS if name in sys.modules]
    if late and 'mmcv.ops' not in sys.modules:
        raise RuntimeError(
            f'pinas_downstream was imported after {" and ".join(late)}, which found no compiled operators of mmcv and '
            'would go on without: write import pinas_downstream before every import of mmdet or mmseg (in a tool that '
            'you cannot change: python -c "import pinas_downstream, runpy; runpy.run_path(...)"), or use '
            'pinas-downstream'
        )


class _Operators(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` for those whose mmcv has none."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self, origin=ORIGIN) if fullname == OPERATORS else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        from .operators import Extension

        return Extension(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def serve_operators() -> None:
    """Serve ``mmcv._ext`` from torchvision where there is none.

    The finder stands behind all others, so that a compiled one is found first and used untouched.
    """
    if not any(isinstance(finder, _Operators) for finder in sys.meta_path):
        sys.meta_path.append(_Operators())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets a function see a module right after its code has run."""

    def __init__(self, name: str, function: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.function = function

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.function(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # the loader is this spec's own
        return spec


def after_import(name: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module: now if it is imported, otherwise as soon as it is.

    Args:
        name: Full name of the module.
        function: Called once.
    """
    if name in sys.modules:
        function(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, function))


def find_configs_of_mmseg() -> None:
    """Tell mmengine that ``mmseg::`` is in the package mmseg, if the distribution mmsegmentation is not installed.

    mmengine would look for that distribution, which the fork is not, and in one place run pip to install it.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    try:
        importlib.metadata.distribution('mmsegmentation')
    except importlib.metadata.PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'mmseg'
