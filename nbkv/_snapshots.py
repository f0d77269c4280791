"""The part of the facade that copies a whole cache: to memory, to a file, and back."""

import dataclasses
import os
import secrets
from typing import Self

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv._arguments import check_out, refuse
from nbkv._atomic_files import write_atomically
from nbkv._header_audit import find_bad_header
from nbkv._integrity import IntegrityCalls, find_violation
from nbkv.arena import new_arena
from nbkv.config import CacheConfig
from nbkv.errors import IntegrityError, SnapshotError
from nbkv.snapshot_format import (
    ALIGNMENT,
    PREAMBLE_DTYPE,
    aligned_bytes,
    checksum,
    measure,
    snapshot_bytes,
    write_snapshot,
)
from nbkv.snapshot_reading import Snapshot, clear_arena, fill_arena, read_file, read_snapshot
from nbkv.step_layout import EMPTY


class Snapshots(IntegrityCalls):
    """Snapshots keep what of the arena is in use, and the configuration.

    Keys and values are not in them: who saves a cache saves its pool beside it. Steps that
    are planned and not committed stay so, but their plans are of another cache afterwards and
    are refused; `fail` of the first of them withdraws them.
    """

    def snapshot(self, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """Copy the state.

        Parameters
        ----------
        out : uint8 array, optional
            Takes it: 64-byte aligned, at least `snapshot_size` long. Memory that has been
            written to before is several times faster than new memory.

        Returns
        -------
        uint8 array
            A view of `out` when given.

        Raises
        ------
        ArgumentError
            `out` will not do.

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> before = cache.snapshot()
        >>> cache.append_token(1)
        0
        >>> cache.restore(before)
        >>> 1 in cache
        False
        """
        extent = measure(self._arena, self.config)
        size = snapshot_bytes(extent, self.config)
        if out is None:
            out = aligned_bytes(size)
        check_out("out", out, np.uint8)
        if out.size < size or out.ctypes.data % ALIGNMENT:
            refuse("out", f"{out.size} bytes", f"64-byte aligned and at least {size} long")
        if np.may_share_memory(out, self._arena):
            refuse("out", "memory of this cache's arena", "its own")
        write_snapshot(self._arena, self.config, extent, out[:size])
        return out[:size]

    def snapshot_size(self) -> int:
        """Return the bytes that a snapshot taken now would have."""
        return snapshot_bytes(measure(self._arena, self.config), self.config)

    def restore(self, snapshot: npt.NDArray[np.uint8], check: bool = True) -> None:
        """Become what the cache was when a snapshot was taken.

        Parameters
        ----------
        snapshot : uint8 array
            Of this cache or of one with an equal configuration.
        check : bool
            Audit it before anything changes. Without, what the caller took in this process
            and kept out of reach is restored several times faster.

        Raises
        ------
        SnapshotError
            It cannot be read, or is of another configuration.
        IntegrityError
            It contradicts itself.

        Notes
        -----
        Handles given out since then are not all stale: rows and generations are those of
        then, and come again.
        """
        parts = read_snapshot(_as_bytes(snapshot), has_checksum=False)
        _check_same(parts.config, self.config)
        _check_header(parts)
        if check:
            arena = new_arena(parts.config)
            fill_arena(parts, arena)
            _audit(arena, self.config)
        clear_arena(self._arena, self.config)
        fill_arena(parts, self._arena)
        self._start_anew()

    @classmethod
    def from_snapshot(cls, snapshot: npt.NDArray[np.uint8], check: bool = True) -> Self:
        """Make a cache of a snapshot.

        Parameters
        ----------
        snapshot : uint8 array
        check : bool
            Audit it first; see `restore`.

        Returns
        -------
        PagedKVCache

        Raises
        ------
        SnapshotError
            It cannot be read.
        IntegrityError
            It contradicts itself.
        """
        return cls._from_parts(read_snapshot(_as_bytes(snapshot), has_checksum=False), check)

    def clone(self) -> Self:
        """Make another cache in the same state, to try out what would happen.

        Returns
        -------
        PagedKVCache
        """
        return type(self).from_snapshot(self.snapshot(), check=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a snapshot with a checksum to a file, whole or not at all.

        Parameters
        ----------
        path : path
            Replaced in one operation if it exists.

        Raises
        ------
        OSError
            It cannot be written; what was there is as it was.
        """
        data = self.snapshot()
        data[: PREAMBLE_DTYPE.itemsize].view(PREAMBLE_DTYPE)["checksum"] = checksum(data)
        write_atomically(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Make a cache of a file that `save` wrote; audited, as from anywhere outside.

        Parameters
        ----------
        path : path

        Returns
        -------
        PagedKVCache

        Raises
        ------
        SnapshotError
            Foreign, cut off, damaged, or of another version: the reason is named.
        IntegrityError
            What was saved contradicts itself.
        OSError
            It cannot be read.
        """
        parts = read_file(path)
        try:
            return cls._from_parts(parts, check=True)
        except IntegrityError as error:
            raise IntegrityError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def _from_parts(cls, parts: Snapshot, check: bool) -> Self:
        cache = cls(parts.config)
        _check_header(parts)
        fill_arena(parts, cache._arena)
        if check:
            _audit(cache._arena, parts.config)
        return cache

    def _start_anew(self) -> None:
        """Leave behind what was under way: old plans are of another cache now."""
        runtime = self._arena[layout.HEADER_BYTES :][: layout.RUNTIME_DTYPE.itemsize].view(
            layout.RUNTIME_DTYPE
        )
        runtime["identity"] = secrets.randbits(63)
        runtime["num_evicted"] = 0
        runtime["num_copies"] = 0
        for plan in self._outstanding:
            if plan.buffers.is_writable:
                plan._header["phase"] = EMPTY  # the buffers can take another plan
        self._outstanding.clear()


def _as_bytes(snapshot: object) -> npt.NDArray[np.uint8]:
    """Take a snapshot as it is, or a copy where it lies askew."""
    if not isinstance(snapshot, np.ndarray):
        raise TypeError(f"snapshot is a {type(snapshot).__name__}; it must be a numpy array")
    if snapshot.dtype != np.uint8 or snapshot.ndim != 1:
        refuse("snapshot", f"{snapshot.dtype} of shape {snapshot.shape}", "uint8, one-dimensional")
    if snapshot.flags.c_contiguous and snapshot.ctypes.data % ALIGNMENT == 0:
        return snapshot
    copy = aligned_bytes(snapshot.size)
    copy[:] = snapshot
    return copy


def _check_same(config: CacheConfig, wanted: CacheConfig) -> None:
    for field in dataclasses.fields(CacheConfig):
        theirs, ours = getattr(config, field.name), getattr(wanted, field.name)
        if theirs != ours:
            raise SnapshotError(f"its {field.name} is {theirs!r}, this cache's is {ours!r}")


def _check_header(parts: Snapshot) -> None:
    """Check what kernels take on trust, before an arena says it."""
    start = parts.start
    words = find_bad_header(parts.data[start : start + layout.HEADER_BYTES], parts.config)
    if words is not None:
        raise IntegrityError(words)


def _audit(arena: npt.NDArray[np.uint8], config: CacheConfig) -> None:
    words = find_violation(arena, config)
    if words is not None:
        raise IntegrityError(words)
