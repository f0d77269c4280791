"""Admission: the longest cached prefix of a prompt, found, and held by a new sequence."""

import numpy as np

from nbkv._intrinsics import borrow
from nbkv._jit import entry, kernel, outlined_kernel
from nbkv.kernels.extras import add_extras, num_extra_room
from nbkv.kernels.fence import num_usable
from nbkv.kernels.holding import make_room
from nbkv.kernels.match import match_prompt
from nbkv.kernels.rows import handle_of, open_row
from nbkv.kernels.sequences import check_new, hold_hits
from nbkv.kernels.state import Arena, Records, State, begin_report, open_state
from nbkv.kernels.writing import append_block
from nbkv.layout import PARTIAL_HIT
from nbkv.statuses import OUT_OF_BLOCKS, TOO_MANY_BLOCKS, TOO_MANY_EXTRAS

_ROW_MASK = 0xFFFFFFFF


@entry("UniTuple(int64, 2)(uint8[::1], uint64, int32[::1], int64)")
def admit_plain(arena: Arena, seq_id: int, tokens: Records, max_hit_tokens: int) -> tuple[int, int]:
    """Open a sequence for a prompt without salt and extra keys, reserving nothing: see `admit`.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
    tokens : int32
    max_hit_tokens : int

    Returns
    -------
    tuple of int
        The handle and the tokens hit; or a status, and nothing has changed.
    """
    state = open_state(arena)
    none = np.uint64(0)
    places, digests = state.scratch[:0], state.hashes[:0]
    handle = np.int64(
        _admit(
            state,
            np.uint64(seq_id),
            borrow(tokens),
            max_hit_tokens,
            np.int64(0),
            False,
            none,
            none,
            places,
            places,
            digests,
            np.int64(-1),
            np.int64(0),
        )
    )
    if handle < 0:
        return handle, np.int64(0)
    return handle, np.int64(state.sequences["num_hit_tokens"][handle & _ROW_MASK])


@entry(
    "int64(uint8[::1], uint64, int32[::1], int64, int64, boolean, uint64, uint64, int32[::1],"
    " int32[::1], uint64[::1], int64, int64)"
)
def admit(
    arena: Arena,
    seq_id: int,
    tokens: Records,
    max_hit_tokens: int,
    reserve_tokens: int,
    must_fit: bool,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
    arrival: int,
    owner: int,
) -> int:
    """Open a sequence that holds the longest cached prefix of its prompt.

    Parameters
    ----------
    arena : uint8, C-contiguous
    seq_id : uint64
    tokens : int32
        The prompt.
    max_hit_tokens : int
        Most tokens to hit, rounded down to whole blocks.
    reserve_tokens : int
        Tokens in all for which the table is to have blocks already.
    must_fit : bool
        Refuse unless the whole prompt would fit now.
    salt_low, salt_high : uint64
    starts, ends, digests : int32, int32, uint64
        Extra keys, ordered.
    arrival : int
        Order of arrival, or -1 for the latest.
    owner : int
        The caller's tag.

    Returns
    -------
    int
        The handle, or a status; nothing has changed then.
    """
    return np.int64(
        _admit(
            open_state(arena),
            np.uint64(seq_id),
            borrow(tokens),
            max_hit_tokens,
            reserve_tokens,
            must_fit,
            np.uint64(salt_low),
            np.uint64(salt_high),
            borrow(starts),
            borrow(ends),
            borrow(digests),
            arrival,
            owner,
        )
    )


@outlined_kernel
def _admit(
    state: State,
    seq_id: int,
    tokens: Records,
    max_hit_tokens: int,
    reserve_tokens: int,
    must_fit: bool,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
    arrival: int,
    owner: int,
) -> int:
    """Do what `admit` says; arguments are borrowed."""
    header = state.header
    status = np.int64(check_new(state, seq_id))
    if status < 0:
        return status
    if starts.size > num_extra_room(state):
        return TOO_MANY_EXTRAS
    block_size = header["block_size"][0]
    hits, partial, cached = match_prompt(
        state, tokens, max_hit_tokens, salt_low, salt_high, starts, ends, digests
    )
    columns = hits + (1 if partial > 0 else 0)
    missing = max((reserve_tokens + block_size - 1) // block_size - columns, 0)
    status = np.int64(
        _check_fit(state, np.int64(tokens.size), hits, columns + missing, missing, cached, must_fit)
    )
    if status < 0:
        return status
    begin_report(state)
    row = np.int64(open_row(state, seq_id))
    num_hit_tokens = hits * block_size + partial
    hold_hits(state, row, columns, num_hit_tokens)
    sequences = state.sequences
    sequences["num_known"][row] = num_hit_tokens
    sequences["num_hit_tokens"][row] = num_hit_tokens
    if partial > 0:
        sequences["flags"][row] |= np.uint8(PARTIAL_HIT)
    _identify(state, row, salt_low, salt_high, starts, ends, digests, arrival, owner)
    if missing > 0:
        make_room(state, missing)
        for _ in range(missing):
            append_block(state, row)
    if num_hit_tokens > 0:
        header["cache_hits"][0] += 1
    elif tokens.size > 0:
        header["cache_misses"][0] += 1
    return handle_of(state, row)


@kernel
def _check_fit(
    state: State,
    num_tokens: int,
    hits: int,
    columns: int,
    missing: int,
    cached: int,
    must_fit: bool,
) -> int:
    """Tell whether a prompt, or what is reserved for it, fits: 0 or a status."""
    header = state.header
    block_size = header["block_size"][0]
    wanted = (num_tokens + block_size - 1) // block_size
    longest = max(columns, wanted) if must_fit else columns
    if header["max_blocks_per_sequence"][0] < longest <= header["num_blocks"][0]:
        return TOO_MANY_BLOCKS
    # The hits that nobody holds are about to be: they are no room for the rest.
    room = num_usable(state) - cached
    needed = missing
    short = missing > room
    if must_fit:
        needed = max(missing, wanted - hits)
        short = short or wanted - hits > room - header["watermark"][0]
    if short:
        state.runtime["detail"][0] = needed
        state.runtime["set_aside"][0] = cached + (header["watermark"][0] if must_fit else 0)
        return OUT_OF_BLOCKS
    return 0


@kernel
def _identify(
    state: State,
    row: int,
    salt_low: int,
    salt_high: int,
    starts: Records,
    ends: Records,
    digests: Records,
    arrival: int,
    owner: int,
) -> None:
    """Write down what makes a new sequence's keys its own, and whose it is."""
    keys = state.sequence_keys
    keys["salt_low"][row] = salt_low
    keys["salt_high"][row] = salt_high
    keys["owner"][row] = owner
    if starts.size > 0:
        add_extras(state, row, starts, ends, digests)
    if arrival >= 0:
        state.sequences["arrival"][row] = arrival
