"""The recency ring of the lru policy: cached blocks in the order of their release.

A block that is held again leaves a dead entry behind; entries between head and tail are
therefore at most partly alive. When three quarters of the ring are in use, an incremental
sweep closes the gaps, a few entries at each insertion, so no call ever pays for all of it:

    head <= write <= read <= tail <= head + capacity        (logical positions)
    [head, write) swept    [write, read) a hole    [read, tail) not yet swept

With capacity >= 2 * num_blocks and 8 steps an insertion, a sweep that begins at 3/4 of
the capacity ends before the ring is full.
"""

import numpy as np

from nbkv._intrinsics import prefetch
from nbkv._jit import kernel
from nbkv.kernels.index import mix_tag
from nbkv.kernels.state import State
from nbkv.layout import INDEX_WAYS, NO_BLOCK

_SWEEP_STEPS = 8
# Distances in evictions: far enough to hide a miss to memory, near enough to stay cached.
_FAR = 16
_NEAR = 8


@kernel
def _sweep(state: State) -> None:
    header = state.header
    ring = state.ring
    mask = header["ring_mask"][0]
    read = header["ring_read"][0]
    write = header["ring_write"][0]
    tail = header["ring_tail"][0]
    for _ in range(_SWEEP_STEPS):
        if read == tail:
            header["ring_tail"][0] = write
            header["ring_sweeping"][0] = 0
            return
        entry = ring[read & mask]
        read += 1
        if entry != NO_BLOCK:
            ring[write & mask] = entry
            state.blocks["link"][entry] = write & mask
            write += 1
    header["ring_read"][0] = read
    header["ring_write"][0] = write


@kernel
def ring_insert(state: State, block_id: int) -> None:
    """Append a block just released.

    Parameters
    ----------
    state : State
    block_id : int
    """
    header = state.header
    mask = header["ring_mask"][0]
    tail = header["ring_tail"][0]
    state.ring[tail & mask] = block_id
    state.blocks["link"][block_id] = tail & mask
    header["ring_tail"][0] = tail + 1
    if header["ring_sweeping"][0] != 0:
        _sweep(state)
    elif tail + 1 - header["ring_head"][0] > (mask + 1) // 4 * 3:
        header["ring_sweeping"][0] = 1
        header["ring_read"][0] = header["ring_head"][0]
        header["ring_write"][0] = header["ring_head"][0]


@kernel
def _trim(state: State) -> None:
    """Move the head to the first living entry, over the hole of a sweep."""
    header = state.header
    mask = header["ring_mask"][0]
    head = header["ring_head"][0]
    while head < header["ring_tail"][0]:
        if header["ring_sweeping"][0] != 0 and head == header["ring_write"][0]:
            head = header["ring_read"][0]
            header["ring_write"][0] = head
            if head == header["ring_tail"][0]:
                break
        if state.ring[head & mask] != NO_BLOCK:
            break
        head += 1
        # The hole begins where the swept part ends: both ends move with an empty one.
        if header["ring_sweeping"][0] != 0 and head > header["ring_write"][0]:
            header["ring_write"][0] = head
            header["ring_read"][0] = max(head, header["ring_read"][0])
    header["ring_head"][0] = head


@kernel
def ring_remove(state: State, block_id: int) -> None:
    """Take out a block that is held again, evicted or forgotten.

    Parameters
    ----------
    state : State
    block_id : int
        In the ring.
    """
    slot = state.blocks["link"][block_id]
    state.ring[slot] = NO_BLOCK
    state.blocks["link"][block_id] = NO_BLOCK
    header = state.header
    if slot == header["ring_head"][0] & header["ring_mask"][0]:
        _trim(state)


@kernel
def ring_pop(state: State) -> int:
    """Take out the block released longest ago; at least one is in the ring.

    Returns
    -------
    int
        Its block_id.
    """
    header = state.header
    head = header["ring_head"][0]
    # Unsigned, a subscript is known not to count from the end.
    slot = np.uint64(head & header["ring_mask"][0])
    block_id = np.int64(state.ring[slot])
    if header["ring_sweeping"][0] == 0:
        header["ring_head"][0] = head + 1
        if head + 1 == header["ring_tail"][0]:
            return block_id
        if state.ring[np.uint64((head + 1) & header["ring_mask"][0])] != NO_BLOCK:
            return block_id
    else:
        state.ring[slot] = NO_BLOCK
    _trim(state)
    return block_id


@kernel
def prefetch_victims(state: State) -> None:
    """Fetch what the evictions some turns ahead will touch; only a hint."""
    header = state.header
    mask = header["ring_mask"][0]
    head = header["ring_head"][0]
    # Beyond the tail stands what nobody vouches for: to fetch its records does no harm, to
    # load them would.
    far = state.ring[np.uint64((head + _FAR) & mask)]
    prefetch(state.blocks, far)
    prefetch(state.keys, far)
    near = state.ring[np.uint64((head + _NEAR) & mask)]
    place = np.uint64(np.int64(near))
    if place < np.uint64(header["num_blocks"][0]):
        prefetch(state.blocks, state.blocks["parent"][place])
        tag = mix_tag(state.keys["hash_low"][place])
        prefetch(state.prefix_index, (tag & header["prefix_index_mask"][0]) * INDEX_WAYS)
