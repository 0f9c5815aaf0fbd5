"""What every benchmark prints about where it ran."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def cpu_name() -> str:
    """The processor's name where Linux tells it."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text(encoding='utf-8').splitlines() if cpuinfo.exists() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def description(device: str = 'cpu') -> str:
    """Hardware, threads and versions in one line."""
    hardware = torch.cuda.get_device_name() if device.startswith('cuda') else cpu_name()
    versions = ', '.join(f'{package} {version(package)}' for package in ('torch', 'timm', 'pinas-models'))
    return f'{hardware}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), {versions}'
