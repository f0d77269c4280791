"""Audit of leases and extra keys: records in lists, each in exactly one."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_notes import NIL, PINS, note
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    EXTRA_DTYPE,
    HEADER_DTYPE,
    LEASE_DTYPE,
    ROW_ACTIVE,
    SEQUENCE_KEY_DTYPE,
)
from nbkv.violations import (
    COUNTED,
    EXTRA_KEYS,
    EXTRA_ORDER,
    EXTRAS,
    FREE_EXTRAS,
    FREE_LEASED,
    FREE_LEASES,
    HEADER,
    LEASED,
    LEASED_BLOCKS,
    LEASES,
    LIST_LENGTH,
    LIST_MEMBER,
    LIST_RANGE,
    MUST_BE,
    RANGE,
    SEQUENCE_KEYS,
    SHARED_RECORD,
    field_of,
)

_INT32_MAX = 2**31 - 1

_STATE = field_of(LEASE_DTYPE, "state")
_LEASE_GENERATION = field_of(LEASE_DTYPE, "generation")
_LEASE_BLOCKS = field_of(LEASE_DTYPE, "num_blocks")
_LEASE_RESERVED = field_of(LEASE_DTYPE, "reserved")
_EXTRA_RESERVED = field_of(EXTRA_DTYPE, "reserved")
_EXTRA_START = field_of(EXTRA_DTYPE, "start")
_KEYS_RESERVED = field_of(SEQUENCE_KEY_DTYPE, "reserved")
_NUM_LEASES = field_of(HEADER_DTYPE, "num_leases")
_NUM_LEASED = field_of(HEADER_DTYPE, "num_leased_blocks")
_NUM_EXTRAS = field_of(HEADER_DTYPE, "num_extra_keys")


@outlined_kernel
def audit_leases(state: State, work: Records, marks: Records, found: Records) -> int:
    """Audit the leases, and count the pins of each block.

    Parameters
    ----------
    state : State
    work : int32, shape (WORK_ROWS, num_blocks)
        Takes PINS.
    marks : uint8
        Zero; takes which leased records are in a list.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    header, leases = state.header, state.leases
    lasting, leased = np.int64(0), np.int64(0)
    for i in range(header["num_fresh_leases"][0]):
        lease = np.int64(i)
        code = np.int64(_audit_lease(state, lease, found))
        if code == 0 and leases["state"][lease] != 0:
            lasting += 1
            leased += np.int64(leases["num_blocks"][lease])
            code = np.int64(_audit_leased(state, work, marks, lease, found))
        if code != 0:
            return code
    if lasting != header["num_leases"][0]:
        claimed = header["num_leases"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_LEASES, claimed, lasting, NIL)
    if leased != header["num_leased_blocks"][0]:
        claimed = header["num_leased_blocks"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_LEASED, claimed, leased, NIL)
    code = np.int64(_audit_free_leases(state, found))
    if code == 0:
        code = np.int64(_audit_free_leased(state, marks, found))
    return code


@kernel
def _audit_lease(state: State, lease: int, found: Records) -> int:
    leases = state.leases
    kind = np.int64(leases["state"][lease])
    if kind < 0 or kind > 1:
        return note(found, RANGE, LEASES, lease, _STATE, kind, NIL, 1)
    generation = np.int64(leases["generation"][lease])
    if generation < 1:
        return note(found, RANGE, LEASES, lease, _LEASE_GENERATION, generation, 1, _INT32_MAX)
    reserved = np.int64(leases["reserved"][lease])
    if reserved != 0:
        return note(found, MUST_BE, LEASES, lease, _LEASE_RESERVED, reserved, NIL, NIL)
    num_blocks = np.int64(leases["num_blocks"][lease])
    most = state.header["max_blocks_per_sequence"][0]
    if kind == 1 and (num_blocks < 0 or num_blocks > most):
        return note(found, RANGE, LEASES, lease, _LEASE_BLOCKS, num_blocks, NIL, most)
    return np.int64(0)


@kernel
def _audit_leased(state: State, work: Records, marks: Records, lease: int, found: Records) -> int:
    """Follow a lease's blocks, and count a pin of each."""
    num_fresh = state.header["num_fresh_leased"][0]
    num_blocks = state.header["num_fresh_blocks"][0]
    count = np.int64(state.leases["num_blocks"][lease])
    at = np.int64(state.leases["first_leased"][lease]) - 1
    for _ in range(count):
        if at < 0 or at >= num_fresh:
            return note(found, LIST_RANGE, LEASED, NIL, LEASED_BLOCKS, at, num_fresh - 1, NIL)
        if marks[at] != 0:
            return note(found, SHARED_RECORD, LEASED, at, NIL, NIL, NIL, NIL)
        marks[at] = 1
        block_id = np.int64(state.leased["block"][at])
        if block_id < 0 or block_id >= num_blocks:
            return note(found, RANGE, LEASED, at, NIL, block_id, NIL, num_blocks - 1)
        work[PINS, block_id] += 1
        at = np.int64(state.leased["next_leased"][at]) - 1
    if at != -1:
        return note(found, LIST_LENGTH, LEASED, NIL, LEASED_BLOCKS, count, NIL, NIL)
    return np.int64(0)


