"""``nbkv warmup``: compile every kernel into the disk cache."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from nbkv.commands import common


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "warmup",
        help="compile every kernel into the disk cache",
        description="Compile every kernel into the disk cache, so that no later process does.",
    )
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="keep the machine code under DIR; later processes find it with NBKV_CACHE_DIR=DIR",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile, here or in a process that keeps its machine code elsewhere."""
    if args.into is not None:
        return _run_into(Path(args.into))
    # The kernels register themselves when the facade is imported.
    import nbkv.cache  # noqa: F401
    from nbkv import _jit

    began = time.perf_counter()
    num_ready = 0
    num_kernels = len(_jit.ENTRIES) + len(_jit.LATE_ENTRIES)
    with common.progress_bar("compiling", num_kernels) as (advance, _):
        for _name in _jit.compile_entries(late=True):
            num_ready += 1
            advance(1)
    seconds = time.perf_counter() - began
    where = f"in {_jit.CACHE_DIR}" if _jit.CACHE_DIR is not None else "in this process only"
    print(f"{num_ready} kernels ready {where} after {seconds:.1f} s")
    return 0


def _run_into(folder: Path) -> int:
    """Run again with ``NBKV_CACHE_DIR`` set: a process picks its folder once, when it starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise common.CommandError(f"--into {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise common.CommandError(f"--into {folder}: not writable")
    environment = os.environ | {"NBKV_CACHE_DIR": str(folder.resolve())}
    command = [sys.executable, "-m", "nbkv.cli", "warmup"]
    return subprocess.run(command, env=environment, check=False).returncode
