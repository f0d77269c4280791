"""What a new process waits for."""

from nbkv.bench.processes import compile_seconds, first_use_seconds


def timeraw_import_nbkv():
    return "import nbkv", "import numpy"


def track_first_use():
    return first_use_seconds(3)


track_first_use.unit = "s"


def track_compile_everything():
    return compile_seconds()


track_compile_everything.unit = "s"
track_compile_everything.timeout = 300
