"""Running mmengine for commands: making the Runner, going on after a kill, and saying what happens in few lines."""

from .start import build_runner, import_framework, is_main_process, prepare

__all__ = ['build_runner', 'import_framework', 'is_main_process', 'prepare']
