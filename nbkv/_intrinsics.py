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


def find_tag(index: Array, start: int, tag: int, first: int) -> int:
    """Find a slot of an index bucket whose tag field is this, be it empty or not.

    Parameters
    ----------
    index : INDEX_DTYPE, C-contiguous
    start : int
        First slot of the bucket, at least 0.
    tag : int
        0 to 2**32 - 1.
    first : int
        Slots of the bucket to pass over, 0 to INDEX_WAYS.

    Returns
    -------
    int
        A slot, or -1.
    """
    for slot in range(start + first, start + INDEX_WAYS):
        if index["tag"][slot] == tag:
            return slot
    return -1


def _lanes_of(field: str) -> list[int]:
    """List which of a bucket's 32-bit words are a field's."""
    bucket = np.zeros(INDEX_WAYS, INDEX_DTYPE)
    bucket[field] = 1
    return np.flatnonzero(bucket.view(np.int32)).tolist()


def _compare_bucket(context: Any, builder: Any, index: Any, start: Any, wanted: Any) -> Any:
    """Compare every word of a bucket with one: a bit for each that is equal."""
    word, wide = ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(word, len(_lanes_of("tag")) * 2)
    byte = builder.mul(start, index.itemsize)
    bucket = cgutils.pointer_add(builder, index.data, byte, vector.as_pointer())
    single = builder.insert_element(
        ir.Constant(vector, ir.Undefined), builder.trunc(wanted, word), word(0)
    )
    everywhere = ir.Constant(vector, [0] * vector.count)
    wanted = builder.shuffle_vector(single, single, everywhere)
    equal = builder.icmp_signed("==", builder.load(bucket, align=4), wanted)
    return builder.zext(builder.bitcast(equal, ir.IntType(vector.count)), wide)


def _first_slot(builder: Any, matches: Any, start: Any) -> Any:
    """Turn bits of equal words into the first slot that has one, or -1."""
    wide = ir.IntType(64)
    lane = builder.cttz(matches, ir.IntType(1)(0))
    slot = builder.add(start, builder.lshr(lane, wide(1)))
    return builder.select(builder.icmp_unsigned("==", matches, wide(0)), wide(-1), slot)


@intrinsic
def _find_occupant(typingctx: Any, index: Any, start: Any, occupant: Any) -> Any:
    signature = types.int64(index, types.int64, types.int64)
    fields = sum(1 << lane for lane in _lanes_of("occupant"))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        bits = _compare_bucket(context, builder, source, args[1], args[2])
        matches = builder.and_(bits, ir.IntType(64)(fields))
        return _first_slot(builder, matches, args[1])

    return signature, codegen


@intrinsic
def _find_tag(typingctx: Any, index: Any, start: Any, tag: Any, first: Any) -> Any:
    signature = types.int64(index, types.int64, types.int64, types.int64)
    fields = sum(1 << lane for lane in _lanes_of("tag"))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(64)
        source = make_array(signature.args[0])(context, builder, args[0])
        bits = _compare_bucket(context, builder, source, args[1], args[2])
        passed = builder.shl(wide(-1), builder.shl(args[3], wide(1)))
        matches = builder.and_(builder.and_(bits, wide(fields)), passed)
        return _first_slot(builder, matches, args[1])

    return signature, codegen


@overload(find_occupant)
def _find_occupant_overload(index: Any, start: Any, occupant: Any) -> Any:
    def find(index: Any, start: Any, occupant: Any) -> Any:
        return _find_occupant(index, start, occupant)

    return find


@overload(find_tag)
def _find_tag_overload(index: Any, start: Any, tag: Any, first: Any) -> Any:
    def find(index: Any, start: Any, tag: Any, first: Any) -> Any:
        return _find_tag(index, start, tag, first)

    return find
