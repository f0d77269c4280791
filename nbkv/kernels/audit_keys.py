"""Audit of block keys: chain hashes made again from tokens, and the index that finds them."""

import numpy as np

from nbkv._buckets import find_occupant
from nbkv._intrinsics import prefetch
from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_index import count_occupants
from nbkv.kernels.audit_notes import NIL, note
from nbkv.kernels.hashing import hash_block, root_hash
from nbkv.kernels.index import has_gap, mix_tag
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    BLOCK_DTYPE,
    BLOCK_KEY_DTYPE,
    CALLER_KEYED,
    DETACHED,
    FREE,
    HAS_EXTRA,
    INDEX_WAYS,
    INDEXED,
    NO_BLOCK,
)
from nbkv.violations import (
    BLOCKS,
    CHAIN_HASH,
    FOUND_OTHER,
    KEYS,
    MUST_BE,
    NOT_FOUND,
    OCCUPANTS,
    PREFIX_INDEX,
    RANGE,
    field_of,
)

_KEYED = INDEXED | CALLER_KEYED
_AHEAD = 16
# Buckets that are searched for a second block under the same key. Equal tags are next to each
# other unless a caller gives one hash to very many blocks: no audit takes forever over those.
_SEARCHED = 32

_FLAGS = field_of(BLOCK_DTYPE, "flags")
_HASH_LOW = field_of(BLOCK_KEY_DTYPE, "hash_low")
_HASH_HIGH = field_of(BLOCK_KEY_DTYPE, "hash_high")
_EXTRA_KEY = field_of(BLOCK_KEY_DTYPE, "extra_key")
_NUM_KEYED = field_of(BLOCK_KEY_DTYPE, "num_keyed_tokens")


@outlined_kernel
def audit_keys(state: State, found: Records) -> int:
    """Audit the keys of all used blocks, and that exactly the INDEXED ones can be found.

    Parameters
    ----------
    state : State
        The links are audited.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    keys, index = state.keys, state.prefix_index
    mask = state.header["prefix_index_mask"][0]
    num_fresh = state.header["num_fresh_blocks"][0]
    occupants = np.int64(count_occupants(index, num_fresh, PREFIX_INDEX, found))
    if occupants < 0:
        return -occupants
    num_indexed = np.int64(0)
    for i in range(num_fresh):
        block_id = np.int64(i)
        if i + _AHEAD < num_fresh:
            prefetch(index, (mix_tag(keys["hash_low"][i + _AHEAD]) & mask) * INDEX_WAYS)
        code = np.int64(_audit_key(state, block_id, found))
        if code == 0 and state.blocks["flags"][block_id] & INDEXED != 0:
            num_indexed += 1
            code = np.int64(_audit_place(state, block_id, found))
        if code != 0:
            return code
    if occupants != num_indexed:
        return note(found, OCCUPANTS, PREFIX_INDEX, NIL, NIL, occupants, num_indexed, NIL)
    return np.int64(0)


@kernel
def _audit_key(state: State, block_id: int, found: Records) -> int:
    """Audit what a block says of its key."""
    keys = state.keys
    flags = np.int64(state.blocks["flags"][block_id])
    covered = np.int64(keys["num_keyed_tokens"][block_id])
    if flags & INDEXED == 0:
        if covered != 0:
            return note(found, MUST_BE, KEYS, block_id, _NUM_KEYED, covered, NIL, NIL)
        if flags & (CALLER_KEYED | HAS_EXTRA) != 0:
            wanted = flags & (255 - CALLER_KEYED - HAS_EXTRA)
            return note(found, MUST_BE, BLOCKS, block_id, _FLAGS, flags, wanted, NIL)
        return np.int64(0)
    block_size = state.header["block_size"][0]
    least = 1 if flags & CALLER_KEYED != 0 else block_size
    if covered < least or covered > block_size:
        return note(found, RANGE, KEYS, block_id, _NUM_KEYED, covered, least, block_size)
    has_extra = keys["extra_key"][block_id] != np.uint64(0)
    if has_extra != (flags & HAS_EXTRA != 0):
        return note(found, MUST_BE, BLOCKS, block_id, _FLAGS, flags, flags ^ HAS_EXTRA, NIL)
    if flags & CALLER_KEYED != 0:
        if has_extra:
            return note(found, MUST_BE, KEYS, block_id, _EXTRA_KEY, 1, NIL, NIL)
        if keys["hash_high"][block_id] != np.uint64(0):
            return note(found, MUST_BE, KEYS, block_id, _HASH_HIGH, 1, NIL, NIL)
        return np.int64(0)
    if not hashes_again(state, block_id, flags):
        return note(found, CHAIN_HASH, KEYS, block_id, _HASH_LOW, NIL, NIL, NIL)
    return np.int64(0)


@kernel
def hashes_again(state: State, block_id: int, flags: int) -> bool:
    """Tell whether a block's tokens and parent hash to its chain hash, if that can be told."""
    keys = state.keys
    seed = state.header["hash_seed"][0]
    parent = np.int64(state.blocks["parent"][block_id])
    extra = keys["extra_key"][block_id]
    if parent == NO_BLOCK:
        if flags & (DETACHED | HAS_EXTRA) != 0:
            # What came before is gone, or a salt that no block records.
            return True
        low, high = root_hash(seed, np.uint64(0), np.uint64(0))
    else:
        if state.blocks["flags"][parent] & INDEXED == 0:
            return True
        low, high = keys["hash_low"][parent], keys["hash_high"][parent]
    block_size = state.header["block_size"][0]
    place = np.int64(block_id) * block_size
    low, high = hash_block(seed, low, high, state.tokens, place, block_size, extra)
    return low == keys["hash_low"][block_id] and high == keys["hash_high"][block_id]


