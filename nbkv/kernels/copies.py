"""How much of an arena is in use, and its tables without what is not."""

import numpy as np

from nbkv._demand import on_demand
from nbkv.kernels.state import Records


@on_demand("int64(int64[::1])")
def count_used(words: Records) -> int:
    """Count the words up to the last one that is not zero.

    Parameters
    ----------
    words : int64
        A section.

    Returns
    -------
    int
    """
    for i in range(words.size - 1, -1, -1):
        if words[i] != 0:
            return np.int64(i + 1)
    return np.int64(0)


@on_demand("int64(int32[:, ::1], int32[::1])")
def measure_tables(tables: Records, columns: Records) -> int:
    """Note how many columns of each table are in use: up to the last entry that is not zero.

    Parameters
    ----------
    tables : int32, shape (rows, stride)
    columns : int32, shape (rows,)

    Returns
    -------
    int
        Entries in use, of all rows together.
    """
    total = np.int64(0)
    for row in range(columns.size):
        used = np.int64(tables.shape[1])
        while used > 0 and tables[row, used - 1] == 0:
            used -= 1
        columns[row] = used
        total += used
    return total


@on_demand("int64(int32[:, ::1], int32[::1], int32[::1], boolean)")
def pack_tables(tables: Records, columns: Records, packed: Records, unpack: bool) -> int:
    """Copy the used columns of all tables one after another, or back.

    Parameters
    ----------
    tables : int32, shape (rows, stride)
    columns : int32, shape (rows,)
        0 to stride each.
    packed : int32, shape (sum(columns),)
    unpack : bool
        Copy from `packed` into the tables.

    Returns
    -------
    int
        0.
    """
    at = np.int64(0)
    for row in range(columns.size):
        for column in range(columns[row]):
            if unpack:
                tables[row, column] = packed[at]
            else:
                packed[at] = tables[row, column]
            at += 1
    return np.int64(0)
