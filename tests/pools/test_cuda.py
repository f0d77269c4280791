"""CudaPool without a GPU: how it is imported, simulated and compiled ahead of time."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import INTERPRETED

import nbkv

ROOT = Path(nbkv.__file__).parents[1]
HAS_NUMBA_CUDA = importlib.util.find_spec("numba_cuda") is not None
needs_numba_cuda = pytest.mark.skipif(
    not HAS_NUMBA_CUDA, reason="numba-cuda not installed: pip install '.[test,test-cuda]'"
)
needs_compiler = pytest.mark.skipif(
    INTERPRETED or not HAS_NUMBA_CUDA, reason="needs numba-cuda and the compiler"
)
#: Loads every kernel as a launch on such a device does, in a process that compiled nothing.
PROBE = """
from nbkv.pools import cuda_warmup
from nbkv.pools.cuda_jit import offline
capability = cuda_warmup.parse_capability("9.0")
for kernel in cuda_warmup.kernels_for(capability):
    dispatcher = kernel.dispatcher
    assert all(dispatcher.typeof_pyval(x) == t for x, t in
               zip([5] * 20, kernel.argument_types) if str(t) == "int64")
    with offline(capability):
        made = dispatcher.compile(kernel.argument_types)
    assert sum(dispatcher.stats.cache_hits.values()) == 1, kernel.name
    assert not dispatcher.stats.cache_misses, kernel.name
    cubin = made._codelibrary._cubin_cache[cuda_warmup.linked_capability(capability)]
    assert cubin
print(len(dispatcher.stats.cache_path) > 0, len(cuda_warmup.kernels_for(capability)))
"""


def run_python(*args, **environment):
    return subprocess.run(
        [sys.executable, *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_importing_nbkv_does_not_import_cuda():
    done = run_python(
        "-c",
        "import sys, nbkv, nbkv.attention; nbkv.HostPool\n"
        "print([m for m in sys.modules if m.startswith(('numba.cuda.cudadrv', 'numba_cuda'))])",
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


@pytest.mark.parametrize("package", ["nbkv", "nbkv.pools"])
def test_without_numba_cuda_the_error_names_the_extras(package):
    # None in sys.modules makes an import fail, whether the package is there or not.
    done = run_python(
        "-c",
        "import sys; sys.modules['numba_cuda'] = None\n"
        f"import {package} as package\n"
        "try:\n    package.CudaPool\n"
        "except ImportError as error:\n    print(error)",
    )
    assert "nbkv[cu12]" in done.stdout, done.stdout + done.stderr
    assert "nbkv[cu13]" in done.stdout


@needs_numba_cuda
def test_cudapool_is_found_where_it_is_public():
    done = run_python("-c", "import nbkv, nbkv.pools; print(nbkv.CudaPool is nbkv.pools.CudaPool)")
    assert done.stdout.strip() == "True", done.stderr


@needs_numba_cuda
def test_every_kernel_and_wrapper_agrees_with_hostpool_when_simulated(rng):
    seed = rng.randrange(2**31)
    script = str(Path(__file__).parent / "cudasim_plans.py")
    # Interpreted, HostPool compiles nothing in a process that is used once.
    flags = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
    done = run_python(script, str(seed), **flags)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip() == "15 kernels simulated"


@needs_numba_cuda
def test_page_locked_pools_are_zeroed_and_aligned_when_simulated():
    done = run_python(
        "-c",
        "import nbkv\n"
        "pool = nbkv.HostPool(nbkv.CacheConfig(4, 8, 1, 1, 16), pinned=True)\n"
        "print(pool.data.any(), pool.geometry.bases[0, 0] % 16)",
        NUMBA_ENABLE_CUDASIM="1",
    )
    assert done.stdout.split() == ["False", "0"], done.stderr


@needs_compiler
@pytest.mark.slow
def test_kernels_compiled_without_a_device_are_what_a_launch_finds(tmp_path):
    environment = {"NBKV_CACHE_DIR": str(tmp_path)}
    compiling = "from nbkv.pools import cuda_warmup as w; print(list(w.compile_for((9, 0))))"
    done = run_python("-c", compiling, **environment)
    assert done.stdout.count("False") == 15, done.stderr
    done = run_python("-c", PROBE, **environment)
    assert done.stdout.split() == ["True", "15"], done.stderr
    done = run_python("-c", compiling, **environment)
    assert done.stdout.count("True") == 15, done.stderr


@needs_compiler
def test_warmup_refuses_what_is_no_compute_capability(capsys):
    from nbkv import cli

    for text in ("7.5", "nine", "9"):
        assert cli.main(["warmup", "--cuda", text]) == 2
        assert "8.0 or above" in capsys.readouterr().err


@needs_numba_cuda
@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 1000, 2**15 - 1])
def test_division_by_a_block_size_is_exact(size):
    from nbkv.pools.cuda_shapes import pack_division

    packed = pack_division(size)
    reciprocal, shift = packed & 0xFFFFFFFF, packed >> 32 & 31
    assert packed >> 40 == size
    near = np.arange(1, 2**31 // size, max(1, 2**31 // size // 500), np.int64) * size
    numbers = np.concatenate((near - 1, near, near + 1, [0, 2**31 - 1]))
    numbers = numbers[numbers < 2**31].astype(np.uint64)
    high = (numbers * np.uint64(2)) * np.uint64(reciprocal) >> np.uint64(32)
    assert (high >> np.uint64(shift) == numbers // np.uint64(size)).all()
