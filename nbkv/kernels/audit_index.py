"""Audit of the hash indexes: every occupant is findable from its home, nothing else is there."""

import numpy as np

from nbkv._buckets import find_occupant
from nbkv._jit import outlined_kernel
from nbkv.kernels.audit_notes import NIL, note
from nbkv.kernels.index import has_gap
from nbkv.kernels.state import Records
from nbkv.layout import INDEX_DTYPE, INDEX_WAYS
from nbkv.violations import SLOT_OCCUPANT, SLOT_STALE, field_of

_TAG = field_of(INDEX_DTYPE, "tag")
_OCCUPANT = field_of(INDEX_DTYPE, "occupant")


@outlined_kernel
def count_occupants(index: Records, limit: int, kind: int, found: Records) -> int:
    """Count the occupied slots of an index, and see that no slot says nonsense.

    Parameters
    ----------
    index : INDEX_DTYPE
    limit : int
        Occupants are below it.
    kind : int
        The index, of `nbkv.violations`.
    found : int64, shape (6,)

    Returns
    -------
    int
        At least 0, or minus a code of `nbkv.violations`.
    """
    count = np.int64(0)
    for slot in range(index.size):
        occupant = np.int64(index["occupant"][slot])
        if occupant == 0:
            if index["tag"][slot] != 0:
                tag = np.int64(index["tag"][slot])
                return -note(found, SLOT_STALE, kind, slot, _TAG, tag, NIL, NIL)
        elif occupant < 0 or occupant > limit:
            return -note(found, SLOT_OCCUPANT, kind, slot, _OCCUPANT, occupant, limit, NIL)
        else:
            count += 1
    return count


@outlined_kernel
def find_occupied(index: Records, mask: int, tag: int, occupant: int) -> int:
    """Find the slot of an occupant as a search for its key would.

    Parameters
    ----------
    index : INDEX_DTYPE
    mask : int
        Buckets - 1.
    tag, occupant : int

    Returns
    -------
    int
        A slot, or -1 where a search would not come to one that has this tag.
    """
    bucket = np.int64(tag) & mask
    for _ in range(mask + 1):
        slot = np.int64(find_occupant(index, bucket * INDEX_WAYS, occupant + 1))
        if slot >= 0:
            return slot if np.int64(index["tag"][slot]) == tag else np.int64(-1)
        if has_gap(index, bucket):
            return np.int64(-1)
        bucket = (bucket + 1) & mask
    return np.int64(-1)
