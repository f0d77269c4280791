"""A batch is checked as a whole, whatever it is named by."""

import numpy as np
import pytest
from page_support import CANARY, canaries, plant_hole
from support import make_cache

from nbkv._jit import kernel
from nbkv.kernels.emit import seq_lens
from nbkv.kernels.emit_batch import check_batch, overlaps
from nbkv.kernels.state import open_state
from nbkv.statuses import OUT_TOO_SMALL, STALE_HANDLE, TOO_MANY_TOKENS, UNKNOWN_SEQUENCE

NONE = np.empty(0, np.int32)


@kernel
def check(arena, names, by_id, num_tokens, counts, width):
    return check_batch(open_state(arena), names, by_id, num_tokens, counts, width)


@kernel
def share(out, names, one, other):
    return overlaps(out, names, one, other)


def int32s(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_pages_and_tokens_are_counted_without_holes() -> None:
    cache = make_cache(16, 4)
    cache.allocate_blocks_for_tokens(1, 9)
    cache.allocate_blocks_for_tokens(2, 8)
    cache.add_sequence(3)
    plant_hole(cache, 2, 1)
    ids = np.array([1, 2, 3, 2])
    arena = cache._arena
    assert tuple(check(arena, ids, True, NONE, NONE, 9)) == (5, 0)
    assert tuple(check(arena, ids, True, NONE, int32s(9, 1, 0, 8), 9)) == (5, 18)
    assert tuple(check(arena, ids, True, int32s(4, 4, 0, 5), NONE, 9)) == (2, 0)


def test_the_first_sequence_that_is_refused_is_named() -> None:
    cache = make_cache(64, 4, max_sequences=32)
    handles = np.array([cache.add_sequence(seq_id) for seq_id in range(20)])
    cache.append_tokens(handles, 8)
    arena, ids = cache._arena, np.arange(20)

    def refuse(status: int, at: int, *arguments: object) -> None:
        assert check(arena, *arguments)[0] == status
        assert cache._runtime["detail"][0] == at

    ids[17] = -1
    refuse(UNKNOWN_SEQUENCE, 17, ids, True, NONE, NONE, 9)
    handles[17] += 1 << 32
    refuse(STALE_HANDLE, 17, handles, False, NONE, NONE, 9)
    handles[17] -= 1 << 32
    covered = np.full(20, 8, np.int32)
    covered[5] = 9
    refuse(TOO_MANY_TOKENS, 5, handles, False, covered, NONE, 9)
    covered[5] = 4
    refuse(TOO_MANY_TOKENS, 5, handles, False, covered, int32s(5), 9)
    refuse(OUT_TOO_SMALL, 0, handles, False, covered, int32s(4), 1)
    assert check(arena, handles, False, covered, int32s(4), 2)[0] == 39


def test_ids_above_the_signed_range_are_found_by_their_bits() -> None:
    cache = make_cache(4)
    for seq_id in (2**64 - 1, 2**63):
        cache.append_token(seq_id)
    cache.append_token(2**63)
    names = np.array([2**63, 2**64 - 1], np.uint64).view(np.int64)
    out = canaries(3)
    assert seq_lens(cache._arena, names, True, out) == 2
    assert out.tolist() == [2, 1, CANARY]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_memory_is_shared_from_the_first_byte_to_the_last(position: int) -> None:
    memory = np.zeros(10, np.int64)
    apart = np.zeros(2, np.int64)
    out = memory[4:6]

    def shared(part: np.ndarray) -> bool:
        inputs = [apart, apart, apart]
        inputs[position] = part
        return bool(share(out, *inputs))

    assert [shared(memory[i : i + 2]) for i in range(2, 8)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert shared(memory)
    assert not shared(memory[5:5])
    assert not share(memory[5:5], memory, memory, memory)
