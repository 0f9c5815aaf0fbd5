"""Hooks into Python's import system: mmcv's operators where they are missing, and what to do after a module's import.

Nothing here imports torch or an OpenMMLab package.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ['OPERATORS', 'after_import', 'find_configs_of_mmseg', 'mend_late_imports', 'serve_operators']

OPERATORS = 'mmcv._ext'  # the module that mmcv compiles
ORIGIN = 'pinas_downstream: operators of torchvision'


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


def mend_late_imports() -> None:
    """Give the operators to modules of mmdet and mmseg that were imported before there were any.

    The forks write ``try: from mmcv.ops import nms`` and go on with a function that raises (the originals stop there).
    Such imports are run again, in the names of their module.
    """
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] not in ('mmdet', 'mmseg') or not str(getattr(module, '__file__', '')).endswith('.py'):
            continue
        source = Path(module.__file__).read_text(encoding='utf-8')  # type: ignore[arg-type]  # it ends in .py
        if 'mmcv.ops' not in source:
            continue
        for node in ast.parse(source).body:
            again = [line for line in node.body if _imports_operators(line)] if isinstance(node, ast.Try) else []
            exec(compile(ast.Module(again, []), str(module.__file__), 'exec'), vars(module))


def _imports_operators(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmcv.ops')


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
