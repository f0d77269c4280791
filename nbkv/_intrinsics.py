"""Machine-level helpers with plain twins: views without reference counts, and prefetch."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array

Array = npt.NDArray[Any]


@intrinsic
def borrow(typingctx: Any, base: Any, start: Any, end: Any, dtype: Any) -> Any:
    """View bytes ``start:end`` from an address as records; compiled code only.

    Parameters
    ----------
    base : pointer to bytes
    start, end : int64
        Byte offsets; ``end - start`` is a multiple of the dtype's size.
    dtype : numpy.dtype
        A module-level constant of `nbkv.layout`.

    Returns
    -------
    numpy.ndarray
        One-dimensional, without a reference count: it must not outlive the call.
    """
    result = types.Array(dtype.dtype, 1, "C")
    signature = result(base, types.int64, types.int64, dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, start_value, end_value, _ = args
        element = context.get_data_type(result.dtype)
        size = ir.Constant(ir.IntType(64), context.get_abi_sizeof(element))
        data = builder.bitcast(
            cgutils.pointer_add(builder, address, start_value), element.as_pointer()
        )
        count = builder.udiv(builder.sub(end_value, start_value), size)
        view = make_array(result)(context, builder)
        populate_array(view, data=data, shape=[count], strides=[size], itemsize=size, meminfo=None)
        return view._getvalue()

    return signature, codegen


def prefetch(array: Array, index: int) -> None:
    """Ask the processor to fetch ``array[index]``; changes nothing, never faults.

    Parameters
    ----------
    array : one-dimensional, C-contiguous
    index : int
        Not checked: a wrong one costs only the useless fetch.
    """


@intrinsic
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    signature = types.void(array, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        byte = builder.mul(args[1], source.itemsize)
        address = cgutils.pointer_add(builder, source.data, byte)
        pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # For writing (1), keep in all caches (3), data (1).
        builder.call(function, [pointer, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return signature, codegen


@overload(prefetch, inline="never")
def _prefetch_overload(array: Any, index: Any) -> Any:
    def fetch(array: Any, index: Any) -> None:
        _prefetch(array, index)

    return fetch
