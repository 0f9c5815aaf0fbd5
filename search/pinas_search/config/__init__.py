"""The configuration of a run: its fields, and the files they are read from."""

from .fields import (
    Config,
    DataConfig,
    EvaluateConfig,
    LearnConfig,
    LinearConfig,
    RankConfig,
    RetrainConfig,
    SearchConfig,
    TruthConfig,
    ViewConfig,
    plain_views,
)
from .files import (
    Settings,
    builtin_configs,
    check_run_dir,
    differences,
    parse_config,
    parse_options,
    read_yaml,
    to_yaml,
    write_config,
)

__all__ = [
    'Config',
    'DataConfig',
    'EvaluateConfig',
    'LearnConfig',
    'LinearConfig',
    'RankConfig',
    'RetrainConfig',
    'SearchConfig',
    'Settings',
    'TruthConfig',
    'ViewConfig',
    'builtin_configs',
    'check_run_dir',
    'differences',
    'parse_config',
    'parse_options',
    'plain_views',
    'read_yaml',
    'to_yaml',
    'write_config',
]
