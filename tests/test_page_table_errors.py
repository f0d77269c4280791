"""`nbkv.page_tables` refuses what is wrong, by name, and then has written nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from page_support import CANARY, canaries, plant_hole
from support import make_cache

import nbkv
from nbkv import page_tables


def busy_cache() -> nbkv.PagedKVCache:
    """Make a cache with 6 tokens in sequence 1, 8 in 2, none in 3, and a hole in 4."""
    cache = make_cache(8, 4, num_layers=2)
    cache.allocate_blocks_for_tokens(1, 6)
    cache.allocate_blocks_for_tokens(2, 8)
    cache.add_sequence(3)
    cache.allocate_blocks_for_tokens(4, 9)
    plant_hole(cache, 4, 1)
    return cache


IDS = np.array([1, 2, 3, 4], np.uint64)
TWO = np.array([1, 2], np.int32)
FOUR = np.array([1, 2, 0, 9], np.int32)
I4, I8 = np.int32, np.int64
OUTS: dict[str, tuple[Any, type]] = {
    "out": ((4, 3), I4),
    "lens": (4, I4),
    "starts": (5, I4),
    "slots": (12, I8),
    "indptr": (5, I4),
    "indices": (6, I4),
    "last": (4, I4),
    "table": ((4, 3), I8),
    "inverse": ((4, 8), I8),
    "offsets": ((1, 4, 2, 3), I4),
    "reads": (19, I8),
}
Outs = dict[str, np.ndarray]


def run_block_tables(cache: Any, outs: Outs, names: Any = IDS, **options: Any) -> None:
    page_tables.block_tables(cache, names, outs["out"], **options)


def run_seq_lens(cache: Any, outs: Outs, names: Any = IDS) -> None:
    page_tables.seq_lens(cache, names, outs["lens"])


def run_slots(
    cache: Any, outs: Outs, starts: Any = 0, counts: Any = FOUR, names: Any = IDS
) -> None:
    page_tables.slot_mapping(cache, names, starts, counts, outs["slots"])


def run_flashinfer(cache: Any, outs: Outs, names: Any = IDS, **options: Any) -> None:
    page_tables.flashinfer(cache, names, outs["indptr"], outs["indices"], outs["last"], **options)


def run_csr(cache: Any, outs: Outs, counts: Any = FOUR, names: Any = IDS, **options: Any) -> None:
    page_tables.csr_step(
        cache,
        names,
        counts,
        outs["indptr"],
        outs["indices"],
        outs["last"],
        outs["lens"],
        outs["slots"],
        **options,
    )


def run_flex(cache: Any, outs: Outs, names: Any = IDS, **options: Any) -> None:
    page_tables.flex_attention(cache, names, outs["table"], outs["inverse"], **options)


def run_trt(cache: Any, outs: Outs, names: Any = IDS, **options: Any) -> None:
    page_tables.tensorrt_llm(cache, names, outs["offsets"], **options)


def run_hf(cache: Any, outs: Outs, counts: Any = FOUR, names: Any = IDS, **options: Any) -> None:
    page_tables.hf_indices(cache, names, counts, outs["slots"], outs["reads"], **options)


ALL_CALLS = [
    run_block_tables,
    run_seq_lens,
    run_slots,
    run_flashinfer,
    run_csr,
    run_flex,
    run_trt,
    run_hf,
]
VIEW_CALLS = [call for call in ALL_CALLS if call not in (run_seq_lens, run_slots)]


def assert_refused(
    call: Callable[..., None], kind: type[Exception], match: str, outs: Outs, **options: Any
) -> None:
    """Check that a call raises, and that neither the arena nor an output has changed."""
    cache = busy_cache()
    before = cache.state_bytes()
    with pytest.raises(kind, match=match):
        call(cache, outs, **options)
    assert (cache.state_bytes() == before).all()
    for out in outs.values():
        assert (out == CANARY).all()


def make_outs(**replaced: np.ndarray) -> Outs:
    return {name: canaries(shape, dtype) for name, (shape, dtype) in OUTS.items()} | replaced


@pytest.mark.parametrize("call", ALL_CALLS)
def test_outputs_of_exactly_the_needed_size_are_taken(call: Callable[..., None]) -> None:
    call(busy_cache(), make_outs())


@pytest.mark.parametrize("call", ALL_CALLS)
def test_a_batch_with_a_stranger_in_it_is_refused(call: Callable[..., None]) -> None:
    live = busy_cache()
    handles = np.array([live.handle(seq_id) for seq_id in (1, 2, 3, 4)], np.int64)
    call(live, make_outs(), names=handles)
    handles[2] += 1 << 32
    stale, unknown = nbkv.StaleHandleError, nbkv.UnknownSequenceError
    assert_refused(call, stale, rf"handles\[2\] is {handles[2]};", make_outs(), names=handles)
    ids = np.array([1, 2, 2**64 - 1, 3], np.uint64)
    assert_refused(call, unknown, rf"handles\[2\] is {2**64 - 1};", make_outs(), names=ids)
    assert_refused(call, TypeError, "handles is a list", make_outs(), names=[1, 2, 3, 4])
    wrong = IDS.astype(np.int32)
    assert_refused(call, nbkv.ArgumentError, "handles.*int32.*int64", make_outs(), names=wrong)


@pytest.mark.parametrize("call", VIEW_CALLS)
@pytest.mark.parametrize(
    ("num_tokens", "match"),
    [
        ([6, 9, 0, 9], r"num_tokens\[1\] is 9; .*0 to 8"),
        ([6, 8, 0, -1], r"num_tokens\[3\] is -1; .*0 to 9"),
        ([6, 8, 0], r"num_tokens is '3 long'; .*as long as handles, 4"),
    ],
)
def test_no_more_tokens_are_covered_than_there_are(
    call: Callable[..., None], num_tokens: list[int], match: str
) -> None:
    lengths = np.array(num_tokens, np.int32)
    options = {"counts": 0} if call in (run_csr, run_hf) else {}
    assert_refused(call, nbkv.ArgumentError, match, make_outs(), num_tokens=lengths, **options)


# call, output, message when it is one too short or too narrow
TOO_SMALL: list[tuple[Any, str, Any, str]] = [
    (run_block_tables, "out", (3, 3), r"out is '3 long'; .*at least 4"),
    (run_block_tables, "out", (4, 2), r"out is '2 wide'; .*table of handles\[3\]"),
    (run_seq_lens, "lens", 3, r"out is '3 long'; .*at least 4"),
    (run_slots, "slots", 11, r"out is '11 long'; .*at least 12, sum\(counts\)"),
    (run_flashinfer, "indptr", 4, r"indptr is '4 long'; .*at least 5"),
    (run_flashinfer, "indices", 5, r"indices is '5 long'; .*at least 6"),
    (run_flashinfer, "last", 3, r"last_page_len is '3 long'; .*at least 4"),
    (run_csr, "indptr", 4, r"indptr is '4 long'; .*at least 5"),
    (run_csr, "indices", 5, r"indices is '5 long'; .*at least 6"),
    (run_csr, "last", 3, r"last_page_len is '3 long'; .*at least 4"),
    (run_csr, "lens", 3, r"seq_lens is '3 long'; .*at least 4"),
    (run_csr, "slots", 11, r"slots is '11 long'; .*at least 12, sum\(counts\)"),
    (run_flex, "table", (3, 3), r"page_table is '3 long'; .*at least 4"),
    (run_flex, "table", (4, 2), r"page_table is '2 wide'; .*table of handles\[3\]"),
    (run_flex, "inverse", (3, 8), r"physical_to_logical is '3 long'; .*at least 4"),
    (run_flex, "inverse", (4, 7), r"physical_to_logical is '7 wide'; .*at least 8"),
    (run_trt, "offsets", (1, 3, 2, 3), r"out is '3 long'; .*at least 4"),
    (run_trt, "offsets", (1, 4, 2, 2), r"out is '2 wide'; .*table of handles\[3\]"),
    (run_trt, "offsets", (1, 4, 1, 3), r"out is 'of shape \(1, 4, 1, 3\)'; .*\(1, batch, 2"),
    (run_trt, "offsets", (2, 4, 2, 3), r"out is 'of shape \(2, 4, 2, 3\)'; .*\(1, batch, 2"),
    (run_hf, "slots", 11, r"write_index is '11 long'; .*at least 12, sum\(counts\)"),
    (run_hf, "reads", 18, r"read_index is '18 long'; .*at least 19"),
]


@pytest.mark.parametrize(("call", "name", "shape", "match"), TOO_SMALL)
def test_an_output_that_is_too_small_is_refused(
    call: Callable[..., None], name: str, shape: Any, match: str
) -> None:
    outs = make_outs(**{name: canaries(shape, OUTS[name][1])})
    assert_refused(call, nbkv.ArgumentError, match, outs)


USES = {(call, name) for call, name, _, _ in TOO_SMALL}


@pytest.mark.parametrize(("call", "name"), sorted(USES, key=str))
def test_an_output_must_be_plain_and_of_its_dtype(call: Callable[..., None], name: str) -> None:
    shape, dtype = OUTS[name]
    doubled = (*shape[:-1], 2 * shape[-1]) if isinstance(shape, tuple) else 2 * shape
    read_only = canaries(shape, dtype)
    read_only.flags.writeable = False
    one_more = (1, shape) if isinstance(shape, int) else (1, *shape)
    for out, match in (
        (canaries(shape, np.int16), "int16"),
        (canaries(doubled, dtype)[..., ::2], "contiguous"),
        (read_only, "read-only.*writable"),
        (canaries(one_more, dtype), "dimensional"),
    ):
        assert_refused(call, nbkv.ArgumentError, match, make_outs(**{name: out}))
    cache = busy_cache()
    with pytest.raises(TypeError, match="list"):
        call(cache, make_outs() | {name: [1, 2]})


@pytest.mark.parametrize("call", [run_csr, run_hf])
def test_counts_are_of_tokens_that_are_covered(call: Callable[..., None]) -> None:
    def refuse(match: str, counts: Any, **options: Any) -> None:
        assert_refused(call, nbkv.ArgumentError, match, make_outs(), counts=counts, **options)

    refuse(r"counts\[1\] is 9; .*0 to 8", np.array([1, 9, 0, 0], np.int32))
    refuse(r"counts\[0\] is -1; .*0 to 6", np.array([-1, 0, 0, 0], np.int32))
    refuse(r"counts\[2\] is 1; .*0 to 0", 1)
    refuse(r"counts is 'int32 array of shape \(2,\)'; .*as long as handles, 4", TWO)
    covered = np.array([3, 8, 0, 9], np.int32)
    refuse(r"counts\[0\] is 4; .*0 to 3", np.array([4, 0, 0, 0], np.int32), num_tokens=covered)


def test_slots_are_of_positions_that_the_sequence_has() -> None:
    def refuse(match: str, starts: Any, counts: Any) -> None:
        assert_refused(
            run_slots, nbkv.ArgumentError, match, make_outs(), starts=starts, counts=counts
        )

    refuse(r"counts\[0\] is 5; .*0 to 4, .*starts\[0\]", np.array([2, 0, 0, 0], np.int32), 5)
    refuse(r"counts\[1\] is -1; .*0 to 8", 0, np.array([0, -1, 0, 0], np.int32))
    refuse(r"starts\[1\] is 9; .*0 to 8", np.array([0, 9, 0, 0], np.int32), 0)
    refuse(r"starts\[0\] is -1; .*0 to 6", np.array([-1, 0, 0, 0], np.int32), 1)
    refuse(r"counts\[0\] is 2147483647", 6, 2**31 - 1)
    refuse(r"starts is 'int32 array of shape \(2,\)'; .*as long as handles, 4", TWO, 0)


@pytest.mark.parametrize("call", [run_block_tables, run_trt])
def test_padding_is_an_int32(call: Callable[..., None]) -> None:
    refused = nbkv.ArgumentError
    assert_refused(call, refused, "padding is 2147483648; ", make_outs(), padding=2**31)
    assert_refused(call, refused, "padding is -2; ", make_outs(), padding=-2)
    assert_refused(call, TypeError, "padding is 0.5; ", make_outs(), padding=0.5)


def test_a_block_stride_is_at_least_a_block() -> None:
    refused = nbkv.ArgumentError
    assert_refused(run_hf, refused, r"block_stride is 3; .*4 \(", make_outs(), block_stride=3)
    assert_refused(run_hf, refused, "block_stride is 2147483648", make_outs(), block_stride=2**31)


def test_int32_is_refused_where_slots_do_not_fit() -> None:
    config = nbkv.CacheConfig(2**15 - 1, 2**17, 1, 1, 1, max_blocks_per_sequence=1)
    cache = nbkv.PagedKVCache(config)
    cache.add_sequence(1)
    names = np.array([1], np.uint64)
    with pytest.raises(nbkv.ArgumentError, match=r"out is 'int32'; .*int64"):
        page_tables.slot_mapping(cache, names, 0, 0, canaries(4))
    assert page_tables.slot_mapping(cache, names, 0, 0, canaries(4, np.int64)).size == 0


def test_tensorrt_llm_is_refused_where_offsets_do_not_fit() -> None:
    config = nbkv.CacheConfig(1, 2**16, 2**15, 1, 1, max_blocks_per_sequence=1)
    cache = nbkv.PagedKVCache(config)
    with pytest.raises(nbkv.ArgumentError, match=r"num_blocks is 65536; .*at most 32768"):
        page_tables.tensorrt_llm(cache, np.array([], np.int64), canaries((1, 1, 2, 1)))


@pytest.mark.parametrize("call", ALL_CALLS)
def test_an_output_that_is_also_an_input_is_refused(call: Callable[..., None]) -> None:
    inputs = {"names": IDS}
    if call in VIEW_CALLS:
        inputs["num_tokens"] = np.array([6, 8, 0, 9], np.int32)
    if call in (run_csr, run_hf, run_slots):
        inputs["counts"] = np.array([0, 1, 0, 2], np.int32)
    if call is run_slots:
        inputs["starts"] = np.array([0, 1, 0, 2], np.int32)
    names = {"names": "handles"}
    for name, values in inputs.items():
        # All outputs lie over one memory that begins with the input.
        memory = np.full(512, 0xAA, np.uint8)
        memory[: values.nbytes] = values.view(np.uint8)
        before = memory.copy()
        outs = {
            out: np.ndarray(shape, dtype, buffer=memory.data)
            for out, (shape, dtype) in OUTS.items()
        }
        shared = memory[: values.nbytes].view(values.dtype)
        match = rf"is memory of {names.get(name, name)}; .*its own"
        with pytest.raises(nbkv.ArgumentError, match=match):
            call(busy_cache(), outs, **inputs | {name: shared})
        assert (memory == before).all()


def test_query_start_loc_refuses_what_it_cannot_sum() -> None:
    def refuse(match: str, counts: Any, size: int = 3) -> None:
        out = canaries(size)
        with pytest.raises(nbkv.ArgumentError, match=match):
            page_tables.query_start_loc(counts, out)
        assert (out == CANARY).all()

    refuse(r"counts\[1\] is -1; ", np.array([1, -1], np.int32))
    refuse(r"counts\[1\] is 2147483647; .*2147483647", np.array([1, 2**31 - 1], np.int32))
    refuse("out is '2 long'; .*at least 3", TWO, 2)
    refuse("counts is 'int64", np.array([1, 1]))
    memory = np.ones(6, np.int32)
    with pytest.raises(nbkv.ArgumentError, match="out is 'memory of counts'"):
        page_tables.query_start_loc(memory[:3], memory[2:])


def test_table_changes_outside_the_table_are_refused() -> None:
    def refuse(match: str, *change: int, **options: Any) -> None:
        table = canaries((4, 3))
        changes = np.array([(0, 1, 1, 1), change], np.int32)
        with pytest.raises(nbkv.ArgumentError, match=match):
            page_tables.apply_changes(table, changes, **options)
        assert (table == CANARY).all()

    refuse(r"changes\[1, 0\] is 1; .*0 to 0", 1, 0, 0, 0)
    refuse(r"changes\[1, 1\] is 4; .*0 to 3", 0, 4, 0, 0)
    refuse(r"changes\[1, 1\] is -1; .*0 to 3", 0, -1, 0, 0)
    refuse(r"changes\[1, 2\] is 3; .*0 to 2", 0, 0, 3, 0)
    refuse(r"changes\[1, 2\] is -1; .*0 to 2", 0, 0, -1, 0)
    refuse(r"changes\[1, 3\] is -2; .*-1 to", 0, 0, 0, -2)
    refuse(r"changes\[1, 3\] is 8; .*-1 to 7", 0, 0, 0, 8, num_blocks=8)
    memory = canaries((4, 4))
    with pytest.raises(nbkv.ArgumentError, match="table is 'memory of changes'"):
        page_tables.apply_changes(memory, memory[:1])
    with pytest.raises(nbkv.ArgumentError, match=r"changes is 'of shape \(2, 3\)'; .*\(n, 4\)"):
        page_tables.apply_changes(memory, np.zeros((2, 3), np.int32))
