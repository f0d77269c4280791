"""Audit of named prefixes: their records, the blocks they cover, and the index of names."""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.audit_index import count_occupants, find_occupied
from nbkv.kernels.audit_notes import COLUMNS, DEPTHS, KIDS, NIL, note
from nbkv.kernels.index import find_name, mix_tag
from nbkv.kernels.state import Records, State
from nbkv.layout import (
    BLOCK_DTYPE,
    BLOCK_KEY_DTYPE,
    FREE,
    HEADER_DTYPE,
    NAME_DTYPE,
    NAMED,
    NO_BLOCK,
)
from nbkv.violations import (
    BLOCKS,
    COUNTED,
    FOUND_OTHER,
    FREE_NAMES,
    HEADER,
    KEYS,
    LEAF_NAMES,
    LIST_LENGTH,
    LIST_MEMBER,
    LIST_RANGE,
    MUST_BE,
    NAME_CHAIN,
    NAME_INDEX,
    NAME_LENGTH,
    NAMES,
    NAMES_OVER,
    NOT_FOUND,
    OCCUPANTS,
    field_of,
)

_IDLE = 1
_LIVING = 2

_FLAGS = field_of(BLOCK_DTYPE, "flags")
_NAMED_COUNT = field_of(BLOCK_KEY_DTYPE, "named_count")
_FIRST_NAME = field_of(BLOCK_KEY_DTYPE, "first_name")
_HASH = field_of(NAME_DTYPE, "hash")
_LEAF = field_of(NAME_DTYPE, "leaf")
_NUM_BLOCKS = field_of(NAME_DTYPE, "num_blocks")
_RESERVED = field_of(NAME_DTYPE, "reserved")
_NUM_NAMES = field_of(HEADER_DTYPE, "num_names")


@outlined_kernel
def audit_names(state: State, work: Records, marks: Records, found: Records) -> int:
    """Audit the names and what blocks say of them.

    Parameters
    ----------
    state : State
        The links are audited.
    work : int32, shape (WORK_ROWS, num_blocks)
        DEPTHS; takes KIDS, the names that end in a block or below, and COLUMNS, the named
        children left to be counted.
    marks : uint8
        Zero; takes which names are idle and which live.
    found : int64, shape (6,)

    Returns
    -------
    int
        A code of `nbkv.violations`.
    """
    num_blocks = state.header["num_fresh_blocks"][0]
    for i in range(num_blocks):
        work[KIDS, i] = 0
        work[COLUMNS, i] = 0
    code = np.int64(_audit_reserved(state, found))
    if code == 0:
        code = np.int64(_mark_idle(state, marks, found))
    if code == 0:
        code = np.int64(_audit_leaves(state, work, marks, found))
    if code == 0:
        code = np.int64(_audit_cover(state, work, found))
    if code == 0:
        code = np.int64(_audit_name_index(state, marks, found))
    return code


@kernel
def _audit_reserved(state: State, found: Records) -> int:
    """Audit that what no name uses yet is zero, in idle records too: they come into use so."""
    reserved = state.names["reserved"]
    for name in range(state.header["num_fresh_names"][0]):
        for i in range(reserved.shape[1]):
            if reserved[name, i] != 0:
                value = np.int64(reserved[name, i])
                return note(found, MUST_BE, NAMES, name, _RESERVED, value, NIL, NIL)
    return np.int64(0)


@kernel
def _mark_idle(state: State, marks: Records, found: Records) -> int:
    """Follow the list of free names, which has every record that is not a name."""
    header = state.header
    num_fresh = header["num_fresh_names"][0]
    count = num_fresh - header["num_names"][0]
    name = header["free_name"][0] - 1
    for _ in range(count):
        if name < 0 or name >= num_fresh:
            return note(found, LIST_RANGE, NAMES, NIL, FREE_NAMES, name, num_fresh - 1, NIL)
        if marks[name] != 0:
            return note(found, LIST_MEMBER, NAMES, NIL, FREE_NAMES, name, NIL, NIL)
        marks[name] = _IDLE
        name = np.int64(state.names["next_name"][name]) - 1
    if name != -1:
        return note(found, LIST_LENGTH, NAMES, NIL, FREE_NAMES, count, NIL, NIL)
    return np.int64(0)


