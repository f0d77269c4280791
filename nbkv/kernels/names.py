"""Named prefixes: a caller's hash for the leading full blocks of a sequence.

A name holds no reference; it keeps its blocks CACHED instead of FREE and dies whole when
its leaf is evicted.
"""

import numpy as np

from nbkv._jit import kernel, outlined_kernel
from nbkv.kernels.free_list import push_free
from nbkv.kernels.index import insert_slot, mix_tag, remove_slot
from nbkv.kernels.prefix import link_child, unlink_child
from nbkv.kernels.state import Records, State
from nbkv.kernels.victim import remove_cached
from nbkv.layout import CACHED, FENCED, FREE, INDEXED, NAMED, NO_BLOCK

_LINKED = INDEXED | NAMED
_NOT_NAMED = 255 - NAMED


@kernel
def add_name(state: State, name_hash: int, block_ids: Records) -> None:
    """Enter a name over blocks that the caller has checked.

    Parameters
    ----------
    state : State
        Has room for one name more.
    name_hash : uint64
    block_ids : int32
        Leading full blocks of one sequence.
    """
    blocks = state.blocks
    parent = np.int64(NO_BLOCK)
    for i in range(block_ids.size):
        block_id = np.int64(block_ids[i])
        if blocks["flags"][block_id] & _LINKED == 0:
            link_child(state, block_id, parent)
        blocks["flags"][block_id] |= np.uint8(NAMED)
        state.keys["named_count"][block_id] += 1
        parent = block_id
    name = _take_name(state)
    names = state.names
    names["hash"][name] = np.uint64(name_hash)
    names["leaf"][name] = parent
    names["num_blocks"][name] = block_ids.size
    names["next_name"][name] = state.keys["first_name"][parent]
    state.keys["first_name"][parent] = name + 1
    mask = state.header["name_index_mask"][0]
    insert_slot(state.name_index, mask, mix_tag(np.uint64(name_hash)), name)


@kernel
def _take_name(state: State) -> int:
    header = state.header
    header["num_names"][0] += 1
    name = header["free_name"][0] - 1
    if name >= 0:
        header["free_name"][0] = state.names["next_name"][name]
        return name
    name = header["num_fresh_names"][0]
    header["num_fresh_names"][0] = name + 1
    return name


@outlined_kernel
def drop_name(state: State, name: int, victim: int) -> None:
    """Forget a name; blocks nothing else keeps go to the free list head first.

    Parameters
    ----------
    state : State
    name : int
    victim : int
        The leaf when it is being evicted (its caller frees it), else NO_BLOCK.
    """
    names = state.names
    blocks = state.blocks
    block_id = np.int64(names["leaf"][name])
    _forget_name(state, name)
    # Walked leaf first, freed head first: the blocks to free are chained in reverse.
    chain = np.int64(NO_BLOCK)
    for _ in range(names["num_blocks"][name]):
        parent = np.int64(blocks["parent"][block_id])
        state.keys["named_count"][block_id] -= 1
        if state.keys["named_count"][block_id] == 0:
            blocks["flags"][block_id] &= np.uint8(_NOT_NAMED)
            if blocks["flags"][block_id] & INDEXED == 0:
                loose = blocks["state"][block_id] == CACHED and block_id != victim
                if loose and blocks["flags"][block_id] & FENCED != 0:
                    free_fenced(state, block_id)
                    loose = False
                elif loose:
                    remove_cached(state, block_id)
                    blocks["state"][block_id] = FREE
                unlink_child(state, block_id)
                if loose:
                    blocks["link"][block_id] = chain
                    chain = block_id
        block_id = parent
    while chain != NO_BLOCK:
        after = np.int64(blocks["link"][chain])
        push_free(state, chain)
        chain = after


@outlined_kernel
def drop_names_over(state: State, block_id: int) -> None:
    """Forget the names that cover a block; looks through all names, so it is for rare cases.

    Parameters
    ----------
    state : State
    block_id : int
    """
    index = state.name_index
    while state.keys["named_count"][block_id] > 0:
        # The smallest hash first: where names lie in the index must not show.
        first = np.int64(-1)
        for slot in range(index.size):
            name = np.int64(index["occupant"][slot]) - 1
            if name >= 0 and _is_over(state, name, block_id):
                if first < 0 or state.names["hash"][name] < state.names["hash"][first]:
                    first = name
        drop_name(state, first, NO_BLOCK)


@kernel
def _is_over(state: State, name: int, block_id: int) -> bool:
    """Tell whether a name covers a block."""
    covered = np.int64(state.names["leaf"][name])
    while covered != NO_BLOCK and covered != block_id:
        covered = np.int64(state.blocks["parent"][covered])
    return covered == block_id


@kernel
def free_fenced(state: State, block_id: int) -> None:
    """Make a fenced CACHED block FREE where it waits.

    Parameters
    ----------
    state : State
    block_id : int
    """
    header = state.header
    header["num_cached_blocks"][0] -= 1
    header["num_free_blocks"][0] += 1
    header["num_fenced_free"][0] += 1
    state.blocks["state"][block_id] = FREE


@kernel
def _forget_name(state: State, name: int) -> None:
    """Take a name out of its leaf's chain and the index, and keep its record for reuse."""
    names = state.names
    leaf = names["leaf"][name]
    before = np.int64(state.keys["first_name"][leaf]) - 1
    if before == name:
        state.keys["first_name"][leaf] = names["next_name"][name]
    else:
        while names["next_name"][before] != name + 1:
            before = np.int64(names["next_name"][before]) - 1
        names["next_name"][before] = names["next_name"][name]
    tag = mix_tag(names["hash"][name])
    remove_slot(state.name_index, state.header["name_index_mask"][0], tag, name)
    names["next_name"][name] = state.header["free_name"][0]
    state.header["free_name"][0] = name + 1
    state.header["num_names"][0] -= 1


@kernel
def copy_name(state: State, name: int, out: Records) -> int:
    """Write a name's block ids, head first.

    Parameters
    ----------
    state : State
    name : int
    out : int32
        At least as long as the name.

    Returns
    -------
    int
        Blocks written.
    """
    count = np.int64(state.names["num_blocks"][name])
    block_id = np.int64(state.names["leaf"][name])
    for i in range(count - 1, -1, -1):
        out[i] = block_id
        block_id = np.int64(state.blocks["parent"][block_id])
    return count
