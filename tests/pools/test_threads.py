"""Large calls: spread over threads, past the caches, without the GIL; forced on small ones."""

import numpy as np
import pytest
from pool_support import CASES, QUANTISED, fill, in_words, make_config, numbers, pair_of

import nbkv
from nbkv import attention
from nbkv._demand import ready
from nbkv.pools import copy_kernels, moves, threads


@pytest.fixture(params=["streamed", "kept"])
def forced(request, monkeypatch) -> None:
    monkeypatch.setattr(threads, "APART_FROM", 0)
    monkeypatch.setattr(moves, "SPREAD_COPIES_FROM", 0)
    monkeypatch.setattr(moves, "SPREAD_NUMBERS_FROM", 0)
    monkeypatch.setattr(attention, "_SPREAD_FROM", 0)
    monkeypatch.setattr(moves, "STREAM_FROM", 0 if request.param == "streamed" else 2**60)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("dtype", "place"), CASES)
@pytest.mark.parametrize("head_dim", [7, 96])
def test_calls_in_threads_do_what_they_do_in_one(rng, dtype, place, head_dim) -> None:
    # Rows of 7 numbers begin anywhere; rows of 96 are longer than what is streamed at a time.
    config = make_config(dtype, head_dim=head_dim)
    pool, plain = pair_of(rng, config, place)
    pool.num_threads = 3
    fill(rng, pool, plain)
    plain.assert_equals(pool)
    pool.copy_blocks([[1, 2], [1, 5], [3, 0]])
    pool.copy_partial([[4, 6], [5, 1]], [3, 1])
    for source, destination, count in ((1, 2, 4), (1, 5, 4), (3, 0, 4), (4, 6, 3), (5, 1, 1)):
        plain.copy(source, destination, count)
    plain.assert_equals(pool)
    row = numbers(rng, (1, 2, head_dim))
    row = row if dtype in QUANTISED else in_words(row, dtype)
    pool.append(2, row, row, [22])
    for kv in range(2):
        plain.write(2, kv, 22, row[0])
    plain.assert_equals(pool)
    got = pool.gather(None, [5, 0, 3], 11)
    for layer in range(3):
        assert got[layer].tobytes() == plain.read(layer, [5, 0, 3], 11).tobytes()
    query = numbers(rng, (3, 4, head_dim))
    table, lengths = np.array([[5, 0], [1, 2], [3, 6]]), np.array([7, 8, 0])
    spread = attention.decode(query, pool, table, lengths, layer=1)
    pool.num_threads = 1
    assert spread.tobytes() == attention.decode(query, pool, table, lengths, layer=1).tobytes()


def test_the_usual_number_of_threads_is_that_of_processors_or_four(monkeypatch) -> None:
    for processors, count in ((1, 1), (3, 3), (64, 4)):
        ids = set(range(processors))
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _, ids=ids: ids, raising=False)
        assert nbkv.HostPool(make_config()).num_threads == count
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert threads.count_threads() == 1


@pytest.mark.skipif(nbkv._jit.INTERPRETED, reason="nothing is compiled")
def test_only_the_twin_for_long_calls_releases_the_gil() -> None:
    short, long = copy_kernels.move
    assert (short.targetoptions["nogil"], long.targetoptions["nogil"]) == (False, True)
    # Under one name on disk, each would be loaded as whichever was compiled first.
    assert short._cache._impl.filename_base != long._cache._impl.filename_base
    ready(short), ready(long)
    assert "PyEval_SaveThread" not in llvm_of(short)
    assert "PyEval_SaveThread" in llvm_of(long)


def llvm_of(kernel) -> str:
    (code,) = kernel.overloads.values()
    return str(code.library._get_module_for_linking())
