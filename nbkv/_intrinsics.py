"""Machine-level helpers with plain twins: prefetch, bulk copies and comparisons, products."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from nbkv._twins import compiled_as

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()
#: Numbers that `same_ints` compares in one go: a block of the usual size.
_USUAL_COUNT = 16


def prefetch(array: Array, index: int) -> None:
    """Ask the processor to fetch ``array[index]``; changes nothing, never faults.

    Parameters
    ----------
    array : one-dimensional, C-contiguous
    index : int
        Not checked: a wrong one costs only the useless fetch.
    """


@compiled_as(prefetch)
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


def multiply_high(a: int, b: int) -> int:
    """Multiply two 64-bit numbers and keep the upper half of the product.

    Parameters
    ----------
    a, b : uint64

    Returns
    -------
    uint64
    """
    return np.uint64((int(a) * int(b)) >> 64)  # type: ignore[return-value]


@compiled_as(multiply_high)
def _multiply_high(typingctx: Any, a: Any, b: Any) -> Any:
    signature = types.uint64(types.uint64, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, codegen


def same_ints(a: Array, a_start: int, b: Array, b_start: int, count: int) -> bool:
    """Compare ``a[a_start : a_start + count]`` with ``b[b_start : b_start + count]``.

    Parameters
    ----------
    a, b : int32, one-dimensional, C-contiguous
    a_start, b_start, count : int
        Not checked.

    Returns
    -------
    bool
    """
    return bool((a[a_start : a_start + count] == b[b_start : b_start + count]).all())


@compiled_as(same_ints)
def _same_ints(typingctx: Any, a: Any, a_start: Any, b: Any, b_start: Any, count: Any) -> Any:
    signature = types.boolean(a, types.int64, b, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = []
        for position in (0, 2):
            source = make_array(signature.args[position])(context, builder, args[position])
            byte = builder.mul(args[position + 1], source.itemsize)
            address = cgutils.pointer_add(builder, source.data, byte)
            pointers.append(builder.bitcast(address, _BYTES))
        wide = ir.IntType(64)
        usual = builder.icmp_unsigned("==", args[4], wide(_USUAL_COUNT))
        same = cgutils.alloca_once(builder, ir.IntType(1))
        with builder.if_else(usual, likely=True) as (then, otherwise):
            with then:
                vector = ir.VectorType(ir.IntType(32), _USUAL_COUNT).as_pointer()
                a, b = (builder.load(builder.bitcast(p, vector), align=4) for p in pointers)
                differ = builder.bitcast(
                    builder.icmp_unsigned("!=", a, b), ir.IntType(_USUAL_COUNT)
                )
                none = ir.Constant(differ.type, 0)
                builder.store(builder.icmp_unsigned("==", differ, none), same)
            with otherwise:
                size = builder.mul(args[4], wide(4))
                kind = ir.FunctionType(ir.IntType(32), [_BYTES, _BYTES, wide])
                function = cgutils.get_or_insert_function(builder.module, kind, "memcmp")
                order = builder.call(function, [*pointers, size])
                builder.store(builder.icmp_unsigned("==", order, order.type(0)), same)
        return builder.load(same)

    return signature, codegen


def borrow(array: Array) -> Array:
    """View an array without counting the reference; must not outlive the call.

    A reference count is atomic, and numba counts around every inlined kernel with a loop.

    Parameters
    ----------
    array : numpy.ndarray
    """
    return array


@compiled_as(borrow)
def _borrow_array(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = make_array(signature.args[0])(context, builder, args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()

    return array(array), codegen


def copy_record(records: Array, index: int, template: Array) -> None:
    """Overwrite ``records[index]`` with the one record of a template.

    Compiled, one copy of its bytes; numba's own assignment stores constants piece by piece.

    Parameters
    ----------
    records : structured, one-dimensional, C-contiguous
    index : int
        At least 0.
    template : structured, shape (1,)
        Of the same dtype.
    """
    records[index] = template[0]


@compiled_as(copy_record)
def _copy_record(typingctx: Any, records: Any, index: Any, template: Any) -> Any:
    signature = types.void(records, types.int64, template)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = make_array(signature.args[0])(context, builder, args[0])
        source = make_array(signature.args[2])(context, builder, args[2])
        address = cgutils.pointer_add(builder, target.data, builder.mul(args[1], target.itemsize))
        size = ir.Constant(ir.IntType(64), signature.args[0].dtype.size)
        cgutils.raw_memcpy(builder, address, source.data, size, 1)
        return context.get_dummy_value()

    return signature, codegen
