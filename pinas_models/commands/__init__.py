"""The commands of ``pinas-models``: one module each, with ``HELP``, ``EXAMPLES``, ``add_arguments`` and ``run``."""
