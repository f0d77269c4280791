"""Step buffers and the plan in them: what one scheduler step is to do, as arrays."""

from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from nbkv._inspection import ArenaOwner
from nbkv._step_bytes import ALIGNMENT, check_bytes, pad, section_bytes, total_bytes
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.kernels.buffers import SECTION_DTYPES
from nbkv.statuses import BUFFERS_TOO_SMALL, OK, OUT_OF_BLOCKS, TOO_MANY_BLOCKS
from nbkv.step_layout import (
    CHANGE_FIELDS,
    PLANNED,
    STEP_COPY_FIELDS,
    STEP_HEADER_BYTES,
    STEP_HEADER_DTYPE,
    STEP_MAGIC,
    STEP_VERSION,
)

_STATUS_NAMES: Final = {
    OK: "ok",
    OUT_OF_BLOCKS: "out_of_blocks",
    TOO_MANY_BLOCKS: "too_long",
    BUFFERS_TOO_SMALL: "no_room",
}


class StepBuffers:
    """Memory for one step: made once, filled by `PagedKVCache.plan` again and again.

    One contiguous array, never grown: a call whose results do not fit is refused. With
    ``run_ahead`` there are as many as plans are in flight.

    Parameters
    ----------
    data : uint8 array, C-contiguous, 8-byte aligned
        Step buffers' bytes, made by `for_cache` here or in another process. Read-only ones
        can be looked at, not planned into.

    Attributes
    ----------
    data : uint8 array
        All of it: copying these bytes hands the plan to another process.
    is_writable : bool
        Whether a step may be made in it.
    plan : StepPlan
        What is in it.

    Raises
    ------
    ArgumentError
        The bytes are not step buffers of this version.
    """

    __slots__ = ("data", "is_writable", "plan")

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        check_bytes(data)
        self.data = data
        self.is_writable = bool(data.flags.writeable)
        self.plan = StepPlan(self)

    @classmethod
    def for_cache(
        cls,
        cache: ArenaOwner,
        max_tokens: int | None = None,
        memory: npt.NDArray[np.uint8] | None = None,
    ) -> Self:
        """Make buffers for steps of a cache.

        Parameters
        ----------
        cache : PagedKVCache
        max_tokens : int
            New tokens of one step at most, all sequences together; when omitted 8,192, or two
            for each of max_sequences if that is more.
        memory : uint8 array, optional
            Where to put them, page-locked memory say: C-contiguous, writable, 64-byte
            aligned, at least `num_bytes` long.

        Returns
        -------
        StepBuffers

        Raises
        ------
        ArgumentError
            max_tokens is out of range, or `memory` will not do.
        """
        sizes = section_bytes(_config_of(cache), max_tokens)
        total = total_bytes(sizes)
        if memory is None:
            raw = np.zeros(total + ALIGNMENT, np.uint8)
            shift = -raw.ctypes.data % ALIGNMENT
            memory = raw[shift : shift + total]
        elif not isinstance(memory, np.ndarray):
            raise TypeError(f"memory is a {type(memory).__name__}; it must be a numpy array")
        elif (
            memory.dtype != np.uint8
            or memory.ndim != 1
            or not memory.flags.carray
            or memory.ctypes.data % ALIGNMENT
            or memory.size < total
        ):
            raise ArgumentError(
                f"memory is {memory.dtype} of shape {memory.shape}; it must be uint8,"
                f" contiguous, writable, 64-byte aligned and at least {total} long"
            )
        header = memory[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)
        header[0] = np.zeros((), STEP_HEADER_DTYPE)
        header["magic"] = STEP_MAGIC
        header["version"] = STEP_VERSION
        header["buffer_bytes"] = total
        start = STEP_HEADER_BYTES
        for name, size in sizes.items():
            header[f"{name}_start"] = start
            header[f"{name}_end"] = start + size
            start += pad(size)
        return cls(memory)

    @staticmethod
    def num_bytes(cache: ArenaOwner, max_tokens: int | None = None) -> int:
        """Return the bytes that `for_cache` needs as ``memory``."""
        return total_bytes(section_bytes(_config_of(cache), max_tokens))


def _config_of(cache: object) -> CacheConfig:
    if not isinstance(cache, ArenaOwner):
        raise TypeError(f"cache is {cache!r}; it must be a nbkv.PagedKVCache")
    return cache.config


