"""The subcommands of ``pinas-search``."""
