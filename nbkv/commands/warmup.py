"""``nbkv warmup``: compile every kernel into the disk cache."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from nbkv import _jit
from nbkv.commands import common, compiling


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
    parser.add_argument(
        "--cuda",
        metavar="CAPABILITY",
        action="append",
        default=[],
        help="compile CUDA kernels too, for devices of this compute capability (9.0); no device is"
        " needed, and it may be given several times",
    )
    parser.add_argument(
        "--jobs",
        type=common.count,
        metavar="N",
        help=f"processes to compile in (default: one a core, up to {compiling.MOST_JOBS})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile, here or in a process that keeps its machine code elsewhere."""
    if args.into is not None:
        return _run_into(Path(args.into), args.jobs, args.cuda)
    capabilities = _parse_capabilities(args.cuda)
    began = time.perf_counter()
    num_ready = 0
    jobs = args.jobs or compiling.usual_jobs()
    with common.progress_bar("compiling", len(compiling.name_kernels())) as (advance, _):
        for _name in compiling.compile_everything(jobs):
            num_ready += 1
            advance(1)
    seconds = time.perf_counter() - began
    where = f"in {_jit.CACHE_DIR}" if _jit.CACHE_DIR is not None else "in this process only"
    print(f"{num_ready} kernels ready {where} after {seconds:.1f} s")
    for capability in capabilities:
        _warm_cuda(capability)
    return 0


def _parse_capabilities(texts: list[str]) -> list[tuple[int, int]]:
    """Parse ``--cuda``, before anything takes time."""
    if not texts:
        return []
    from nbkv.errors import ArgumentError

    try:
        from nbkv.pools import cuda_warmup
    except ImportError as error:
        raise common.CommandError(
            f"--cuda needs numba-cuda: pip install 'nbkv[cu12]' or 'nbkv[cu13]' ({error})"
        ) from error
    try:
        return [cuda_warmup.parse_capability(text) for text in texts]
    except ArgumentError as error:
        raise common.CommandError(f"--cuda: {error}") from error


def _warm_cuda(capability: tuple[int, int]) -> None:
    """Compile the CUDA kernels for one compute capability."""
    from nbkv.errors import ArgumentError
    from nbkv.pools import cuda_warmup

    began = time.perf_counter()
    num_ready = 0
    name = ".".join(map(str, capability))
    try:
        total = len(cuda_warmup.kernels_for(capability))
        with common.progress_bar(f"compiling for {name}", total) as (advance, _):
            for _kernel in cuda_warmup.compile_for(capability):
                num_ready += 1
                advance(1)
    except ArgumentError as error:
        raise common.CommandError(f"--cuda: {error}") from error
    seconds = time.perf_counter() - began
    print(f"{num_ready} CUDA kernels ready for compute capability {name} after {seconds:.1f} s")


def _run_into(folder: Path, jobs: int | None, cuda: list[str]) -> int:
    """Run again with ``NBKV_CACHE_DIR`` set: a process picks its folder once, when it starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise common.CommandError(f"--into {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise common.CommandError(f"--into {folder}: not writable")
    environment = os.environ | {"NBKV_CACHE_DIR": str(folder.resolve())}
    command = [sys.executable, "-m", "nbkv.cli", "warmup"]
    command += ["--jobs", str(jobs)] if jobs else []
    command += [part for capability in cuda for part in ("--cuda", capability)]
    return subprocess.run(command, env=environment, check=False).returncode
