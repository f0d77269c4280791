"""Planted faults: each is reported as what it is, with thread and line."""

import numpy as np
import pytest

from ptx.contraction import fusable_products
from ptx.faults import (
    DivergentBarrierError,
    EndlessLoopError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    ReadOnlyError,
    TrapError,
    UninitialisedError,
    UnsupportedPTXError,
)
from ptx.handwritten import module, run
from ptx.launch import find_kernel
from ptx.memory import GlobalMemory

SHARED = ".shared .align 16 .b8 area[128];\n"
LOCAL = ".local .align 16 .b8 own[16];\n"
# %d0 is this thread's 4-byte word of the first array.
OWN_WORD = "mad.wide.u32 %d0, %r31, 4, %d16;\n"
# %r0 is this thread's 4-byte word of shared memory.
OWN_SHARED = "mov.u32 %r1, area;\nmad.lo.u32 %r0, %r30, 4, %r1;\n"


def words(count=32):
    return np.zeros(count, np.uint32)


def test_a_load_past_the_end_names_thread_and_byte():
    with pytest.raises(OutOfBoundsError, match=r"thread 31 of block 0 .*byte 124 of array 0"):
        run(OWN_WORD + "ld.global.u32 %r0, [%d0];", [words(31)])


def test_a_vector_that_straddles_the_end_is_out_of_bounds():
    with pytest.raises(OutOfBoundsError):
        run("ld.global.v2.u32 {%r0, %r1}, [%d16];", [words(1)], block=1)


def test_a_store_below_the_start_or_at_null_is_out_of_bounds():
    with pytest.raises(OutOfBoundsError, match="in no buffer"):
        run("st.global.u32 [%d16+-4], 1;", [words()], block=1)
    with pytest.raises(OutOfBoundsError, match="in no buffer"):
        run("mov.u64 %d0, 0;\nst.global.u32 [%d0], 1;", [words()], block=1)
    with pytest.raises(OutOfBoundsError, match="in no buffer"):
        run("mov.u64 %d0, -8;\nst.global.u64 [%d0], 1;", [words()], block=1)


def test_an_address_cut_to_32_bits_is_out_of_bounds():
    with pytest.raises(OutOfBoundsError):
        run("cvt.u32.u64 %r0, %d16;\ncvt.u64.u32 %d0, %r0;\nld.global.u32 %r1, [%d0];", [words()])


@pytest.mark.parametrize(
    ("access", "offset"),
    [
        ("ld.global.u32 %r0", 2),
        ("ld.global.v2.u64 {%d0, %d1}", 8),
        ("ld.global.v4.u32 {%r0, %r1, %r2, %r3}", 4),
    ],
)
def test_an_access_must_be_aligned_to_all_its_bytes(access, offset):
    with pytest.raises(MisalignedError):
        run(f"{access}, [%d16+{offset}];", [words()], block=1)
    run(f"{access}, [%d16+16];", [words()], block=1)


def test_a_misaligned_buffer_is_noticed_too():
    memory = GlobalMemory()
    data = np.zeros(64, np.uint8)
    memory.add(data, address=(1 << 44) + 4)
    with pytest.raises(MisalignedError):
        run("ld.global.u64 %d0, [%d16];", [data], memory=memory, block=1)


def test_a_store_to_read_only_memory():
    data = words()
    data.flags.writeable = False
    run(OWN_WORD + "ld.global.u32 %r0, [%d0];", [data])
    with pytest.raises(ReadOnlyError, match="array 0"):
        run(OWN_WORD + "st.global.u32 [%d0], 1;", [data])


def test_shared_memory_has_bounds_and_alignment():
    with pytest.raises(OutOfBoundsError, match="128 bytes"):
        run(OWN_SHARED + "st.shared.u32 [%r0+4], 1;", [words()], variables=SHARED)
    with pytest.raises(MisalignedError):
        run(OWN_SHARED + "st.shared.u64 [%r0], 1;", [words()], variables=SHARED)


