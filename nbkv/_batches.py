"""The part of the facade that deals with many sequences in one call."""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from nbkv._admission import Admission
from nbkv._arguments import check_counts, check_out, check_vector
from nbkv.kernels import batch
from nbkv.statuses import NEGATIVE_COUNT, OUT_TOO_SMALL


class BatchCalls(Admission):
    """One call for a whole scheduler step."""

    def append_tokens(
        self,
        sequences: npt.NDArray[Any],
        counts: npt.NDArray[np.int32] | int,
        out: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Append tokens to a batch of live sequences in one call, all or nothing.

        Parameters
        ----------
        sequences : int64 or uint64 array, shape (n,)
            int64 are handles (`handle`), uint64 are seq_ids.
        counts : int32 array of shape (n,), or int
            New tokens of each, or one number for all.
        out : int64 array, optional
            Takes the slots; at least sum(counts) long.

        Returns
        -------
        int64 array
            Slots (``block_id * block_size + offset``), sequence after sequence; a view of
            `out` when given.

        Raises
        ------
        UnknownSequenceError, DuplicateSequenceError, OutOfBlocksError, CapacityError
        ArgumentError
            A dtype, length or count is wrong.

        Examples
        --------
        >>> import numpy as np
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> handles = np.array([cache.add_sequence(7), cache.add_sequence(8)])
        >>> cache.append_tokens(handles, 3)
        array([0, 1, 2, 4, 5, 6])
        """
        by_handle = isinstance(sequences, np.ndarray) and sequences.dtype == np.int64
        kind = np.int64 if by_handle else np.uint64
        rows = check_vector("sequences", sequences, kind)
        numbers = check_counts("counts", counts, rows.size)
        if out is None:
            total = int(numbers.sum()) * (rows.size if numbers.size == 1 else 1)
            out = np.empty(self._bounded(total, rows.size), np.int64)
        else:
            check_out("out", out, np.int64)
        call = batch.append_by_handle if by_handle else batch.append_by_id
        written = call(self._arena, rows, numbers, out)
        if written < 0:
            self._fail_batch(written, rows, numbers, out.size)
        return out[:written]

    def _fail_batch(
        self, status: int, rows: npt.NDArray[Any], counts: npt.NDArray[np.int32], room: int
    ) -> NoReturn:
        """Blame what refused a batch: a position in it, or its output."""
        at = int(self._runtime["detail"][0])
        if status == OUT_TOO_SMALL:
            self._fail(status, "out", room)
        if status == NEGATIVE_COUNT:
            self._fail(status, f"counts[{at}]", counts[at if counts.size > 1 else 0])
        self._fail(status, f"sequences[{at}]", rows[at] if at < rows.size else "a batch")

    def _bounded(self, total: int, size: int) -> int:
        """Bound an output by what can succeed: the kernel refuses the rest, not the allocator."""
        longest = self.config.table_width * self.config.block_size
        return max(0, min(total, size * longest))
