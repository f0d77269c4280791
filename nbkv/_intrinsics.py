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

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()


class AddressType(types.Type):
    """What compiled code passes instead of a tuple of views: the address of their bytes."""

    def __init__(self) -> None:
        super().__init__(name=f"nbkv.{type(self).__name__}")


class StateType(AddressType):
    """A `nbkv.kernels.state.State`: its arena's address."""


class StepType(AddressType):
    """A `nbkv.kernels.buffers.Step`: its step buffers' address."""


class _AddressModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BYTES)


for _kind in (StateType, StepType):
    register_model(_kind)(_AddressModel)


def offer_address(kind: type[AddressType], open_views: Callable[..., Any]) -> None:
    """Compile a function of a uint8 array to the array's address.

    Parameters
    ----------
    kind : type
        `StateType` or `StepType`.
    open_views : callable
        Interpreted, it gives the tuple of views.
    """
    instance = kind()

    @intrinsic
    def address_of(typingctx: Any, array: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = make_array(signature.args[0])(context, builder, args[0])
            return builder.bitcast(source.data, _BYTES)

        return instance(array), codegen

    @overload(open_views)
    def offer(array: Any) -> Callable[[Any], Any]:
        def address(array: Any) -> Any:
            return address_of(array)

        return address


def offer_start(kind: type[AddressType], name: str, dtype: "np.dtype[Any]") -> None:
    """Make ``state.<name>`` compile to a view of the one record at offset 0."""
    end = dtype.itemsize

    @overload_attribute(kind, name)
    def offer(state: Any) -> Callable[[Any], Any]:
        def view(state: Any) -> Any:
            return _borrow(state, 0, end, dtype)

        return view


def offer_section(
    kind: type[AddressType], name: str, record: str, section: str, dtype: "np.dtype[Any]"
) -> None:
    """Make ``state.<name>`` compile to a view between two offset fields of a record.

    Parameters
    ----------
    kind : type
        `StateType` or `StepType`.
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

    @overload_attribute(kind, name)
    def offer(state: Any) -> Callable[[Any], Any]:
        def from_header(state: Any) -> Any:
            return _borrow(state, state.header[start][0], state.header[end][0], dtype)

        def from_runtime(state: Any) -> Any:
            return _borrow(state, state.runtime[start][0], state.runtime[end][0], dtype)

        return from_header if record == "header" else from_runtime


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