def test_a_load_of_unwritten_shared_or_local_memory():
    with pytest.raises(UninitialisedError, match="byte 0 of shared"):
        run(OWN_SHARED + "ld.shared.u32 %r2, [%r0];", [words()], variables=SHARED)
    half_written = OWN_SHARED + "st.shared.u16 [%r0], 1;\nld.shared.u32 %r2, [%r0];"
    with pytest.raises(UninitialisedError):
        run(half_written, [words()], variables=SHARED)
    with pytest.raises(UninitialisedError, match="local"):
        run("mov.u64 %d0, own;\nld.local.u32 %r2, [%d0];", [words()], variables=LOCAL)


def test_shared_memory_of_one_block_is_not_the_next_ones():
    body = (
        OWN_SHARED
        + """
    setp.ne.u32 %p1, %r29, 0;
    @%p1 bra $read;
    st.shared.u32 [%r0], 1;
$read:
    ld.shared.u32 %r2, [%r0];"""
    )
    with pytest.raises(UninitialisedError, match="thread 0 of block 1"):
        run(body, [words(64)], variables=SHARED, grid=2)


EXCHANGE = (
    OWN_SHARED
    + """
    st.shared.u32 [%r0], %r30;
    {barrier}
    xor.b32 %r2, %r0, {distance};
    ld.shared.u32 %r3, [%r2];
    mad.wide.u32 %d0, %r31, 4, %d16;
    st.global.u32 [%d0], %r3;
"""
)


@pytest.mark.parametrize("barrier", ["bar.sync 0;", "barrier.sync 0;", "bar.warp.sync -1;"])
def test_an_exchange_through_shared_memory_needs_a_barrier(barrier):
    result = words()
    run(EXCHANGE.format(barrier=barrier, distance=4), [result], variables=SHARED)
    assert (result == np.arange(32) ^ 1).all()
    with pytest.raises(
        RaceError, match=r"shared memory.*thread 0 of.*st\.shared.*thread 1 of.*ld\.sh"
    ):
        run(EXCHANGE.format(barrier="", distance=4), [words()], variables=SHARED)


def test_a_warps_barrier_does_not_order_two_warps():
    area = ".shared .align 16 .b8 area[256];\n"
    across = {"distance": 128, "barrier": "bar.sync 0;"}
    result = words(64)
    run(EXCHANGE.format(**across), [result], variables=area, block=64)
    assert (result == np.arange(64) ^ 32).all()
    across["barrier"] = "bar.warp.sync -1;"
    with pytest.raises(RaceError):
        run(EXCHANGE.format(**across), [words(64)], variables=area, block=64)


def test_a_write_after_a_read_needs_a_barrier_too():
    body = (
        OWN_SHARED
        + """
    st.shared.u32 [%r0], %r30;
    bar.sync 0;
    xor.b32 %r2, %r0, 4;
    ld.shared.u32 %r3, [%r2];
    {barrier}
    st.shared.u32 [%r0], 7;"""
    )
    run(body.format(barrier="bar.sync 0;"), [words()], variables=SHARED)
    with pytest.raises(RaceError):
        run(body.format(barrier=""), [words()], variables=SHARED)


def test_two_threads_that_write_one_address():
    with pytest.raises(RaceError, match="global memory"):
        run("st.global.u32 [%d16], 1;", [words()], block=2)
    run("st.global.u32 [%d16], 1;", [words()], block=1)


def test_narrow_writes_into_one_word_are_no_race_unless_it_is_read():
    bytewise = "cvt.u64.u32 %d1, %r31;\nadd.u64 %d0, %d16, %d1;\nst.global.u8 [%d0], 1;\n"
    run(bytewise, [words()])
    with pytest.raises(RaceError):
        run(bytewise + "ld.global.u32 %r0, [%d16];", [words()])


def test_a_barrier_does_not_order_blocks():
    body = "bar.sync 0;\nst.global.u32 [%d16], 1;\nbar.sync 0;"
    with pytest.raises(RaceError, match=r"thread 0 of block 0.*thread 0 of block 1"):
        run(body, [words()], block=1, grid=2)
    # The batches of a large grid are looked at together.
    with pytest.raises(RaceError):
        run(
            "setp.ne.u32 %p1, %r30, 0;\n@!%p1 st.global.u32 [%d16], 1;",
            [words()],
            block=512,
            grid=64,
        )


