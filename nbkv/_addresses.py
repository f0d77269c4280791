"""Addresses that compiled code passes instead of tuples of views over an array's bytes."""

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
