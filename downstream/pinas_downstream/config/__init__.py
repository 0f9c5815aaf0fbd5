"""Configurations: those that come with the package, reading any other, and changing settings of them."""

from .files import builtin_configs, find_config, load_config
from .options import apply_options

__all__ = ['apply_options', 'builtin_configs', 'find_config', 'load_config']
