"""Arguments of page table functions: checked before the call, blamed after it."""

from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from nbkv._arguments import check_count, check_out, check_vector, refuse
from nbkv._inspection import ArenaOwner
from nbkv.kernels.inspect import find_sequence
from nbkv.layout import NO_BLOCK
from nbkv.statuses import OUT_OVERLAPS, OUT_TOO_SMALL, TOO_MANY_TOKENS

Names = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

INT32_MAX: Final = 2**31 - 1
#: num_tokens left out, or no counts.
ALL: Final = np.empty(0, np.int32)
_ROW_MASK: Final = 0xFFFFFFFF


def check_names(handles: Names) -> tuple[Int64s, bool]:
    """Check a batch: handles, or seq_ids and True, as the int64 that kernels take."""
    if isinstance(handles, np.ndarray) and handles.dtype == np.uint64:
        return check_vector("handles", handles, np.uint64).view(np.int64), True
    return check_vector("handles", handles, np.int64), False


def check_lengths(num_tokens: Int32s | None, length: int) -> Int32s:
    """Check how many tokens to cover: int32 of the batch's length, or None for all."""
    if num_tokens is None:
        return ALL
    lengths = check_vector("num_tokens", num_tokens, np.int32)
    if lengths.size != length:
        refuse("num_tokens", f"{lengths.size} long", f"as long as handles, {length}")
    return lengths


def check_rows(name: str, num_rows: int, length: int, extra: int = 0) -> None:
    """Check that an output has a row for each sequence, and `extra` more."""
    if num_rows < length + extra:
        refuse(name, f"{num_rows} long", f"at least {length + extra}, for a batch of {length}")


def check_csr(length: int, indptr: Int32s, indices: Int32s, last_page_len: Int32s) -> None:
    """Check the three arrays that hold pages."""
    check_out("indptr", indptr, np.int32)
    check_rows("indptr", indptr.size, length, 1)
    check_out("indices", indices, np.int32)
    check_out("last_page_len", last_page_len, np.int32)
    check_rows("last_page_len", last_page_len.size, length)


def check_padding(padding: int) -> int:
    """Check what stands where there is no block: an int32."""
    if padding == NO_BLOCK:
        return NO_BLOCK
    number = check_count("padding", padding)
    if number > INT32_MAX:
        refuse("padding", padding, f"-1 to {INT32_MAX}")
    return number


def _row_of(cache: ArenaOwner, name: np.generic) -> int:
    if name.dtype == np.uint64:
        return int(find_sequence(cache._arena, int(name)))
    return int(name) & _ROW_MASK


def fail_batch(
    cache: ArenaOwner,
    status: int,
    handles: Names,
    lengths: Int32s,
    outs: dict[str, npt.NDArray[Any]],
    counts: Int32s = ALL,
) -> NoReturn:
    """Blame what a kernel refused.

    Parameters
    ----------
    cache : ArenaOwner
    status : int
    handles : int64 or uint64 array
    lengths, counts : int32 array
        num_tokens and counts, empty where the call has none.
    outs : dict
        Outputs by name.

    Raises
    ------
    UnknownSequenceError, ArgumentError
    """
    at = int(cache._runtime["detail"][0])
    if status == OUT_OVERLAPS:
        _fail_overlap(cache, outs, {"handles": handles, "num_tokens": lengths, "counts": counts})
    if status == TOO_MANY_TOKENS:
        present = int(cache.sequences["num_tokens"][_row_of(cache, handles[at])])
        covered = int(lengths[at]) if lengths.size else present
        if not 0 <= covered <= present:
            refuse(f"num_tokens[{at}]", covered, f"0 to {present}, the tokens of handles[{at}]")
        count = int(counts[at if counts.size > 1 else 0])
        refuse(f"counts[{at}]", count, f"0 to {covered}, the tokens covered of handles[{at}]")
    if status == OUT_TOO_SMALL:
        _fail_small(outs, handles, counts, at)
    cache._fail(status, f"handles[{at}]", handles[at])


def fail_slots(
    cache: ArenaOwner,
    status: int,
    handles: Names,
    starts: Int32s,
    counts: Int32s,
    out: npt.NDArray[Any],
) -> NoReturn:
    """Blame what a kernel refused: positions that a sequence does not have, or the rest."""
    at = int(cache._runtime["detail"][0])
    if status == TOO_MANY_TOKENS:
        start = int(starts[at if starts.size > 1 else 0])
        count = int(counts[at if counts.size > 1 else 0])
        present = int(cache.sequences["num_tokens"][_row_of(cache, handles[at])])
        if not 0 <= start <= present:
            refuse(f"starts[{at}]", start, f"0 to {present}, the tokens of handles[{at}]")
        refuse(f"counts[{at}]", count, f"0 to {present - start}, the tokens behind starts[{at}]")
    if status == OUT_OVERLAPS and np.may_share_memory(out, starts):
        cache._fail(status, "out", "starts")
    fail_batch(cache, status, handles, ALL, {"out": out}, counts)


def fail_change(changes: Int32s, at: int, table: Int32s, num_blocks: int) -> NoReturn:
    """Blame what a table change names and the table does not have."""
    ends = (0, table.shape[0] - 1, table.shape[1] - 1, num_blocks - 1)
    starts = (0, 0, 0, NO_BLOCK)
    for i, (first, last) in enumerate(zip(starts, ends, strict=True)):
        if not first <= changes[at, i] <= last:
            refuse(f"changes[{at}, {i}]", int(changes[at, i]), f"{first} to {last}")
    raise AssertionError(changes[at])


def _fail_small(
    outs: dict[str, npt.NDArray[Any]], handles: Names, counts: Int32s, detail: int
) -> NoReturn:
    """Blame the first output that is too small: rows too narrow, or lists too short."""
    name, out = next(iter(outs.items()))
    if out.ndim > 1:
        refuse(name, f"{out.shape[-1]} wide", f"as wide as the table of handles[{detail}]")
    if counts.size:
        needed = int(counts.sum(dtype=np.int64)) * (handles.size if counts.size == 1 else 1)
        if out.size < needed:
            refuse(name, f"{out.size} long", f"at least {needed}, sum(counts)")
        name, out = list(outs.items())[1]
    refuse(name, f"{out.size} long", f"at least {detail}")


def _fail_overlap(
    cache: ArenaOwner,
    outs: dict[str, npt.NDArray[Any]],
    inputs: dict[str, npt.NDArray[Any]],
) -> NoReturn:
    for name, out in outs.items():
        for other, values in inputs.items():
            if np.may_share_memory(out, values):
                cache._fail(OUT_OVERLAPS, name, other)
    raise AssertionError(outs)
