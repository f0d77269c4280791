"""How many bytes step buffers take, and whether given bytes are step buffers."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.kernels.buffers import SECTION_DTYPES
from nbkv.step_layout import (
    CHANGE_FIELDS,
    STEP_COPY_FIELDS,
    STEP_HEADER_BYTES,
    STEP_HEADER_DTYPE,
    STEP_MAGIC,
    STEP_VERSION,
)

ALIGNMENT: Final = 64
#: What numpy gives any array; records need no more.
_LEAST_ALIGNMENT: Final = 8
_DEFAULT_TOKENS: Final = 8192
_INT32_MAX: Final = 2**31 - 1


def pad(size: int) -> int:
    """Round a section's bytes up to where the next one may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def section_bytes(config: CacheConfig, max_tokens: object) -> dict[str, int]:
    """Compute each section's bytes: the most that a plan, and commits before it, may write.

    Parameters
    ----------
    config : CacheConfig
    max_tokens : int, optional
        New tokens of one step at most; None chooses.

    Returns
    -------
    dict of str to int

    Raises
    ------
    ArgumentError
        max_tokens is not an integer, or out of range.
    """
    if max_tokens is None:
        max_tokens = max(_DEFAULT_TOKENS, 2 * config.max_sequences)
    is_count = isinstance(max_tokens, (int, np.integer)) and not isinstance(max_tokens, bool)
    if not is_count or not 1 <= max_tokens <= _INT32_MAX:  # type: ignore[operator]
        raise ArgumentError(
            f"max_tokens is {max_tokens!r}; it must be an integer, 1 to {_INT32_MAX}"
        )
    tokens, rows = int(max_tokens), config.max_sequences  # type: ignore[call-overload]
    # Each entry opens, copies or completes at most two blocks beside those it fills.
    changes = 2 * (tokens // config.block_size + 2 * rows)
    if config.window is not None:
        changes += config.table_width
    lengths = {
        "slots": tokens,
        "changes": CHANGE_FIELDS * changes,
        "copies": STEP_COPY_FIELDS * rows,
        "evicted": changes,
    }
    return {
        name: dtype.itemsize * lengths.get(name, rows) for name, dtype in SECTION_DTYPES.items()
    }


def total_bytes(sizes: dict[str, int]) -> int:
    """Add sections up, the header included."""
    return STEP_HEADER_BYTES + sum(pad(size) for size in sizes.values())


def check_bytes(data: npt.NDArray[Any]) -> None:
    """Check that an array holds step buffers of this version, all of them.

    Parameters
    ----------
    data : uint8 array

    Raises
    ------
    ArgumentError
        It does not, or is not an array that can.
    """
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise ArgumentError(f"data is {data!r:.60}; it must be a uint8 array, one-dimensional")
    is_aligned = data.ctypes.data % _LEAST_ALIGNMENT == 0
    if data.size < STEP_HEADER_BYTES or not data.flags.c_contiguous or not is_aligned:
        raise ArgumentError(
            f"data has {data.size} bytes; it must be contiguous, {_LEAST_ALIGNMENT}-byte aligned"
            f" and at least {STEP_HEADER_BYTES}, what a header takes"
        )
    header = data[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)
    magic, version = int(header["magic"][0]), int(header["version"][0])
    if magic != STEP_MAGIC or version != STEP_VERSION:
        raise ArgumentError(
            f"data begins with {magic:#x}, version {version}; it must be step buffers,"
            f" {STEP_MAGIC:#x}, version {STEP_VERSION}"
        )
    size = int(header["buffer_bytes"][0])
    if data.size < size:
        raise ArgumentError(f"data has {data.size} bytes; its header says {size}")
    for name, dtype in SECTION_DTYPES.items():
        start, end = (int(header[f"{name}_{edge}"][0]) for edge in ("start", "end"))
        inside = STEP_HEADER_BYTES <= start <= end <= size and start % _LEAST_ALIGNMENT == 0
        if not inside or (end - start) % dtype.itemsize:
            raise ArgumentError(
                f"data has its section {name} at {start} to {end}; it must be whole records,"
                f" {STEP_HEADER_BYTES} to {size}"
            )
