"""Leases: blocks kept from reuse while their bytes are in transit, whoever lets them go."""

import numpy as np

from nbkv._jit import entry, kernel
from nbkv.kernels.fence import must_fence
from nbkv.kernels.free_list import release_free
from nbkv.kernels.rows import row_of
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.tails import close_tail
from nbkv.kernels.victim import insert_cached
from nbkv.layout import HELD, INDEXED, NAMED, NO_BLOCK, NO_ROW
from nbkv.statuses import PINNED_TOO_OFTEN, TOO_MANY_LEASED, TOO_MANY_LEASES, UNKNOWN_LEASE

_LINKED = INDEXED | NAMED
_LEASE_BITS = 32
_LEASE_MASK = 0xFFFFFFFF
_PINS_MAX = 2**15 - 1
_GENERATION_MAX = 2**31 - 1


@entry("int64(uint8[::1], int64)")
def pin_blocks(arena: Arena, handle: int) -> int:
    """Pin the blocks of a sequence that have committed tokens.

    Parameters
    ----------
    arena : uint8, C-contiguous
    handle : int64

    Returns
    -------
    int
        The lease: generation << 32 | its record; or a status, and nothing has changed.
    """
    state = open_state(arena)
    header = state.header
    row = np.int64(row_of(state, handle))
    if row < 0:
        return row
    block_size = header["block_size"][0]
    base = row * header["table_stride"][0]
    first = base + np.int64(state.sequences["first_block"][row])
    end = base + (np.int64(state.sequences["num_committed"][row]) + block_size - 1) // block_size
    if header["num_leases"][0] >= header["max_leases"][0]:
        return TOO_MANY_LEASES
    if end - first > header["max_leased_blocks"][0] - header["num_leased_blocks"][0]:
        return TOO_MANY_LEASED
    for entry_at in range(first, end):
        if state.blocks["pin_count"][state.tables[entry_at]] >= _PINS_MAX:
            return PINNED_TOO_OFTEN
    begin_report(state)
    lease = np.int64(_take_lease(state))
    leases = state.leases
    leases["seq_id"][lease] = state.sequences["seq_id"][row]
    leases["num_blocks"][lease] = max(end - first, 0)
    leases["first_leased"][lease] = 0
    # Chained from the end, so that the chain reads head first.
    for entry_at in range(end - 1, first - 1, -1):
        block_id = np.int64(state.tables[entry_at])
        writer = np.int64(state.blocks["writer"][block_id])
        if writer != NO_ROW:
            # Its writer must look at the pin before it writes again.
            close_tail(state, writer)
        state.blocks["pin_count"][block_id] += 1
        leased = np.int64(_take_leased(state))
        state.leased["block"][leased] = block_id
        state.leased["next_leased"][leased] = leases["first_leased"][lease]
        leases["first_leased"][lease] = leased + 1
    return (np.int64(leases["generation"][lease]) << _LEASE_BITS) | lease


@kernel
def _take_lease(state: State) -> int:
    header = state.header
    header["num_leases"][0] += 1
    lease = header["free_lease"][0] - 1
    if lease >= 0:
        header["free_lease"][0] = state.leases["next_lease"][lease]
    else:
        lease = header["num_fresh_leases"][0]
        header["num_fresh_leases"][0] = lease + 1
        state.leases["generation"][lease] = 1
    state.leases["state"][lease] = 1
    return lease


@kernel
def _take_leased(state: State) -> int:
    header = state.header
    header["num_leased_blocks"][0] += 1
    leased = header["free_leased"][0] - 1
    if leased >= 0:
        header["free_leased"][0] = state.leased["next_leased"][leased]
        return leased
    leased = header["num_fresh_leased"][0]
    header["num_fresh_leased"][0] = leased + 1
    return leased


@entry("int64(uint8[::1], int64)")
def unpin_blocks(arena: Arena, lease_id: int) -> int:
    """End a lease; blocks that nobody else holds are let go.

    Parameters
    ----------
    arena : uint8, C-contiguous
    lease_id : int64
        Any value: nothing about it is trusted.

    Returns
    -------
    int
        0, or ``UNKNOWN_LEASE``; nothing has changed then.
    """
    state = open_state(arena)
    header = state.header
    lease = np.int64(_find_lease(state, lease_id))
    if lease < 0:
        return UNKNOWN_LEASE
    leases = state.leases
    begin_report(state)
    count = np.int64(0)
    leased = np.int64(leases["first_leased"][lease]) - 1
    while leased >= 0:
        after = np.int64(state.leased["next_leased"][leased]) - 1
        state.scratch[count] = state.leased["block"][leased]
        state.blocks["pin_count"][state.scratch[count]] -= 1
        state.leased["next_leased"][leased] = header["free_leased"][0]
        header["free_leased"][0] = leased + 1
        header["num_leased_blocks"][0] -= 1
        count += 1
        leased = after
    generation = leases["generation"][lease]
    leases["generation"][lease] = 1 if generation == _GENERATION_MAX else generation + 1
    leases["state"][lease] = 0
    leases["next_lease"][lease] = header["free_lease"][0]
    header["free_lease"][0] = lease + 1
    header["num_leases"][0] -= 1
    _let_go(state, count)
    return 0


@kernel
def _find_lease(state: State, lease_id: int) -> int:
    """Find the record of a lease that lasts, or -1."""
    lease = np.int64(lease_id) & _LEASE_MASK
    if lease >= state.header["num_fresh_leases"][0] or state.leases["state"][lease] == 0:
        return np.int64(-1)
    if state.leases["generation"][lease] != np.int64(lease_id) >> _LEASE_BITS:
        return np.int64(-1)
    return lease


@entry("int64(uint8[::1], int64, int32[::1])")
def list_leased(arena: Arena, lease_id: int, out: Records) -> int:
    """Write the blocks of a lease, head first.

    Parameters
    ----------
    arena : uint8, C-contiguous
    lease_id : int64
    out : int32, shape (max_blocks_per_sequence,)

    Returns
    -------
    int
        Blocks written, or ``UNKNOWN_LEASE``.
    """
    state = open_state(arena)
    lease = np.int64(_find_lease(state, lease_id))
    if lease < 0:
        return UNKNOWN_LEASE
    count = np.int64(0)
    leased = np.int64(state.leases["first_leased"][lease]) - 1
    while leased >= 0:
        out[count] = state.leased["block"][leased]
        count += 1
        leased = np.int64(state.leased["next_leased"][leased]) - 1
    return count


@kernel
def _let_go(state: State, count: int) -> None:
    """Release the blocks in scratch that nobody holds: FREE ones head first, CACHED tail first."""
    blocks = state.blocks
    fenced = must_fence(state)
    for i in range(count):
        block_id = np.int64(state.scratch[i])
        if blocks["ref_count"][block_id] + blocks["pin_count"][block_id] != 0:
            state.scratch[i] = NO_BLOCK
        elif blocks["flags"][block_id] & _LINKED == 0:
            state.header["num_held_blocks"][0] -= 1
            release_free(state, block_id, fenced)
            state.scratch[i] = NO_BLOCK
    for i in range(count - 1, -1, -1):
        block_id = np.int64(state.scratch[i])
        if block_id != NO_BLOCK and blocks["state"][block_id] == HELD:
            state.header["num_held_blocks"][0] -= 1
            insert_cached(state, block_id)
