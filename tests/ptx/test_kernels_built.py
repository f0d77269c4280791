"""Kernels compiled by numba-cuda, executed and disassembled."""

import numpy as np
import pytest

from ptx.faults import MisalignedError, OutOfBoundsError, PTXError, RaceError
from ptx.launch import launch
from ptx.memory import GlobalMemory
from ptx.wheels import require_wheels

require_wheels()

from numba import types  # noqa: E402

from ptx import sample_kernels  # noqa: E402
from ptx.build import build  # noqa: E402
from ptx.mutants import load_mutant, mutate  # noqa: E402
from ptx.sass import assemble, link  # noqa: E402

CAPABILITIES = [(8, 0), (8, 9), (9, 0), (10, 0)]
COPY = (types.int64[::1], types.int32)
SUM = (types.float32[::1], types.float32[::1])


def check_copy(ptx, num_words, grid=2, block=32, shift=0):
    generator = np.random.default_rng(num_words)
    source = generator.integers(0, 1 << 63, (num_words, 2), np.uint64)
    target = np.zeros_like(source)
    memory = GlobalMemory()
    geometry = np.array([memory.add(source, "source"), memory.add(target, "target")])
    geometry[0] += shift
    report = launch(ptx, grid, block, [geometry, num_words], memory=memory)
    assert (target == source).all()
    assert report.stored_bytes == target.nbytes
    return report


def check_sum(ptx, num_blocks=3):
    values = np.random.default_rng(1).integers(0, 100, 64 * num_blocks).astype(np.float32)
    sums = np.zeros(num_blocks, np.float32)
    launch(ptx, num_blocks, 64, [values, sums])
    assert (sums == values.reshape(num_blocks, 64).sum(axis=1)).all()


@pytest.mark.parametrize("cc", CAPABILITIES)
def test_copy_moves_every_word_when_sizes_are_swept(cc):
    ptx = build(sample_kernels.copy_words, COPY, cc)
    for num_words in [*range(1, 4 * 32 + 3), 300]:
        check_copy(ptx, num_words)


@pytest.mark.parametrize("cc", CAPABILITIES)
def test_a_warps_16_byte_requests_move_16_sectors(cc):
    report = check_copy(build(sample_kernels.copy_words, COPY, cc), 256)
    for direction in ("load", "store"):
        traffic = report.of(direction, 16)
        assert (traffic.requests, traffic.sectors) == (8, 8 * 16)
        assert traffic.sectors == traffic.ideal_sectors


def test_a_misaligned_base_and_an_end_overrun_are_reported():
    ptx = build(sample_kernels.copy_words, COPY)
    with pytest.raises(MisalignedError):
        check_copy(ptx, 64, shift=8)
    with pytest.raises(OutOfBoundsError, match="byte 1024 of source, which has 1024 bytes"):
        check_copy(ptx, 64, shift=16)
    with pytest.raises(OutOfBoundsError):
        check_copy(ptx, 64, shift=-16)


@pytest.mark.parametrize("cc", CAPABILITIES)
def test_a_tree_sum_in_shared_memory_is_exact(cc):
    check_sum(build(sample_kernels.sum_blocks, SUM, cc))


@pytest.mark.parametrize("cc", CAPABILITIES)
def test_the_copy_is_assembled_to_128_bit_accesses(cc):
    binary = assemble(build(sample_kernels.copy_words, COPY, cc))
    accesses = binary.global_accesses()
    assert accesses["load 128"] > 0
    assert accesses["store 128"] > 0
    assert set(accesses) <= {"load 128", "store 128", "load 64"}  # 64: the addresses
    assert binary.registers <= 24
    assert binary.num_calls == binary.num_generic == binary.num_local == 0
    assert binary.spill_store_bytes == binary.spill_load_bytes == binary.stack_bytes == 0


@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize(("name", "signature"), [("copy_words", COPY), ("sum_blocks", SUM)])
def test_a_launchs_own_link_ends_at_the_same_code(name, signature, cc):
    kernel = getattr(sample_kernels, name)
    assembled, linked = assemble(build(kernel, signature, cc)), link(kernel, signature, cc)
    assert linked.opcodes == assembled.opcodes
    assert linked.registers == assembled.registers
    assert linked.shared_bytes == assembled.shared_bytes
    check = check_copy if name == "copy_words" else check_sum
    check(linked.ptx, 70)


def test_a_register_limit_that_is_too_low_spills():
    kernel = sample_kernels.copy_rows
    signature = (types.int64[::1], types.int32)
    free = assemble(build(kernel, signature))
    assert free.registers > 32
    assert free.num_local == free.spill_store_bytes == 0
    tight = assemble(build(kernel, signature), max_registers=24)
    assert tight.registers <= 24
    assert tight.num_local > 0
    assert tight.spill_store_bytes > 0
    assert link(kernel, signature, max_registers=24).num_local > 0


def sweep_copy(module):
    ptx = build(module.copy_words, COPY)
    for num_words in range(1, 4 * 32 + 3):
        check_copy(ptx, num_words)


def sweep_sum(module):
    check_sum(build(module.sum_blocks, SUM))


FIRST_BARRIER = ("    cuda.syncthreads()\n    step = int32(32)", "    step = int32(32)")
MUTANTS = {
    "the guard off by one": (sweep_copy, "while i < num_words", "while i <= num_words"),
    "a step too long": (sweep_copy, "i = int32(i + step)", "i = int32(i + step + 1)"),
    "the source twice": (sweep_copy, "store_16(geometry[1]", "store_16(geometry[0]"),
    "words overlap": (sweep_copy, "geometry[1] + int64(i) * 16", "geometry[1] + int64(i) * 8"),
    "no barrier": (sweep_sum, "        cuda.syncthreads()\n        step", "        step"),
    "no first barrier": (sweep_sum, *FIRST_BARRIER),
    "a divergent barrier": (sweep_sum, "step)]\n        cuda", "step)]\n            cuda"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name):
    check, old, new = MUTANTS[name]
    check(sample_kernels)
    mutant = load_mutant(sample_kernels, (old, new))
    with pytest.raises((PTXError, AssertionError)):
        check(mutant)


def test_a_mutant_must_match_exactly_once():
    with pytest.raises(ValueError, match="occurs 2 times"):
        mutate("a = 1\na = 1\n", [("a = 1", "a = 2")])
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutate("a = 1\n", [("b", "c")])


def test_a_missing_barrier_is_named_as_a_race():
    mutant = load_mutant(
        sample_kernels, ("    cuda.syncthreads()\n    step = int32(32)", "    step = int32(32)")
    )
    with pytest.raises(RaceError, match="shared memory"):
        check_sum(build(mutant.sum_blocks, SUM))
