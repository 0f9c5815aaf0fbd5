"""``python -m pinas_search``, as torchrun starts it."""

import sys

from .cli import main

sys.exit(main())
