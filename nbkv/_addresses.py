"""Addresses that compiled code passes instead of tuples of views over an array's bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, lower_getattr, register_model
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import from_dtype

from nbkv._twins import compiled_as

Array = npt.NDArray[Any]
_BYTES = ir.IntType(8).as_pointer()
_WORD = ir.IntType(64)


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


#: The views that each kind offers, by name, and the record at its offset 0.
_OFFERED: dict[type[AddressType], dict[str, types.Array]] = {StateType: {}, StepType: {}}
_FIRST: dict[type[AddressType], "np.dtype[Any]"] = {}


# An `overload_attribute` would be compiled to a function of its own for each view.
def _resolve_views_of(kind: type[AddressType]) -> None:
    """Tell numba the types of a kind's views."""

    @infer_getattr
    class Views(AttributeTemplate):
        key = kind

        def generic_resolve(self, value: Any, attr: str) -> Any:  # type: ignore[override]
            return _OFFERED[kind].get(attr)


for _offering in _OFFERED:
    _resolve_views_of(_offering)


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

    @compiled_as(open_views)
    def address_of(typingctx: Any, array: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = make_array(signature.args[0])(context, builder, args[0])
            return builder.bitcast(source.data, _BYTES)

        return instance(array), codegen


def offer_start(kind: type[AddressType], name: str, dtype: "np.dtype[Any]") -> None:
    """Make ``state.<name>`` compile to a view of the one record at offset 0."""
    view_type = _OFFERED[kind][name] = types.Array(from_dtype(dtype), 1, "C")
    _FIRST[kind] = dtype

    @lower_getattr(kind, name)
    def view(context: Any, builder: Any, value_type: Any, address: Any) -> Any:
        return _borrow(context, builder, view_type, address, (_WORD(0), _WORD(dtype.itemsize)))


def offer_section(
    kind: type[AddressType],
    name: str,
    section: str,
    dtype: "np.dtype[Any]",
    second: "tuple[str, np.dtype[Any]] | None" = None,
) -> None:
    """Make ``state.<name>`` compile to a view between two offset fields of a record.

    Parameters
    ----------
    kind : type
        `StateType` or `StepType`.
    name : str
        The attribute.
    section : str
        The fields are ``<section>_start`` and ``<section>_end``.
    dtype : numpy.dtype
        A module-level constant of `nbkv.layout`.
    second : tuple of (str, numpy.dtype), optional
        The section that has the record with the fields, and the record's dtype. Default: the
        record at offset 0 has them.
    """
    view_type = _OFFERED[kind][name] = types.Array(from_dtype(dtype), 1, "C")

    @lower_getattr(kind, name)
    def view(context: Any, builder: Any, value_type: Any, address: Any) -> Any:
        base, record = address, _FIRST[kind]
        if second is not None:
            start = _load_offset(builder, base, record, f"{second[0]}_start")
            base, record = cgutils.pointer_add(builder, address, start), second[1]
        edges = [_load_offset(builder, base, record, f"{section}_{x}") for x in ("start", "end")]
        return _borrow(context, builder, view_type, address, edges)


def _load_offset(builder: Any, base: Any, record: "np.dtype[Any]", field: str) -> Any:
    """Load a field that no kernel writes, so that no store makes LLVM load it again."""
    fields = record.fields
    assert fields is not None
    offset = fields[field][1]
    place = cgutils.pointer_add(builder, base, _WORD(offset), _WORD.as_pointer())
    value = builder.load(place)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


def _borrow(context: Any, builder: Any, view_type: Any, address: Any, edges: Any) -> Any:
    """Make a view without a reference count: it must not outlive the call."""
    start, end = edges
    element = context.get_data_type(view_type.dtype)
    size = _WORD(context.get_abi_sizeof(element))
    data = cgutils.pointer_add(builder, address, start, element.as_pointer())
    count = builder.udiv(builder.sub(end, start), size)
    view = make_array(view_type)(context, builder)
    populate_array(view, data=data, shape=[count], strides=[size], itemsize=size, meminfo=None)
    return view._getvalue()
