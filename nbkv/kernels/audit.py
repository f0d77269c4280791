"""The audit: every equation, link, index entry and table of an arena in one pass.

Nothing of the arena is taken on trust but its header, which the caller has compared with the
configuration: a number is tested before it is a subscript, and every list is followed for as
many steps as it may have.
"""

import numpy as np

from nbkv._demand import on_demand
from nbkv._intrinsics import borrow
from nbkv._jit import kernel
from nbkv.kernels.audit_blocks import audit_blocks, audit_holds
from nbkv.kernels.audit_keys import audit_keys
from nbkv.kernels.audit_leases import audit_extras, audit_leases
from nbkv.kernels.audit_links import audit_links
from nbkv.kernels.audit_lists import audit_fence, audit_free_list
from nbkv.kernels.audit_names import audit_names
from nbkv.kernels.audit_ranks import audit_ranks
from nbkv.kernels.audit_rows import audit_rows
from nbkv.kernels.state import Arena, Records, open_state


@on_demand("int64(uint8[::1], int32[:, ::1], uint8[::1], int64[::1])")
def audit_arena(arena: Arena, work: Records, marks: Records, found: Records) -> int:
    """Find the first violation of an arena.

    Parameters
    ----------
    arena : uint8, C-contiguous
        Read only. Its header is that of its configuration, and its counts are in range.
    work : int32, shape (WORK_ROWS, num_blocks)
        Zero.
    marks : uint8
        As long as the longest of the sections names, leased and extras has records.
    found : int64, shape (6,)
        Takes what a violation is about.

    Returns
    -------
    int
        A code of `nbkv.violations`: 0 where all is well.
    """
    state = open_state(arena)
    work, marks, found = borrow(work), borrow(marks), borrow(found)
    code = np.int64(audit_rows(state, work, found))
    if code == 0:
        _clear(marks)
        code = np.int64(audit_extras(state, marks, found))
    if code == 0:
        _clear(marks)
        code = np.int64(audit_leases(state, work, marks, found))
    if code == 0:
        code = np.int64(audit_holds(state, work, found))
    if code == 0:
        code = np.int64(audit_blocks(state, work, found))
    if code == 0:
        code = np.int64(audit_links(state, work, found))
    if code == 0:
        code = np.int64(audit_keys(state, found))
    if code == 0:
        _clear(marks)
        code = np.int64(audit_names(state, work, marks, found))
    if code == 0:
        code = np.int64(audit_free_list(state, found))
    if code == 0:
        code = np.int64(audit_fence(state, found))
    if code == 0:
        code = np.int64(audit_ranks(state, found))
    return code


@kernel
def _clear(marks: Records) -> None:
    for i in range(marks.size):
        marks[i] = 0
