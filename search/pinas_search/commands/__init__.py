"""The subcommands of ``pinas-search`` that need no run directory; one module each."""
