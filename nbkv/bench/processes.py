"""What a new process waits for: imports, loading kernels, compiling them."""

import os
import subprocess
import sys
import tempfile

IMPORT = """
import time, numpy
began = time.perf_counter()
import nbkv
print(time.perf_counter() - began)
"""
FIRST_USE = """
import time, nbkv, numpy as np
began = time.perf_counter()
cache = nbkv.PagedKVCache(nbkv.CacheConfig(16, 256, num_layers=1, num_kv_heads=1, head_dim=1))
handle = cache.add_sequence(1, np.arange(4, dtype=np.uint64))
cache.append_tokens(np.array([handle]), np.ones(1, np.int32))
cache.fork(1, 2)
cache.free_sequence(1)
print(time.perf_counter() - began)
"""
WARM_UP = """
import time
began = time.perf_counter()
from nbkv.cli import main
if __name__ == "__main__":
    main(["warmup"])
    print(time.perf_counter() - began)
"""


def _seconds(script: str, **environment: str) -> float:
    """Run a script in a new interpreter; it prints seconds last."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def import_seconds(rounds: int) -> float:
    """Time ``import nbkv`` after numpy."""
    return min(_seconds(IMPORT) for _ in range(rounds))


def first_use_seconds(rounds: int) -> float:
    """Time the first calls of a process whose kernels are in the disk cache."""
    _seconds(FIRST_USE)
    return min(_seconds(FIRST_USE) for _ in range(rounds))


def compile_seconds() -> float:
    """Time ``nbkv warmup`` with an empty disk cache, import included."""
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(WARM_UP, NBKV_CACHE_DIR=folder)
