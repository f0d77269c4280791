"""What a sequence's keys depend on beside tokens: its salt, and extra keys by position."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.hashing import finish_extra, fold_extra, salt_extra
from nbkv.kernels.state import Records, State


@kernel
def num_extra_room(state: State) -> int:
    """Count the extra keys that can still be added."""
    return state.header["max_extra_keys"][0] - state.header["num_extra_keys"][0]


@kernel
def _take_extra(state: State) -> int:
    header = state.header
    header["num_extra_keys"][0] += 1
    extra = header["free_extra"][0] - 1
    if extra >= 0:
        header["free_extra"][0] = state.extras["next_extra"][extra]
        return extra
    extra = header["num_fresh_extras"][0]
    header["num_fresh_extras"][0] = extra + 1
    return extra


@kernel
def _append_extra(state: State, row: int, before: int, start: int, end: int, digest: int) -> int:
    """Add one extra key to a sequence behind the record `before` (-1 for the first)."""
    extra = np.int64(_take_extra(state))
    extras = state.extras
    extras["start"][extra] = start
    extras["end"][extra] = end
    extras["digest"][extra] = np.uint64(digest)
    extras["next_extra"][extra] = 0
    if before < 0:
        state.sequence_keys["first_extra"][row] = extra + 1
    else:
        extras["next_extra"][before] = extra + 1
    return extra


@outlined_kernel
def add_extras(state: State, row: int, starts: Records, ends: Records, digests: Records) -> None:
    """Give an empty sequence its extra keys.

    Parameters
    ----------
    state : State
        Has room for them.
    row : int
    starts, ends : int32
        Token positions, ordered.
    digests : uint64
    """
    before = np.int64(-1)
    for i in range(starts.size):
        before = np.int64(_append_extra(state, row, before, starts[i], ends[i], digests[i]))


@outlined_kernel
def drop_extras(state: State, row: int) -> None:
    """Take a sequence's extra keys from it."""
    extra = np.int64(state.sequence_keys["first_extra"][row]) - 1
    state.sequence_keys["first_extra"][row] = 0
    while extra >= 0:
        after = np.int64(state.extras["next_extra"][extra]) - 1
        state.extras["next_extra"][extra] = state.header["free_extra"][0]
        state.header["free_extra"][0] = extra + 1
        state.header["num_extra_keys"][0] -= 1
        extra = after


@kernel
def count_extras(state: State, row: int) -> int:
    """Count a sequence's extra keys."""
    count = 0
    extra = np.int64(state.sequence_keys["first_extra"][row]) - 1
    while extra >= 0:
        count += 1
        extra = np.int64(state.extras["next_extra"][extra]) - 1
    return count


@kernel
def extras_reach(state: State, row: int, num_tokens: int) -> bool:
    """Tell whether a sequence has an extra key at or beyond a number of tokens."""
    reach = np.int64(0)
    extra = np.int64(state.sequence_keys["first_extra"][row]) - 1
    while extra >= 0:
        reach = np.int64(state.extras["end"][extra])
        extra = np.int64(state.extras["next_extra"][extra]) - 1
    return reach > num_tokens


@outlined_kernel
def copy_identity(state: State, source: int, row: int) -> None:
    """Give a sequence another one's salt and extra keys.

    Parameters
    ----------
    state : State
        Has room for the extra keys.
    source, row : int
        Rows; the second has no extra keys yet.
    """
    keys = state.sequence_keys
    keys["salt_low"][row] = keys["salt_low"][source]
    keys["salt_high"][row] = keys["salt_high"][source]
    extras = state.extras
    before = np.int64(-1)
    extra = np.int64(keys["first_extra"][source]) - 1
    while extra >= 0:
        start, end = np.int64(extras["start"][extra]), np.int64(extras["end"][extra])
        digest = extras["digest"][extra]
        before = np.int64(_append_extra(state, row, before, start, end, digest))
        extra = np.int64(extras["next_extra"][extra]) - 1


@kernel
def extra_at(state: State, row: int, column: int) -> int:
    """Make the extra key of one of a sequence's blocks.

    Parameters
    ----------
    state : State
    row : int
    column : int

    Returns
    -------
    uint64
        0 for none; the first block's carries the salt.
    """
    block_size = state.header["block_size"][0]
    keys = state.sequence_keys
    acc = np.uint64(0)
    count = 0
    extra = np.int64(keys["first_extra"][row]) - 1
    start = column * block_size
    while extra >= 0:
        extras = state.extras
        if extras["start"][extra] < start + block_size and extras["end"][extra] > start:
            acc = fold_extra(
                acc,
                extras["start"][extra],
                extras["end"][extra],
                extras["digest"][extra],
                start,
                block_size,
            )
            count += 1
        extra = np.int64(extras["next_extra"][extra]) - 1
    key = finish_extra(acc, count)
    if column == 0:
        return salt_extra(keys["salt_low"][row], keys["salt_high"][row], key)
    return key


@kernel
def same_identity(state: State, row: int, other: int) -> bool:
    """Tell whether two sequences have the same salt and extra keys."""
    keys = state.sequence_keys
    if keys["salt_low"][row] != keys["salt_low"][other]:
        return False
    if keys["salt_high"][row] != keys["salt_high"][other]:
        return False
    extras = state.extras
    first = np.int64(keys["first_extra"][row]) - 1
    second = np.int64(keys["first_extra"][other]) - 1
    while first >= 0 and second >= 0:
        if extras["digest"][first] != extras["digest"][second]:
            return False
        if extras["start"][first] != extras["start"][second]:
            return False
        if extras["end"][first] != extras["end"][second]:
            return False
        first = np.int64(extras["next_extra"][first]) - 1
        second = np.int64(extras["next_extra"][second]) - 1
    return first < 0 and second < 0
