"""The subcommands of ``nbkv``, one a file: ``add_parser`` and ``run``."""
