"""Control flow, warps, atomics and what the parser makes of a body."""

import numpy as np
import pytest

from ptx.handwritten import module, run
from ptx.parser import parse

LANES = np.arange(32, dtype=np.uint32)
STORE = "\nmad.wide.u32 %d0, %r31, 4, %d16;\nst.global.b32 [%d0], {0};"


def results(body, register="%r0", *, count=32, **options):
    out = np.zeros(count, np.uint32)
    run(body + STORE.format(register), [out], **options)
    return out


def test_threads_of_a_loop_leave_it_one_by_one():
    body = """
    mov.u32 %r0, 0;
    mov.u32 %r1, 0;
$again:
    setp.ge.u32 %p1, %r1, %r30;
    @%p1 bra $done;
    add.u32 %r0, %r0, %r1;
    add.u32 %r1, %r1, 1;
    bra.uni $again;
$done:"""
    assert (results(body) == LANES * (np.maximum(LANES, 1) - 1) // 2).all()


def test_branches_meet_again():
    body = """
    and.b32 %r1, %r30, 1;
    setp.eq.u32 %p1, %r1, 0;
    @!%p1 bra $odd;
    mov.u32 %r0, 100;
    bra $end;
$odd:
    mov.u32 %r0, 200;
$end:
    shfl.sync.bfly.b32 %r0, %r0, 1, 31, -1;"""
    assert (results(body) == np.where(LANES % 2, 100, 200)).all()


def test_a_guarded_instruction_changes_only_its_threads():
    body = "mov.u32 %r0, 1;\nsetp.gt.u32 %p1, %r30, 20;\n@%p1 mov.u32 %r0, 2;"
    assert (results(body) == np.where(LANES > 20, 2, 1)).all()


def test_grids_and_blocks_of_three_dimensions():
    names = ["tid.x", "tid.y", "tid.z", "ctaid.x", "ctaid.y", "ctaid.z"]
    body = "mov.u32 %r0, 0;\n"
    for name in names:
        body += f"mov.u32 %r1, %{name};\nmad.lo.u32 %r0, %r0, 10, %r1;\n"
    body += """
    mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.y; mov.u32 %r5, %ntid.x;
    mad.lo.u32 %r6, %r3, %r4, %r2; mad.lo.u32 %r6, %r6, %r5, %r30;
    mov.u32 %r7, %ctaid.y; mov.u32 %r8, %ctaid.z; mov.u32 %r9, %nctaid.y; mov.u32 %r10, %nctaid.x;
    mad.lo.u32 %r11, %r8, %r9, %r7; mad.lo.u32 %r11, %r11, %r10, %r29;
    mad.lo.u32 %r31, %r11, 24, %r6;"""
    out = results(body, count=24 * 12, grid=(2, 3, 2), block=(4, 3, 2))
    expected = [
        int(f"{x}{y}{z}{i}{j}{k}")
        for k in range(2)
        for j in range(3)
        for i in range(2)
        for z in range(2)
        for y in range(3)
        for x in range(4)
    ]
    assert out.tolist() == expected


@pytest.mark.parametrize(
    ("mode", "amount", "clamp", "expected"),
    [
        ("idx", 3, 31, LANES * 0 + 3),
        ("idx", 1, 0x181F, LANES // 8 * 8 + 1),
        ("up", 2, 0, np.where(LANES >= 2, LANES - 2, LANES)),
        ("down", 5, 31, np.where(LANES + 5 < 32, LANES + 5, LANES)),
        ("down", 1, 0x1C1F, np.where(LANES % 4 < 3, LANES + 1, LANES)),
        ("bfly", 9, 31, LANES ^ 9),
    ],
)
def test_shuffles_move_values_between_lanes(mode, amount, clamp, expected):
    body = f"shfl.sync.{mode}.b32 %r0|%p1, %r30, {amount}, {clamp}, -1;"
    assert (results(body, count=64, block=64) == np.concatenate([expected, expected + 32])).all()
    inside = results(body + "\nselp.u32 %r0, 1, 0, %p1;")
    if mode in ("up", "down"):
        assert (inside == (expected != LANES)).all()
    else:
        assert inside.all()


def test_a_part_of_a_warp_shuffles_under_its_own_mask():
    body = """
    mov.u32 %r0, 99;
    setp.lt.u32 %p1, %r30, 8;
    @%p1 shfl.sync.idx.b32 %r0, %r30, 5, 31, 0xff;"""
    assert (results(body) == np.where(LANES < 8, 5, 99)).all()


def test_a_block_smaller_than_a_warp_shuffles():
    assert (
        results("shfl.sync.bfly.b32 %r0, %r30, 1, 31, -1;", count=16, block=16) == LANES[:16] ^ 1
    ).all()


def test_votes():
    odd = "and.b32 %r1, %r30, 1;\nsetp.eq.u32 %p1, %r1, 1;\n"
    assert (results(odd + "vote.sync.ballot.b32 %r0, %p1, -1;") == 0xAAAAAAAA).all()
    for mode, answer in (("any", 1), ("all", 0), ("uni", 0)):
        body = odd + f"vote.sync.{mode}.pred %p2, %p1, -1;\nselp.u32 %r0, 1, 0, %p2;"
        assert (results(body) == answer).all()
    assert (results(odd + "mov.u32 %r0, 0;\n@%p1 activemask.b32 %r0;")[1::2] == 0xAAAAAAAA).all()


def test_reductions_over_a_warp():
    assert (
        results("redux.sync.add.s32 %r0, %r31, -1;", count=64, block=64)[[0, 63]] == [496, 1520]
    ).all()
    assert (results("redux.sync.max.u32 %r0, %r30, -1;") == 31).all()


ATOMICS = {
    "add.u32": 10 + 31 * 16,
    "max.s32": 31,
    "min.u32": 0,
    "and.b32": 0,
    "or.b32": 31,
    "xor.b32": 10,
    "exch.b32": 31,
    "inc.u32": 10,
}


@pytest.mark.parametrize("operation", ATOMICS)
def test_atomics_happen_one_after_the_other(operation):
    cell = np.array([10], np.uint32)
    old = np.zeros(32, np.uint32)
    body = f"atom.global.{operation} %r0, [%d16], %r30;\n" + STORE.replace("%d16", "%d17").format(
        "%r0"
    )
    if operation == "inc.u32":
        body = body.replace("%r30;", "15;", 1)
        run(body, [cell, old])
        assert old.tolist() == [(10 + i) % 16 for i in range(32)]
        assert cell[0] == 10
        return
    run(body, [cell, old])
    assert old[0] == 10
    assert cell[0] == ATOMICS[operation]


def test_an_atomic_of_scope_and_compare_and_swap():
    cell = np.zeros(1, np.uint32)
    run("add.u32 %r1, %r30, 1;\natom.relaxed.gpu.global.cas.b32 %r0, [%d16], %r30, %r1;", [cell])
    assert cell[0] == 32
    total = np.zeros(1, np.float32)
    run("red.global.add.f32 [%d16], 0f3FC00000;", [total])
    assert total[0] == 48


def test_a_counter_in_shared_memory_is_one_a_block():
    body = """
    setp.ne.u32 %p1, %r30, 0;
    @!%p1 st.shared.u32 [count], 0;
    bar.sync 0;
    atom.shared.add.u32 %r1, [count], 2;
    bar.sync 0;
    ld.shared.u32 %r0, [count];"""
    out = results(body, count=128, block=64, grid=2, variables=".shared .align 4 .u32 count;\n")
    assert (out == 128).all()


def test_scopes_of_inline_assembly_have_registers_of_their_own():
    body = """
    mov.u32 %r1, 7;
    { .reg .b32 %r1; .reg .b16 lo, hi; mov.u32 %r1, 0x50009; mov.b32 {lo, hi}, %r1;
      cvt.u32.u16 %r0, hi; }
    add.u32 %r0, %r0, %r1;"""
    assert (results(body) == 12).all()


def test_comments_directives_and_labels_are_parsed():
    ptx = module("""
    // begin inline asm
    .loc 1 5 3
    /* two
       lines */ .pragma "nounroll";
$L__BB0_1: mov.u32 %r0, 1; @%p1 bra $L__BB0_1;""")
    (kernel,) = parse(ptx).values()
    assert kernel.target == "sm_90"
    start = kernel.labels["$L__BB0_1"]
    assert [i.opcode for i in kernel.instructions[start:]] == ["mov.u32", "bra", "ret"]
    line = ptx.splitlines()[kernel.instructions[start].line - 1]
    assert "mov.u32 %r0, 1" in line
