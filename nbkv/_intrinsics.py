"""Machine-level helpers with plain twins: an arena's address with views, and prefetch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, overload_attribute, register_model
from numba.np.arrayobj import make_array, populate_array

from nbkv.layout import INDEX_DTYPE, INDEX_WAYS

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()


class StateType(types.Type):
    """What compiled code passes as a `nbkv.kernels.state.State`: its arena's address."""

    def __init__(self) -> None:
        super().__init__(name="nbkv.State")


_STATE = StateType()


@register_model(StateType)
class _StateModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BYTES)


@intrinsic
def _address(typingctx: Any, arena: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        return builder.bitcast(source.data, _BYTES)

    return _STATE(arena), codegen


def offer_address(open_state: Callable[..., Any]) -> None:
    """Compile a function of an arena to the arena's address."""

    @overload(open_state)
    def offer(arena: Any) -> Callable[[Any], Any]:
        def address(arena: Any) -> Any:
            return _address(arena)

        return address


def offer_start(name: str, dtype: "np.dtype[Any]") -> None:
    """Make ``state.<name>`` compile to a view of the one record at offset 0."""
    end = dtype.itemsize

    @overload_attribute(StateType, name)
    def offer(state: Any) -> Callable[[Any], Any]:
        def view(state: Any) -> Any:
            return _borrow(state, 0, end, dtype)

        return view


def offer_section(name: str, record: str, section: str, dtype: "np.dtype[Any]") -> None:
    """Make ``state.<name>`` compile to a view between two offset fields of a record.

    Parameters
    ----------
    name : str
        The attribute.
    record : str
        ``header`` or ``runtime``, which has the fields.
    section : str
        They are ``<section>_start`` and ``<section>_end``.
    dtype : numpy.dtype
        A module-level constant of `nbkv.layout`.
    """
    start, end = f"{section}_start", f"{section}_end"

    @overload_attribute(StateType, name)
    def offer(state: Any) -> Callable[[Any], Any]:
        def from_header(state: Any) -> Any:
            edges = state.header
            return _borrow(state, _constant(edges[start]), _constant(edges[end]), dtype)

        def from_runtime(state: Any) -> Any:
            edges = state.runtime
            return _borrow(state, _constant(edges[start]), _constant(edges[end]), dtype)

        return from_header if record == "header" else from_runtime


@intrinsic
def _constant(typingctx: Any, field: Any) -> Any:
    """Load a field that no kernel writes, so that no store makes LLVM load it again."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        value = builder.load(source.data)
        value.set_metadata("invariant.load", builder.module.add_metadata([]))
        return value

    return types.int64(field), codegen


@intrinsic
def _borrow(typingctx: Any, base: Any, start: Any, end: Any, dtype: Any) -> Any:
    # No reference count: the view must not outlive the call.
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
