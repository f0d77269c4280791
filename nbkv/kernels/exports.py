"""The keys of a sequence's blocks, for stores and routers outside."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.extras import extra_at
from nbkv.kernels.hashing import hash_block, root_hash
from nbkv.kernels.rows import row_of
from nbkv.kernels.state import Arena, Records, State, open_state
from nbkv.layout import CALLER_KEYED, INDEXED, UNINDEXABLE
from nbkv.statuses import KEYS_UNKNOWN

_KEYED = INDEXED | CALLER_KEYED


@entry("int64(uint8[::1], int64)")
def count_known(arena: Arena, handle: int) -> int:
    """Count the full blocks of a sequence all of whose tokens are known.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handle : int64
        Any value: nothing about it is trusted.

    Returns
    -------
    int
        Or ``STALE_HANDLE``, or ``KEYS_UNKNOWN``: its first blocks are gone, or it was cut
        inside an extra key.
    """
    state = open_state(arena)
    row = np.int64(row_of(state, handle))
    if row < 0:
        return row
    sequences = state.sequences
    unsure = sequences["flags"][row] & UNINDEXABLE != 0
    if unsure and state.sequence_keys["first_extra"][row] != 0:
        return np.int64(KEYS_UNKNOWN)
    if sequences["first_block"][row] > 0:
        return np.int64(KEYS_UNKNOWN)
    return np.int64(sequences["num_known"][row]) // state.header["block_size"][0]


@entry("int64(uint8[::1], int64, uint64[:, ::1], int32[::1])")
def export_chain(arena: Arena, handle: int, hashes: Records, tokens: Records) -> int:
    """Write the chain hashes and the tokens of a sequence's known full blocks.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handle : int64
        Of a sequence that `count_known` has let pass.
    hashes : uint64, shape (n, 2)
        n is what `count_known` returned.
    tokens : int32, shape (n * block_size,)

    Returns
    -------
    int
        0, or ``KEYS_UNKNOWN``: a block is indexed under another key, so the sequence does
        not know the salt or the extra keys of a prefix that it was attached to.
    """
    state = open_state(arena)
    row = np.int64(row_of(state, handle))
    seed = state.header["hash_seed"][0]
    block_size = state.header["block_size"][0]
    base = row * state.header["table_stride"][0]
    keys = state.sequence_keys
    low, high = root_hash(seed, keys["salt_low"][row], keys["salt_high"][row])
    for i in range(hashes.shape[0]):
        block_id = np.int64(state.tables[base + i])
        place = block_id * block_size
        extra = extra_at(state, row, i)
        low, high = hash_block(seed, low, high, state.tokens, place, block_size, extra)
        if not _agrees(state, block_id, low, high):
            return np.int64(KEYS_UNKNOWN)
        hashes[i, 0] = low
        hashes[i, 1] = high
        for j in range(block_size):
            tokens[i * block_size + j] = state.tokens[place + j]
    return np.int64(0)


@kernel
def _agrees(state: State, block_id: int, low: int, high: int) -> bool:
    """Tell whether a block, if it is indexed by its tokens, is so under this hash."""
    if state.blocks["flags"][block_id] & _KEYED != INDEXED:
        return True
    keys = state.keys
    return keys["hash_low"][block_id] == low and keys["hash_high"][block_id] == high
