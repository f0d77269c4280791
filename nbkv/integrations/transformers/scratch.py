"""Memory for what is read from a pool, taken again when nobody looks at it any more."""

import math
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.pools.foreign import row_major
from nbkv.pools.views import view_at

#: As torch aligns its own memory: kernels may sum in another order elsewhere.
_ALIGNMENT: Final = 64


class Scratch:
    """Lends out one piece of memory.

    New memory is paged in as it is written, which takes longer than reading the pool does. So
    a piece is lent again once everything that views it is gone, as a layer's keys and values
    are when the next layer comes; as long as anything does view it, it is left alone.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._num_own = self._num_references()

    def _num_references(self) -> int:
        return sys.getrefcount(self._memory)

    def lend(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> npt.NDArray[Any]:
        """Return an array with nothing particular in it.

        Parameters
        ----------
        shape : tuple of int
        dtype : numpy.dtype

        Returns
        -------
        numpy.ndarray
            Contiguous and aligned. Views of it count, torch's too (``torch.from_numpy``).
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        is_lent = self._num_references() > self._num_own
        if is_lent or num_bytes > self._memory.size - _ALIGNMENT:
            # A quarter more: the next step needs a token more in each row.
            self._memory = np.empty(num_bytes + num_bytes // 4 + _ALIGNMENT, np.uint8)
        address = self._memory.ctypes.data
        address += -address % _ALIGNMENT
        return view_at(address, shape, row_major(shape, dtype.itemsize), dtype, self._memory)
