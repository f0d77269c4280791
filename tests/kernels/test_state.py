"""The sections of the arena: in order, apart, aligned."""

import numpy as np
import pytest
from support import make_cache

from nbkv import layout
from nbkv._jit import kernel
from nbkv.kernels.state import open_state


@kernel
def section_rows(arena, out):
    state = open_state(arena)
    out[0] = state.blocks.size
    out[1] = state.keys.size
    out[2] = state.sequences.size
    out[3] = state.evicted.size
    out[4] = state.header["num_blocks"][0]


@pytest.mark.parametrize("policy", ["lru", "fifo"])
@pytest.mark.parametrize("num_blocks", [1, 7, 64])
def test_sections_do_not_overlap(num_blocks: int, policy: str) -> None:
    cache = make_cache(num_blocks, 3, eviction_policy=policy, max_sequences=5)
    end = layout.HEADER_BYTES
    assert layout.HEADER_DTYPE.itemsize <= end
    for name in layout.SECTIONS:
        assert cache.header[f"{name}_start"][0] == end
        assert end % 64 == 0
        end = int(cache.header[f"{name}_end"][0])
    assert end == cache.arena.size == cache.header["arena_bytes"][0]
    assert cache.arena.ctypes.data % 64 == 0


def test_kernels_see_whole_sections() -> None:
    cache = make_cache(32, 3, max_sequences=4)
    out = np.zeros(5, np.int64)
    section_rows(cache._arena, out)
    assert out.tolist() == [32, 32, 4, 32, 32]


def test_records_have_the_sizes_that_the_layout_states() -> None:
    assert layout.BLOCK_DTYPE.itemsize == 64
    assert layout.SEQUENCE_DTYPE.itemsize == 64
    assert layout.BLOCK_KEY_DTYPE.itemsize == 32
    assert layout.INDEX_DTYPE.itemsize == 8
    assert layout.RANK_DTYPE.itemsize == 16