class StepPlan:
    """What a step is to do: views over its buffers, valid until they are filled again.

    A device executes the plans in order, each so: copy evicted blocks out (if they are wanted
    elsewhere), carry out `copies`, then write keys and values to `slot_mapping`.

    Parameters
    ----------
    buffers : StepBuffers
    """

    __slots__ = ("_header", "_sections", "buffers")

    def __init__(self, buffers: StepBuffers) -> None:
        self.buffers = buffers
        self._header = buffers.data[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)
        self._sections: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in SECTION_DTYPES.items():
            start, end = (int(self._header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
            self._sections[name] = buffers.data[start:end].view(dtype)

    def _count(self, name: str) -> int:
        return int(self._header[name][0])

    def _rows(self, name: str, count: int, fields: int) -> npt.NDArray[np.int32]:
        return self._sections[name][: count * fields].reshape(count, fields)

    def __repr__(self) -> str:
        return (
            f"<StepPlan {self.step_id}: {self.num_entries} entries, {self.num_tokens} tokens,"
            f" status {self.status}>"
        )

    @property
    def step_id(self) -> int:
        """Which step this is: 1, 2, 3 ... of its cache."""
        return self._count("step_id")

    @property
    def is_outstanding(self) -> bool:
        """Whether it is planned and not committed."""
        return self._count("phase") == PLANNED

    @property
    def status(self) -> str:
        """``"ok"``, or why `step` planned nothing.

        ``"out_of_blocks"``; ``"too_long"``: a table would be; ``"no_room"``: in the buffers.
        """
        status = self._count("status")
        return _STATUS_NAMES.get(status, f"status {status}")

    @property
    def num_missing(self) -> int:
        """Blocks that a plan with status ``"out_of_blocks"`` needed."""
        return self._count("detail")

    @property
    def num_entries(self) -> int:
        """Sequences planned."""
        return self._count("num_entries")

    @property
    def num_tokens(self) -> int:
        """New tokens of all of them."""
        return self._count("num_slots")

    @property
    def entries(self) -> npt.NDArray[Any]:
        """What is planned for each: ENTRY_DTYPE (row, generation, start, count)."""
        return self._sections["entries"][: self.num_entries]

    @property
    def slot_mapping(self) -> npt.NDArray[np.int64]:
        """Where each new token goes: int64 slots, entry after entry."""
        return self._sections["slots"][: self.num_tokens]

    @property
    def seq_lens(self) -> npt.NDArray[np.int32]:
        """Tokens of each entry's sequence, the new ones included: int32."""
        return self._sections["seq_lens"][: self.num_entries]

    @property
    def table_changes(self) -> npt.NDArray[np.int32]:
        """Entries of block tables that are new, in order: int32, shape (n, 4).

        Layer group, sequence row (a handle's lower 32 bits), column, block_id (NO_BLOCK for a
        hole). First what commits changed, then what the plan did.
        """
        return self._rows("changes", self._count("num_changes"), CHANGE_FIELDS)

    @property
    def copies(self) -> npt.NDArray[np.int32]:
        """Blocks to copy: int32, shape (n, 4): layer group, source, destination, tokens."""
        return self._rows("copies", self._count("num_copies"), STEP_COPY_FIELDS)

    @property
    def evicted(self) -> npt.NDArray[Any]:
        """Cached blocks given up, with their keys, in order: EVICTED_DTYPE."""
        return self._sections["evicted"][: self._count("num_evicted")]

    @property
    def survivors(self) -> npt.NDArray[np.int32]:
        """Which positions of the batch are planned, in order: int32."""
        return self._sections["survivors"][: self._count("num_survivors")]

    @property
    def preempted(self) -> npt.NDArray[Any]:
        """Sequences that were ended to make room, in order: PREEMPTED_DTYPE."""
        return self._sections["preempted"][: self._count("num_preempted")]

    @property
    def deferred(self) -> npt.NDArray[np.int32]:
        """Which positions of the batch wait for blocks behind the fence: int32."""
        return self._sections["deferred"][: self._count("num_deferred")]

    @property
    def skipped(self) -> npt.NDArray[np.int32]:
        """Which entries of the committed plan counted for nothing: int32.

        Their sequences have ended or were cut below them since the plan.
        """
        return self._sections["skipped"][: self._count("num_skipped")]