def test_an_atomic_conflicts_with_plain_accesses_only():
    run("red.global.add.u32 [%d16], 1;", [words()], grid=3)
    with pytest.raises(RaceError):
        run("red.global.add.u32 [%d16], 1;\nld.global.u32 %r0, [%d16];", [words()])
    with pytest.raises(RaceError):
        run("red.global.add.u32 [%d16], 1;\nst.global.u32 [%d16], 1;", [words()])


def test_reading_together_is_no_race_and_races_can_be_let_pass():
    run("ld.global.u32 %r0, [%d16];", [words()], grid=4)
    run("st.global.u32 [%d16], 1;", [words()], check_races=False)


DIVERGENT = "setp.lt.u32 %p1, %r30, 16;\n{rest}"


@pytest.mark.parametrize(
    "rest",
    [
        "@%p1 bar.sync 0;",
        "@%p1 ret;\nbar.sync 0;",
        "@%p1 bra $other;\nbar.sync 0;\nbra $end;\n$other:\nbar.sync 0;\n$end:",
    ],
    ids=["some skip it", "some have exited", "two barriers"],
)
def test_a_divergent_barrier(rest):
    with pytest.raises(DivergentBarrierError):
        run(DIVERGENT.format(rest=rest), [words()])


@pytest.mark.parametrize(
    "rest",
    [
        "@%p1 bar.warp.sync -1;",
        "@%p1 shfl.sync.bfly.b32 %r1|%p2, %r30, 1, 31, -1;",
        "@%p1 vote.sync.any.pred %p2, %p1, -1;",
        "shfl.sync.bfly.b32 %r1|%p2, %r30, 1, 31, 1;",
        "@%p1 shfl.sync.bfly.b32 %r1|%p2, %r30, 16, 31, 0xffff;",
    ],
    ids=["barrier", "shuffle", "vote", "outside the mask", "a lane that is not there"],
)
def test_a_warp_that_does_not_meet(rest):
    with pytest.raises(DivergentBarrierError):
        run(DIVERGENT.format(rest=rest), [words()])


def test_an_endless_loop_and_a_trap():
    with pytest.raises(EndlessLoopError):
        run("$again:\nbra $again;", [words()], max_steps=1000)
    with pytest.raises(TrapError, match="thread 5 of block 0"):
        run("setp.eq.u32 %p1, %r30, 5;\n@%p1 trap;", [words()])


def test_an_uninitialised_register_holds_a_pattern():
    result = words(1)
    run("st.global.u32 [%d16], %r9;", [result], block=1)
    assert result[0] == 0xA5A5A5A5


@pytest.mark.parametrize(
    "line",
    [
        "call.uni (%r0), helper, (%r1);",
        "bar.sync 1, 64;",
        "bar.red.popc.u32 %r0, 0, %p1;",
        "ld.global.unheard.u32 %r0, [%d16];",
        "ld.global.L2::cache_hint.u32 %r0, [%d16], %d1;",
        "wgmma.fence.sync.aligned;",
        "add.u32 %r0, %undeclared, 1;",
        "bra $nowhere;",
    ],
)
def test_what_the_interpreter_does_not_know_it_does_not_guess(line):
    with pytest.raises(UnsupportedPTXError):
        run(line, [words()])


def test_products_that_ptxas_may_fuse_are_listed():
    body = "mul{0}.f32 %f1, %f2, %f3;\nadd{1}.f32 %f4, %f5, %f1;"
    fused = fusable_products(find_kernel(module(body.format("", ""))))
    assert [(str(a).split()[2], str(b).split()[2]) for a, b in fused] == [("mul.f32", "add.f32")]
    for roundings in ((".rn", ""), ("", ".rn"), (".rn", ".rn")):
        assert fusable_products(find_kernel(module(body.format(*roundings)))) == []
