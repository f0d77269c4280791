"""Step buffers: bytes that travel, and what is refused for some."""

from typing import Any

import numpy as np
import pytest
from step_support import handles, int32
from support import make_cache

import nbkv
from nbkv.step_layout import STEP_HEADER_DTYPE, STEP_SECTIONS


def planned(cache: nbkv.PagedKVCache, out: nbkv.StepBuffers | None = None) -> nbkv.StepPlan:
    batch = handles(cache.admit(1, [])[0], cache.admit(2, [])[0])
    return cache.plan(batch, int32(3, 1), out=out)


def as_lists(plan: nbkv.StepPlan) -> list[Any]:
    names = ("slot_mapping", "seq_lens", "table_changes", "copies", "evicted", "entries")
    lists = ("survivors", "preempted", "deferred", "skipped")
    return [plan.step_id, plan.status, *(getattr(plan, n).tolist() for n in names + lists)]


def test_a_copy_of_the_bytes_is_the_plan_elsewhere() -> None:
    plan = planned(make_cache(8, 2))
    copy = nbkv.StepBuffers(plan.buffers.data.copy())
    assert as_lists(copy.plan) == as_lists(plan)
    assert copy.plan.slot_mapping.tolist() == [0, 1, 2, 4]
    assert copy.plan.table_changes.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 2]]


def test_a_copy_can_be_committed_but_only_one_of_them() -> None:
    cache = make_cache(8, 2)
    plan = planned(cache)
    copy = nbkv.StepBuffers(plan.buffers.data.copy())
    cache.commit(copy.plan, tokens=int32(1, 2, 3, 4))
    assert cache.num_cached_tokens(1) == 3
    with pytest.raises(nbkv.StepError, match="2 is next"):
        cache.commit(plan)


def test_sections_neither_overlap_nor_share_a_line() -> None:
    buffers = nbkv.StepBuffers.for_cache(make_cache(8, 2, window=3), 100)
    header = buffers.data[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)[0]
    edges = [int(header[f"{name}_{edge}"]) for name in STEP_SECTIONS for edge in ("start", "end")]
    assert edges == sorted(edges)
    assert all(start % 64 == 0 for start in edges[::2])
    assert buffers.data.ctypes.data % 64 == 0
    assert edges[-1] <= buffers.data.size == header["buffer_bytes"]


def test_memory_of_the_callers_is_used_and_emptied() -> None:
    cache = make_cache(8, 2)
    need = nbkv.StepBuffers.num_bytes(cache, 64)
    raw = np.full(need + 128, 255, np.uint8)
    shift = -raw.ctypes.data % 64
    out = nbkv.StepBuffers.for_cache(cache, 64, raw[shift : shift + need + 3])
    assert np.shares_memory(out.data, raw)
    assert (out.plan.step_id, out.plan.is_outstanding) == (0, False)
    assert planned(cache, out).slot_mapping.tolist() == [0, 1, 2, 4]
    assert (raw[shift + need :] == 255).all()


def test_read_only_bytes_are_looked_at_and_not_written_to() -> None:
    cache = make_cache(8, 2)
    plan = planned(cache)
    frozen = plan.buffers.data.copy()
    frozen.flags.writeable = False
    shown = nbkv.StepBuffers(frozen)
    assert shown.plan.seq_lens.tolist() == [3, 1]
    before = cache.state_bytes()
    with pytest.raises(nbkv.ArgumentError, match=r"plan is <StepPlan 1.*writable"):
        cache.commit(shown.plan)
    for call in (
        lambda: cache.commit(plan, out=shown),
        lambda: cache.step(np.array([1], np.uint64), 1, out=shown),
        lambda: cache.plan(np.array([1], np.uint64), 1, out=shown),
    ):
        with pytest.raises(nbkv.ArgumentError, match=r"out is <StepPlan 1.*writable"):
            call()
    assert (cache.state_bytes() == before).all()


def broken(field: str, value: int) -> "np.ndarray[Any, Any]":
    data = nbkv.StepBuffers.for_cache(make_cache(8, 2), 64).data.copy()
    data[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)[field] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc", r"data is b'abc'; .*uint8 array"),
        (np.zeros(600), r"data is array.*uint8"),
        (np.zeros((2, 600), np.uint8), r"one-dimensional"),
        (np.zeros(511, np.uint8), r"data has 511 bytes; .*at least 512"),
        (np.zeros(2000, np.uint8)[::2], r"data has 1000 bytes; .*contiguous"),
        (np.zeros(2001, np.uint8)[1:], r"data has 2000 bytes; .*8-byte aligned"),
        (np.zeros(600, np.uint8), r"data begins with 0x0, version 0; .*version 1"),
        (broken("version", 9), r"version 9; .*version 1"),
        (broken("buffer_bytes", 2**40), rf"its header says {2**40}"),
        (broken("slots_start", -8), r"section slots at -8 to \d+; "),
        (broken("slots_end", 2**50), rf"section slots at \d+ to {2**50}; "),
        (broken("entries_start", 513), r"section entries at 513 to "),
        (broken("skipped_end", 600), r"section skipped at \d+ to 600; "),
    ],
)
def test_other_bytes_are_no_step_buffers(data: Any, message: str) -> None:
    with pytest.raises(nbkv.ArgumentError, match=message):
        nbkv.StepBuffers(data)


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, "8", True, 2**31])
def test_tokens_of_a_step_have_a_range(max_tokens: Any) -> None:
    cache = make_cache(8, 2)
    for call in (nbkv.StepBuffers.for_cache, nbkv.StepBuffers.num_bytes):
        with pytest.raises(nbkv.ArgumentError, match=rf"max_tokens is {max_tokens!r}; .*1 to"):
            call(cache, max_tokens)


def test_other_memory_or_no_cache_is_refused() -> None:
    cache = make_cache(8, 2)
    need = nbkv.StepBuffers.num_bytes(cache, 64)
    raw = np.zeros(2 * need + 128, np.uint8)
    shift = -raw.ctypes.data % 64
    frozen = raw[shift : shift + need].view()
    frozen.flags.writeable = False
    for memory in (
        raw[shift : shift + need - 1],
        raw[shift + 1 : shift + 1 + need],
        raw[shift : shift + 2 * need : 2],
        raw[shift : shift + need].reshape(2, -1),
        raw[shift : shift + need // 8 * 8].view(np.int64),
        frozen,
    ):
        with pytest.raises(nbkv.ArgumentError, match=rf"memory is .*aligned and at least {need}"):
            nbkv.StepBuffers.for_cache(cache, 64, memory)
    with pytest.raises(TypeError, match="memory is a bytearray; "):
        nbkv.StepBuffers.for_cache(cache, 64, bytearray(need))
    for call in (nbkv.StepBuffers.for_cache, nbkv.StepBuffers.num_bytes):
        with pytest.raises(TypeError, match=r"cache is 5; .*PagedKVCache"):
            call(5)
