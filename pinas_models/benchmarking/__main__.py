"""The process of its own in which the peak memory of a network is measured; see ``memory``."""

import sys

from .memory import answer_task

print(answer_task(sys.argv[1]))
