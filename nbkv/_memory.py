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
