"""A pool's blocks in a file: the same bytes whatever the pool's layout.

``nbkvpool``, the length of what follows as 8 bytes, JSON; one byte a slot, 1 where it is
written; fp8's scales; then the blocks as a block-major NHD pool has them.
"""

import json
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from nbkv._arguments import refuse
from nbkv.config import CacheConfig
from nbkv.errors import ArgumentError
from nbkv.pools.geometry import SHAPE_FIELDS

File = str | os.PathLike[str] | BinaryIO
#: A `nbkv.pools.host.HostPool`, which is above this module.
Pool = Any

_MAGIC: Final = b"nbkvpool"
_VERSION: Final = 1
_LENGTH_BYTES: Final = 8
_MAX_HEADER: Final = 2**16
#: Bytes that pass through memory at a time.
_BATCH_BYTES: Final = 32 * 2**20


def save_pool(pool: Pool, file: File) -> None:
    """Write all blocks of a pool.

    Parameters
    ----------
    pool : HostPool
    file : path, or binary file

    Raises
    ------
    OSError
    """
    header = json.dumps(_describe(pool)).encode()
    staging, memory = _make_staging(pool)
    with _open(file, "wb") as stream:
        stream.write(_MAGIC + len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        stream.write(pool._slot_marks.tobytes())
        if pool.config.dtype == "fp8":
            stream.write(pool.scales.tobytes())
        for start, count in _batches(pool, staging):
            _copy(pool, start, staging, 0, count)
            stream.write(memory[: count * pool.config.bytes_per_block].data)


def load_pool(pool: Pool, file: File) -> None:
    """Read what `save_pool` wrote; nothing changes unless all of it is there.

    Parameters
    ----------
    pool : HostPool
    file : path, or binary file that can seek

    Raises
    ------
    OSError
    ArgumentError
    """
    staging, memory = _make_staging(pool)
    with _open(file, "rb") as stream:
        _check_header(pool, stream)
        marks = np.frombuffer(stream.read(pool._slot_marks.size), np.uint8)
        if pool.config.dtype == "fp8":
            scales = np.frombuffer(stream.read(pool.scales.nbytes), np.float32)
            pool.set_scales(scales.reshape(pool.scales.shape))
            staging.set_scales(pool.scales)
        for start, count in _batches(pool, staging):
            stream.readinto(memory[: count * pool.config.bytes_per_block].data)
            _copy(staging, 0, pool, start, count)
        pool._slot_marks[:] = marks


def _open(file: File, mode: str) -> AbstractContextManager[Any]:
    if isinstance(file, (str, os.PathLike)):
        return open(file, mode)
    return nullcontext(file)


def _describe(pool: Pool) -> dict[str, Any]:
    fields = {name: getattr(pool.geometry, name) for name in SHAPE_FIELDS}
    return {"version": _VERSION, "num_blocks": pool.config.num_blocks, **fields}


def _check_header(pool: Pool, stream: Any) -> None:  # noqa: ANN401
    """Check that a file is a pool's, of the same description, and as long as it must be."""
    start = stream.tell()
    size = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    length = 0
    if stream.read(len(_MAGIC)) == _MAGIC:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    if not 0 < length <= _MAX_HEADER:
        raise ArgumentError("file is no pool's; it must be what HostPool.save wrote")
    try:
        found = json.loads(stream.read(length))
    except ValueError:
        raise ArgumentError("file has a header that cannot be read; it must be JSON") from None
    for name, expected in _describe(pool).items():
        if found.get(name) != expected:
            refuse(f"file's {name}", found.get(name), f"that of this pool, {expected}")
    scales = pool.scales.nbytes if pool.config.dtype == "fp8" else 0
    wanted = len(_MAGIC) + _LENGTH_BYTES + length + pool._slot_marks.size + scales + pool.nbytes
    if size < wanted:
        refuse("file", f"{size} bytes long", f"{wanted} bytes long")


def _make_staging(pool: Pool) -> tuple[Pool, npt.NDArray[np.uint8]]:
    """Make a pool in the file's layout, for a few blocks at a time, and its memory."""
    g, per_block = pool.geometry, pool.config.bytes_per_block
    count = max(1, min(g.num_blocks, _BATCH_BYTES // per_block))
    config = CacheConfig(num_blocks=count, **{name: getattr(g, name) for name in SHAPE_FIELDS})
    staging = type(pool)(config)
    if g.dtype == "fp8":
        staging.set_scales(pool.scales)
    return staging, staging._owner


def _batches(pool: Pool, staging: Pool) -> list[tuple[int, int]]:
    total, most = pool.config.num_blocks, staging.config.num_blocks
    return [(start, min(most, total - start)) for start in range(0, total, most)]


def _copy(source: Pool, first: int, destination: Pool, to: int, count: int) -> None:
    ids, targets = np.arange(first, first + count), np.arange(to, to + count)
    source.swap_out(ids, destination, targets)
