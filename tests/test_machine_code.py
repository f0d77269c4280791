"""How machine code is put together, and what it takes from Python."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from support import INTERPRETED, make_cache
from test_jit import PACKAGE, needs_compiler

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels import match

# Makes one kernel ready in a fresh process and runs it; it calls outlined ones.
PROBE = """
import numpy as np
import nbkv.cache
from nbkv._jit import make_ready
from nbkv.arena import new_arena
from nbkv.kernels import append
kernel = append.allocate_for_tokens
make_ready(kernel)
arena, out = new_arena(nbkv.CacheConfig(4, 8, 1, 1, 8)), np.empty(4, np.int32)
print(append.allocate_for_tokens(arena, 1, 13, out), out.tolist())
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""

# Three kernels deep, each called and not inlined, under two entry kernels.
CHAIN = """
import sys
import numpy as np
from nbkv._jit import compile_entry, kernel, outlined_kernel

@outlined_kernel
def lowest(count):
    total = np.int64(0)
    for i in range(count):
        total += i * count ^ (total >> 3)
    return total

@outlined_kernel
def middle(count):
    total = np.int64(0)
    for i in range(count):
        total += lowest(count + i) ^ (total >> 5)
    return total

@outlined_kernel
def upper(count):
    return middle(count) + 1

def first(count):
    return upper(count) + 1

def second(count):
    return upper(count) + 2

first, second = (compile_entry(function, "int64(int64)") for function in (first, second))

@kernel
def caller(count):
    return 2 * first(count)

if __name__ == "__main__":
    import chain
    for name in sys.argv[1:]:
        print(getattr(chain, name)(10))
"""


@kernel
def twice(number: int) -> int:
    return number + number


@kernel
def thrice_twice(numbers: np.ndarray, small: int) -> int:
    return twice(numbers[0]) + twice(small) + twice(1)


@outlined_kernel
def element(numbers: np.ndarray, place: int) -> int:
    return numbers[place]


@kernel
def element_of(numbers: np.ndarray, place: int) -> int:
    return element(numbers, place)


@needs_compiler
def test_code_from_disk_brings_the_outlined_kernels_that_it_calls(tmp_path: Path) -> None:
    def run() -> list[str]:
        process = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=os.environ | {"NBKV_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()

    assert run() == ["4 [0, 1, 2, 3]", "0 1"]
    # In the second process nothing else is compiled or loaded that could define them.
    assert run() == ["4 [0, 1, 2, 3]", "1 0"]


@pytest.fixture
def chain(tmp_path: Path) -> Callable[..., list[int]]:
    """Return what calls kernels of `CHAIN`, by name, in a process of their own."""
    path = tmp_path / "chain.py"
    path.write_text(CHAIN)
    folders = {"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{tmp_path}"}
    folders["NBKV_CACHE_DIR"] = str(tmp_path / "cache")

    def call(*names: str) -> list[int]:
        process = subprocess.run(
            [sys.executable, str(path), *names],
            env=os.environ | folders,
            capture_output=True,
            text=True,
            check=False,
        )
        # An end by a signal has no message.
        assert process.returncode == 0, (process.returncode, process.stderr)
        return [int(line) for line in process.stdout.split()]

    return call


@needs_compiler
def test_kernels_that_several_processes_compiled_run_in_any_other(chain) -> None:
    assert chain("first") == [13656]
    assert chain("second") == [13657]
    assert chain("second") == [13657]
    assert chain("second", "first") == [13657, 13656]


@needs_compiler
def test_a_kernel_brings_all_that_a_kernel_from_disk_calls(chain) -> None:
    assert chain("first") == [13656]
    assert chain("caller") == [27312]
    assert chain("caller") == [27312]


def test_an_error_in_an_outlined_kernel_passes_through_its_caller() -> None:
    numbers = np.arange(3, dtype=np.int64) * 5
    assert element_of(numbers, 2) == 10
    if INTERPRETED or numba.config.BOUNDSCHECK:
        with pytest.raises(IndexError):
            element_of(numbers, 99)


@needs_compiler
def test_a_kernel_is_compiled_once_for_all_signed_integers() -> None:
    assert thrice_twice(np.array([2**31 - 1], np.int32), 3) == 2**32 + 6
    assert [str(kinds) for kinds in twice.signatures] == ["(int64,)"]


def cases() -> dict[str, object]:
    tokens = np.arange(8, dtype=np.int32)
    return {
        "list": tokens.tolist(),
        "none": None,
        "int64": tokens.astype(np.int64),
        "uint32": tokens.view(np.uint32),
        "float32": tokens.astype(np.float32),
        "other byte order": tokens.astype(tokens.dtype.newbyteorder()),
        "two-dimensional": tokens.reshape(2, 4),
        "no dimension": np.array(3, np.int32),
        "strided": tokens[::2],
        "unaligned": np.zeros(33, np.uint8)[1:].view(np.int32),
        "subclass": tokens.view(np.memmap),
    }


@pytest.mark.parametrize("case", cases())
def test_a_kernel_refuses_arrays_that_are_not_as_its_signature_says(case: str) -> None:
    cache = make_cache(8, 4)
    with pytest.raises(TypeError, match="a kernel takes"):
        match.match_plain(cache._arena, cases()[case], 100)


def test_a_kernel_takes_read_only_arrays_and_either_name_of_a_dtype() -> None:
    cache = make_cache(8, 4)
    tokens = np.arange(8, dtype=np.int32)
    tokens.flags.writeable = False
    assert tuple(match.match_plain(cache._arena, tokens, 100)) == (8, 0, 0, 0, 0)
    handles = np.array([cache.add_sequence(1)])
    plan = cache.plan(handles.astype(np.longlong), 3)
    assert plan.slot_mapping.tolist() == [0, 1, 2]


@needs_compiler
def test_borrowed_arrays_keep_their_reference_count() -> None:
    cache = make_cache(8, 4)
    tokens = np.arange(8, dtype=np.int32)
    before = sys.getrefcount(tokens), sys.getrefcount(cache._arena)
    for _ in range(100):
        cache.match_prefix(tokens)
    assert (sys.getrefcount(tokens), sys.getrefcount(cache._arena)) == before
