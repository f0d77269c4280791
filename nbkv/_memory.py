"""Memory at an address: bulk copies and views for compiled code, with plain twins."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()
#: Not more: rows of most arrays begin at a multiple of 16 bytes, and wider is not faster.
_VECTOR_BYTES = 16
#: Bytes that `stream_bytes` loads before it stores them.
STREAM_BYTES = 128


def copy_bytes(destination: int, source: int, count: int) -> None:
    """Copy bytes from one address to another.

    Parameters
    ----------
    destination, source : int
        The two runs do not overlap.
    count : int
        At least 0.
    """
    ctypes.memmove(int(destination), int(source), int(count))


@intrinsic
def _copy_bytes(typingctx: Any, destination: Any, source: Any, count: Any) -> Any:
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, fro = (builder.inttoptr(address, _BYTES) for address in args[:2])
        cgutils.raw_memcpy(builder, to, fro, args[2], 1)
        return context.get_dummy_value()

    return signature, codegen


@overload(copy_bytes, inline="never")
def _copy_bytes_overload(destination: Any, source: Any, count: Any) -> Any:
    def copy(destination: Any, source: Any, count: Any) -> None:
        _copy_bytes(destination, source, count)

    return copy


def stream_bytes(destination: int, source: int, count: int) -> None:
    """Copy bytes past the caches: right for more than they hold, see `order_streams`.

    Parameters
    ----------
    destination, source : int
        The two runs do not overlap.
    count : int
        At least 0.
    """
    ctypes.memmove(int(destination), int(source), int(count))


def order_streams() -> None:
    """Make what `stream_bytes` wrote visible before anything that is written after this."""


@intrinsic
def _stream_lines(typingctx: Any, destination: Any, source: Any, count: Any) -> Any:
    """Copy a multiple of `STREAM_BYTES` to an address that is a multiple of `_VECTOR_BYTES`."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(64)
        vector = ir.VectorType(wide, _VECTOR_BYTES // 8).as_pointer()
        once = builder.module.add_metadata([ir.IntType(32)(1)])
        offsets = range(0, STREAM_BYTES, _VECTOR_BYTES)
        step = wide(STREAM_BYTES)
        with cgutils.for_range_slice(builder, wide(0), args[2], step, intp=wide) as (at, _):
            to, fro = (builder.add(address, at) for address in args[:2])
            sources = (builder.inttoptr(builder.add(fro, wide(i)), vector) for i in offsets)
            loaded = [builder.load(source, align=1) for source in sources]
            for offset, value in zip(offsets, loaded, strict=True):
                target = builder.inttoptr(builder.add(to, wide(offset)), vector)
                store = builder.store(value, target, align=_VECTOR_BYTES)
                store.set_metadata("nontemporal", once)
        return context.get_dummy_value()

    return signature, codegen


@overload(stream_bytes, inline="never")
def _stream_bytes_overload(destination: Any, source: Any, count: Any) -> Any:
    def stream(destination: Any, source: Any, count: Any) -> None:
        head = min(-destination & (_VECTOR_BYTES - 1), count)
        lines = (count - head) & ~(STREAM_BYTES - 1)
        tail = head + lines
        # A row of a head is most often neither: two calls for nothing would show.
        if head > 0:
            _copy_bytes(destination, source, head)
        if count > tail:
            _copy_bytes(destination + tail, source + tail, count - tail)
        _stream_lines(destination + head, source + head, lines)

    return stream


@intrinsic
def _order_streams(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@overload(order_streams, inline="never")
def _order_streams_overload() -> Any:
    def order() -> None:
        _order_streams()

    return order


def array_at(address: int, count: int, dtype: "np.dtype[Any]") -> Array:
    """View memory as an array; compiled, it must not outlive the call.

    Parameters
    ----------
    address : int
        A multiple of the dtype's size.
    count : int
        Elements.
    dtype : numpy.dtype
        A module-level constant.

    Returns
    -------
    numpy.ndarray
        One-dimensional.
    """
    raw = (ctypes.c_uint8 * (int(count) * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memoryview(raw), dtype)


@intrinsic
def _array_at(typingctx: Any, address: Any, count: Any, dtype: Any) -> Any:
    result = types.Array(dtype.dtype, 1, "C")
    signature = result(types.int64, types.int64, dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_data_type(result.dtype)
        size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(element))
        data = builder.inttoptr(args[0], element.as_pointer())
        view = make_array(result)(context, builder)
        # No reference count: the memory is not numba's.
        populate_array(
            view, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None
        )
        return view._getvalue()

    return signature, codegen


@overload(array_at, inline="never")
def _array_at_overload(address: Any, count: Any, dtype: Any) -> Any:
    def view(address: Any, count: Any, dtype: Any) -> Any:
        return _array_at(address, count, dtype)

    return view
