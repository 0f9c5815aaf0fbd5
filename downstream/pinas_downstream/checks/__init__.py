"""What can be seen to be wrong before anything long starts, told in a line that says what to do."""

from .everything import check_testing, check_training
from .model import check_channels, check_last_batch

__all__ = ['check_channels', 'check_last_batch', 'check_testing', 'check_training']
