"""The subcommands of ``pinas-downstream``, one module each."""
