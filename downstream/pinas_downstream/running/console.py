"""A readable console: the lines of a training's progress, while the log file has all that mmengine says."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

__all__ = ['hiding_noise', 'only_progress', 'printing_to']

# Besides the losses and metrics of the LoggerHook: what somebody who waits wants to know.
_SHOWN = ('resumed epoch', 'The best checkpoint')
# Said at every start, and nothing that anybody could change.
_LOGGED_NOISE = ('"FileClient" will be', '"HardDiskBackend" is', 'The prefix is not set in metric class')
_NOISE = (
    '``build_loss`` would be deprecated',
    'When align_corners=True',
    'The draw is False',
    '__array__ implementation',
    'Warning: The (bbox|polygon) is out of bounds',
)


def only_progress(logger: logging.Logger) -> None:
    """Let the console of a Runner's logger show warnings and progress only.

    mmengine writes the environment, the whole configuration, hooks and the options of every parameter, hundreds of
    lines; its log file keeps them.

    Args:
        logger: Changed in place.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_progress)


def _is_progress(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if record.levelno >= logging.WARNING:
        return not message.startswith(_LOGGED_NOISE)
    return message.startswith(_SHOWN) or (record.module == 'logger_hook' and not message.startswith('Exp name'))


@contextmanager
def hiding_noise() -> Iterator[None]:
    """Hide the warnings that mmseg and mmengine give at every use of what the configurations want."""
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings('ignore', message)
        yield


class _Lines(io.TextIOBase):
    """A text file whose lines go to a logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.rest = ''

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split('\n')
        for line in lines:
            if line.strip():
                self.logger.info(line)
        return len(text)


@contextmanager
def printing_to(logger: logging.Logger) -> Iterator[None]:
    """Write into the log what is printed meanwhile; pycocotools prints twenty lines per evaluation.

    Args:
        logger: Its console handler must hold the real standard output already.
    """
    with redirect_stdout(_Lines(logger)):
        yield