@kernel
def _audit_place(state: State, block_id: int, found: Records) -> int:
    """Audit that a search finds an INDEXED block, and no other block under its key."""
    index = state.prefix_index
    mask = state.header["prefix_index_mask"][0]
    tag = mix_tag(state.keys["hash_low"][block_id])
    bucket = tag & mask
    for probe in range(mask + 1):
        slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, block_id + 1))
        if probe < _SEARCHED:
            other = np.int64(_find_double(state, bucket * INDEX_WAYS, tag, block_id))
            if other != NO_BLOCK:
                return note(found, FOUND_OTHER, KEYS, block_id, _HASH_LOW, other, NIL, NIL)
        if slot >= 0 and np.int64(index["tag"][slot]) == tag:
            return np.int64(0)
        if slot >= 0 or has_gap(index, bucket):
            break
        bucket = (bucket + 1) & mask
    return note(found, NOT_FOUND, KEYS, block_id, _HASH_LOW, NIL, NIL, NIL)


@kernel
def _find_double(state: State, start: int, tag: int, block_id: int) -> int:
    """Find another block of a bucket that a walk would match as well, or NO_BLOCK."""
    index = state.prefix_index
    for slot in range(start, start + INDEX_WAYS):
        if np.int64(index["tag"][slot]) == tag:
            other = np.int64(index["occupant"][slot]) - 1
            if other >= 0 and other != block_id and _has_same_key(state, block_id, other):
                return other
    return np.int64(NO_BLOCK)


@outlined_kernel
def _has_same_key(state: State, block_id: int, other: int) -> bool:
    blocks, keys = state.blocks, state.keys
    flags, others = np.int64(blocks["flags"][block_id]), np.int64(blocks["flags"][other])
    if (flags | others) & DETACHED != 0 or (flags ^ others) & _KEYED != 0:
        return False
    if blocks["state"][other] == FREE or blocks["parent"][block_id] != blocks["parent"][other]:
        return False
    if keys["hash_high"][block_id] != keys["hash_high"][other]:
        return False
    if keys["num_keyed_tokens"][block_id] != keys["num_keyed_tokens"][other]:
        return False
    return keys["hash_low"][block_id] == keys["hash_low"][other]