@kernel
def _audit_free_leases(state: State, found: Records) -> int:
    num_fresh = state.header["num_fresh_leases"][0]
    count = num_fresh - state.header["num_leases"][0]
    lease = state.header["free_lease"][0] - 1
    for _ in range(count):
        if lease < 0 or lease >= num_fresh:
            return note(found, LIST_RANGE, LEASES, NIL, FREE_LEASES, lease, num_fresh - 1, NIL)
        if state.leases["state"][lease] != 0:
            return note(found, LIST_MEMBER, LEASES, NIL, FREE_LEASES, lease, NIL, NIL)
        lease = np.int64(state.leases["next_lease"][lease]) - 1
    if lease != -1:
        return note(found, LIST_LENGTH, LEASES, NIL, FREE_LEASES, count, NIL, NIL)
    return np.int64(0)


@kernel
def _audit_free_leased(state: State, marks: Records, found: Records) -> int:
    num_fresh = state.header["num_fresh_leased"][0]
    count = num_fresh - state.header["num_leased_blocks"][0]
    at = state.header["free_leased"][0] - 1
    for _ in range(count):
        if at < 0 or at >= num_fresh:
            return note(found, LIST_RANGE, LEASED, NIL, FREE_LEASED, at, num_fresh - 1, NIL)
        if marks[at] != 0:
            return note(found, SHARED_RECORD, LEASED, at, NIL, NIL, NIL, NIL)
        marks[at] = 1
        at = np.int64(state.leased["next_leased"][at]) - 1
    if at != -1:
        return note(found, LIST_LENGTH, LEASED, NIL, FREE_LEASED, count, NIL, NIL)
    return np.int64(0)


@outlined_kernel
def audit_extras(state: State, marks: Records, found: Records) -> int:
    """Audit the extra keys of all sequences.

    Parameters
    ----------
    state : State
        The rows are audited.
    marks : uint8
        Zero; takes which extra keys are in a list.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    header, keys = state.header, state.sequence_keys
    reserved = state.extras["reserved"]
    for extra in range(header["num_fresh_extras"][0]):
        for j in range(reserved.shape[1]):
            if reserved[extra, j] != 0:
                value = np.int64(reserved[extra, j])
                return note(found, MUST_BE, EXTRAS, extra, _EXTRA_RESERVED, value, NIL, NIL)
    total = np.int64(0)
    for i in range(header["num_fresh_rows"][0]):
        row = np.int64(i)
        for j in range(keys["reserved"].shape[1]):
            value = np.int64(keys["reserved"][row, j])
            if value != 0:
                return note(found, MUST_BE, SEQUENCE_KEYS, row, _KEYS_RESERVED, value, NIL, NIL)
        if state.sequences["state"][row] == ROW_ACTIVE:
            count = np.int64(_audit_list(state, marks, np.int64(keys["first_extra"][row]), found))
            if count < 0:
                return -count
            total += count
    if total != header["num_extra_keys"][0]:
        claimed = header["num_extra_keys"][0]
        return note(found, COUNTED, HEADER, NIL, _NUM_EXTRAS, claimed, total, NIL)
    return np.int64(_audit_free_extras(state, marks, found))


@kernel
def _audit_list(state: State, marks: Records, first: int, found: Records) -> int:
    """Follow a sequence's extra keys: how many, or minus a code."""
    extras = state.extras
    num_fresh = state.header["num_fresh_extras"][0]
    count, reach = np.int64(0), np.int64(0)
    at = first - 1
    while at != -1:
        if at < 0 or at >= num_fresh:
            return -note(found, LIST_RANGE, EXTRAS, NIL, EXTRA_KEYS, at, num_fresh - 1, NIL)
        if marks[at] != 0:
            return -note(found, SHARED_RECORD, EXTRAS, at, NIL, NIL, NIL, NIL)
        marks[at] = 1
        start, end = np.int64(extras["start"][at]), np.int64(extras["end"][at])
        if start < reach or end <= start:
            return -note(found, EXTRA_ORDER, EXTRAS, at, _EXTRA_START, start, end, NIL)
        reach = end
        count += 1
        at = np.int64(extras["next_extra"][at]) - 1
    return count


@kernel
def _audit_free_extras(state: State, marks: Records, found: Records) -> int:
    num_fresh = state.header["num_fresh_extras"][0]
    count = num_fresh - state.header["num_extra_keys"][0]
    at = state.header["free_extra"][0] - 1
    for _ in range(count):
        if at < 0 or at >= num_fresh:
            return note(found, LIST_RANGE, EXTRAS, NIL, FREE_EXTRAS, at, num_fresh - 1, NIL)
        if marks[at] != 0:
            return note(found, SHARED_RECORD, EXTRAS, at, NIL, NIL, NIL, NIL)
        marks[at] = 1
        at = np.int64(state.extras["next_extra"][at]) - 1
    if at != -1:
        return note(found, LIST_LENGTH, EXTRAS, NIL, FREE_EXTRAS, count, NIL, NIL)
    return np.int64(0)