@kernel
def _audit_leaves(state: State, work: Records, marks: Records, found: Records) -> int:
    """Follow the names of every block that is the leaf of some."""
    header, keys = state.header, state.keys
    living = np.int64(0)
    for i in range(header["num_fresh_blocks"][0]):
        block_id = np.int64(i)
        first = np.int64(keys["first_name"][block_id])
        if state.blocks["state"][block_id] == FREE:
            if first != 0:
                return note(found, MUST_BE, KEYS, block_id, _FIRST_NAME, first, NIL, NIL)
            continue
        name = first - 1
        while name != -1:
            code = np.int64(_audit_name(state, work, marks, block_id, name, found))
            if code != 0:
                return code
            marks[name] = _LIVING
            work[KIDS, block_id] += 1
            living += 1
            name = np.int64(state.names["next_name"][name]) - 1
    if living != header["num_names"][0]:
        return note(found, COUNTED, HEADER, NIL, _NUM_NAMES, header["num_names"][0], living, NIL)
    return np.int64(0)


@kernel
def _audit_name(
    state: State, work: Records, marks: Records, block_id: int, name: int, found: Records
) -> int:
    """Audit one name of a leaf: a record that no list has had yet."""
    names = state.names
    num_fresh = state.header["num_fresh_names"][0]
    if name < 0 or name >= num_fresh:
        return note(found, LIST_RANGE, NAMES, NIL, LEAF_NAMES, name, num_fresh - 1, NIL)
    if marks[name] != 0:
        return note(found, LIST_MEMBER, NAMES, NIL, LEAF_NAMES, name, NIL, NIL)
    leaf = np.int64(names["leaf"][name])
    if leaf != block_id:
        return note(found, NAME_CHAIN, NAMES, name, _LEAF, leaf, NIL, NIL)
    depth = np.int64(work[DEPTHS, block_id])
    length = np.int64(names["num_blocks"][name])
    if length != depth:
        return note(found, NAME_LENGTH, NAMES, name, _NUM_BLOCKS, length, depth, NIL)
    return np.int64(0)


@kernel
def _audit_cover(state: State, work: Records, found: Records) -> int:
    """Audit named_count: the names that end in a block or below it, summed from the leaves up."""
    blocks = state.blocks
    num_fresh = state.header["num_fresh_blocks"][0]
    for i in range(num_fresh):
        if blocks["state"][i] != FREE and blocks["flags"][i] & NAMED != 0:
            parent = np.int64(blocks["parent"][i])
            if parent != NO_BLOCK:
                work[COLUMNS, parent] += 1
    for i in range(num_fresh):
        at = np.int64(i)
        # A block whose named children are all summed is summed with the last of them.
        while at != NO_BLOCK and work[COLUMNS, at] == 0:
            work[COLUMNS, at] = -1
            named = np.int64(state.keys["named_count"][at])
            if named != work[KIDS, at]:
                covers = np.int64(work[KIDS, at])
                return note(found, NAMES_OVER, KEYS, at, _NAMED_COUNT, named, covers, NIL)
            flags = np.int64(blocks["flags"][at])
            if (flags & NAMED != 0) != (named > 0):
                return note(found, MUST_BE, BLOCKS, at, _FLAGS, flags, flags ^ NAMED, NIL)
            parent = np.int64(NO_BLOCK)
            if named > 0:
                parent = np.int64(blocks["parent"][at])
            if parent != NO_BLOCK:
                work[KIDS, parent] += named
                work[COLUMNS, parent] -= 1
            at = parent
    return np.int64(0)


@kernel
def _audit_name_index(state: State, marks: Records, found: Records) -> int:
    """Audit the index of names: it has every living one, each under a hash of its own."""
    index, mask = state.name_index, state.header["name_index_mask"][0]
    num_fresh = state.header["num_fresh_names"][0]
    occupants = np.int64(count_occupants(index, num_fresh, NAME_INDEX, found))
    if occupants < 0:
        return -occupants
    if occupants != state.header["num_names"][0]:
        wanted = state.header["num_names"][0]
        return note(found, OCCUPANTS, NAME_INDEX, NIL, NIL, occupants, wanted, NIL)
    for i in range(num_fresh):
        name = np.int64(i)
        if marks[name] == _LIVING:
            key = state.names["hash"][name]
            if find_occupied(index, mask, mix_tag(key), name) < 0:
                return note(found, NOT_FOUND, NAMES, name, _HASH, NIL, NIL, NIL)
            other = np.int64(find_name(state, key))
            if other != name:
                return note(found, FOUND_OTHER, NAMES, name, _HASH, other, NIL, NIL)
    return np.int64(0)
