"""What the parts of an audit share: the note of a violation, and the names of scratch rows."""

import numpy as np

from nbkv._jit import outlined_kernel
from nbkv.kernels.state import Records

# Rows of an audit's scratch, each int32 of shape (num_blocks,).
REFS = 0  # table entries and external holds
PINS = 1  # leases
COLUMNS = 2  # 1 + the column of the tables that it stands in
KIDS = 3  # linked blocks whose parent it is
DEPTHS = 4  # blocks from the root, itself included
WORK_ROWS = 5

#: Nothing, in a note. No plain 0: numba makes machine code for every literal anew.
NIL = np.int64(0)


@outlined_kernel
def note(
    found: Records, code: int, kind: int, row: int, field: int, value: int, wanted: int, other: int
) -> int:
    """Write down a violation.

    Parameters
    ----------
    found : int64, shape (6,)
    code, kind, row, field, value, wanted, other : int
        See `nbkv.violations`.

    Returns
    -------
    int
        The code.
    """
    found[0] = kind
    found[1] = row
    found[2] = field
    found[3] = value
    found[4] = wanted
    found[5] = other
    return np.int64(code)
