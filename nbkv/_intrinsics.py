"""Machine-level helpers with plain twins: prefetch, bulk copies and comparisons, products."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

from nbkv.layout import INDEX_DTYPE, INDEX_WAYS

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()


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


@intrinsic
def _multiply_high(typingctx: Any, a: Any, b: Any) -> Any:
    signature = types.uint64(types.uint64, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, codegen


@overload(multiply_high)
def _multiply_high_overload(a: Any, b: Any) -> Any:
    def upper_half(a: Any, b: Any) -> Any:
        return _multiply_high(a, b)

    return upper_half


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


@intrinsic
def _same_ints(typingctx: Any, a: Any, a_start: Any, b: Any, b_start: Any, count: Any) -> Any:
    signature = types.boolean(a, types.int64, b, types.int64, types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = []
        for position in (0, 2):
            source = make_array(signature.args[position])(context, builder, args[position])
            byte = builder.mul(args[position + 1], source.itemsize)
            address = cgutils.pointer_add(builder, source.data, byte)
            pointers.append(builder.bitcast(address, _BYTES))
        size = builder.mul(args[4], ir.Constant(ir.IntType(64), 4))
        kind = ir.FunctionType(ir.IntType(32), [_BYTES, _BYTES, ir.IntType(64)])
        function = cgutils.get_or_insert_function(builder.module, kind, "memcmp")
        difference = builder.call(function, [*pointers, size])
        return builder.icmp_unsigned("==", difference, ir.Constant(ir.IntType(32), 0))

    return signature, codegen


@overload(same_ints, inline="never")
def _same_ints_overload(a: Any, a_start: Any, b: Any, b_start: Any, count: Any) -> Any:
    def same(a: Any, a_start: Any, b: Any, b_start: Any, count: Any) -> Any:
        return _same_ints(a, a_start, b, b_start, count)

    return same


def borrow(array: Array) -> Array:
    """View an array without counting the reference; must not outlive the call.

    A reference count is atomic, and numba counts around every inlined kernel with a loop.

    Parameters
    ----------
    array : numpy.ndarray
    """
    return array


@intrinsic
def _borrow_array(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = make_array(signature.args[0])(context, builder, args[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()

    return array(array), codegen


@overload(borrow)
def _borrow_overload(array: Any) -> Any:
    def view(array: Any) -> Any:
        return _borrow_array(array)

    return view


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


@intrinsic
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


@overload(copy_record)
def _copy_record_overload(records: Any, index: Any, template: Any) -> Any:
    def copy(records: Any, index: Any, template: Any) -> None:
        _copy_record(records, index, template)

    return copy


def find_occupant(index: Array, start: int, occupant: int) -> int:
    """Find the first slot of an index bucket whose occupant field is this.

    Compiled, all slots are compared at once: a bucket is one vector register.

    Parameters
    ----------
    index : INDEX_DTYPE, C-contiguous
    start : int
        First slot of the bucket, at least 0.
    occupant : int
        As the field has it: 0 finds an empty slot.

    Returns
    -------
    int
        A slot, or -1.
    """
    for slot in range(start, start + INDEX_WAYS):
        if index["occupant"][slot] == occupant:
            return slot
    return -1


def _occupant_lanes() -> list[bool]:
    """Tell which of a bucket's 32-bit words are occupant fields."""
    bucket = np.zeros(INDEX_WAYS, INDEX_DTYPE)
    bucket["occupant"] = -1
    return [bool(word) for word in bucket.view(np.int32)]


@intrinsic
def _find_occupant(typingctx: Any, index: Any, start: Any, occupant: Any) -> Any:
    signature = types.int64(index, types.int64, types.int64)
    lanes = _occupant_lanes()
    word, wide, vector = ir.IntType(32), ir.IntType(64), ir.VectorType(ir.IntType(32), len(lanes))
    fields = sum(1 << lane for lane, is_occupant in enumerate(lanes) if is_occupant)
    words_a_slot = len(lanes) // INDEX_WAYS

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        byte = builder.mul(args[1], source.itemsize)
        bucket = cgutils.pointer_add(builder, source.data, byte, vector.as_pointer())
        wanted = builder.insert_element(
            ir.Constant(vector, ir.Undefined), builder.trunc(args[2], word), word(0)
        )
        everywhere = ir.Constant(vector, [0] * len(lanes))
        wanted = builder.shuffle_vector(wanted, wanted, everywhere)
        equal = builder.icmp_signed("==", builder.load(bucket, align=4), wanted)
        bits = builder.zext(builder.bitcast(equal, ir.IntType(len(lanes))), wide)
        matches = builder.and_(bits, wide(fields))
        lane = builder.cttz(matches, ir.IntType(1)(0))
        slot = builder.add(args[1], builder.udiv(lane, wide(words_a_slot)))
        return builder.select(builder.icmp_unsigned("==", matches, wide(0)), wide(-1), slot)

    return signature, codegen


@overload(find_occupant)
def _find_occupant_overload(index: Any, start: Any, occupant: Any) -> Any:
    def find(index: Any, start: Any, occupant: Any) -> Any:
        return _find_occupant(index, start, occupant)

    return find
