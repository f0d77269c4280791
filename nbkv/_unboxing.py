"""How kernels take arrays from Python: looked at closely, borrowed, nothing counted.

Numba makes an object of its own for every array that it is handed and looks at nothing but
its item size. A kernel borrows the array for the length of a call, so the fields of numpy's
structure are all that is needed, and there is time to compare dtype, dimensions and layout:
what is not exactly as a kernel's signature says is a TypeError.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.callwrapper import PyCallWrapper
from numba.core.pythonapi import NativeValue
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype

_BYTES: Final = ir.IntType(8).as_pointer()
_WORD: Final = ir.IntType(64)
_INT: Final = ir.IntType(32)
# Where numpy 1 and 2 keep an array's fields (PyArrayObject_fields) and a dtype's
# (PyArray_Descr), in bytes behind an object's header, which ends with its type.
_TYPE, _DATA, _NUM_DIMENSIONS, _SHAPE, _STRIDES, _DTYPE, _FLAGS = -8, 0, 8, 16, 24, 40, 48
_BYTE_ORDER, _TYPE_NUMBER = 10, 12
_CONTIGUOUS_ALIGNED: Final = 0x0001 | 0x0100
_NDARRAY: Final = "nbkv.ndarray"
_FOREIGN_ORDER: Final = ">"

# The address of numpy's array type, under a name that machine code from disk refers to.
binding.add_symbol(_NDARRAY, id(np.ndarray))


def _is_looked_at(kind: Any) -> bool:
    integers = isinstance(kind, types.Array) and isinstance(kind.dtype, types.Integer)
    return integers and kind.layout == "C"


def _refusal(kind: Any) -> str:
    return f"a kernel takes {kind} here, and nothing else"


def _type_numbers(dtype: "np.dtype[Any]") -> list[int]:
    """List numpy's names for one integer type: int64 is C's long and its long long."""
    alike = (np.dtype(code) for code in "bhilqBHILQ")
    return sorted({other.num for other in alike if other == dtype})


def _load(builder: Any, base: Any, offset: int, kind: Any) -> Any:
    place = _WORD(object.__basicsize__ + offset)
    return builder.load(cgutils.pointer_add(builder, base, place, kind.as_pointer()))


def _is_exactly(builder: Any, array: Any, kind: Any) -> Any:
    """Compare what numpy says of an array with a type of numba's."""
    dtype = _load(builder, array, _DTYPE, _BYTES)
    number = _load(builder, dtype, _TYPE_NUMBER, _INT)
    named = cgutils.false_bit
    for wanted in _type_numbers(as_dtype(kind.dtype)):
        named = builder.or_(named, builder.icmp_signed("==", number, _INT(wanted)))
    order = _load(builder, dtype, _BYTE_ORDER, ir.IntType(8))
    native = builder.icmp_unsigned("!=", order, order.type(ord(_FOREIGN_ORDER)))
    dimensions = _load(builder, array, _NUM_DIMENSIONS, _INT)
    shaped = builder.icmp_signed("==", dimensions, _INT(kind.ndim))
    flags = builder.and_(_load(builder, array, _FLAGS, _INT), _INT(_CONTIGUOUS_ALIGNED))
    laid_out = builder.icmp_unsigned("==", flags, _INT(_CONTIGUOUS_ALIGNED))
    return functools.reduce(builder.and_, (named, native, shaped, laid_out))


def _borrow(context: Any, builder: Any, array: Any, kind: Any) -> Any:
    """Make numba's view of an array that is as it should be."""
    shape_at = _load(builder, array, _SHAPE, _WORD.as_pointer())
    strides_at = _load(builder, array, _STRIDES, _WORD.as_pointer())
    places = range(kind.ndim)
    view = make_array(kind)(context, builder)
    data = _load(builder, array, _DATA, view.data.type)
    populate_array(
        view,
        data=data,
        shape=[builder.load(cgutils.gep_inbounds(builder, shape_at, i)) for i in places],
        strides=[builder.load(cgutils.gep_inbounds(builder, strides_at, i)) for i in places],
        itemsize=_WORD(as_dtype(kind.dtype).itemsize),
        meminfo=None,
    )
    return view._getvalue()


def _unbox(api: Any, kind: Any, value: Any) -> NativeValue:
    """Take an array from Python; where it is not exactly of this kind, set a TypeError."""
    context, builder = api.context, api.builder
    array = builder.bitcast(value, _BYTES)
    try:
        expected = builder.module.get_global(_NDARRAY)
    except KeyError:
        expected = ir.GlobalVariable(builder.module, ir.IntType(8), _NDARRAY)
    is_array = builder.icmp_unsigned("==", _load(builder, array, _TYPE, _BYTES), expected)
    empty = cgutils.get_null_value(context.get_value_type(kind))
    taken = cgutils.alloca_once_value(builder, empty)
    fits = cgutils.alloca_once_value(builder, cgutils.false_bit)
    with builder.if_then(is_array, likely=True):
        builder.store(_is_exactly(builder, array, kind), fits)
        with builder.if_then(builder.load(fits), likely=True):
            builder.store(_borrow(context, builder, array, kind), taken)
    failed = builder.not_(builder.load(fits))
    with builder.if_then(failed, likely=False):
        api.err_set_string("PyExc_TypeError", _refusal(kind))
    return NativeValue(builder.load(taken), is_error=failed)


class _Wrapper(PyCallWrapper):
    """What Python calls a kernel by."""

    def build_wrapper(self, api: Any, builder: Any, closure: Any, args: Any, kws: Any) -> None:
        """Take arguments as numba does, but arrays of integers as `_unbox` does."""
        otherwise = api.to_native_value

        def to_native_value(kind: Any, value: Any) -> NativeValue:
            if _is_looked_at(kind):
                return _unbox(api, kind, value)
            unboxed: NativeValue = otherwise(kind, value)
            return unboxed

        api.to_native_value = to_native_value
        super().build_wrapper(api, builder, closure, args, kws)


def wrap_kernels(context: Any) -> None:
    """Make a compilation's target context build such wrappers.

    Parameters
    ----------
    context : numba.core.cpu.CPUContext
        Of one compilation.
    """

    def create_cpython_wrapper(
        library: Any, fndesc: Any, env: Any, call_helper: Any, release_gil: bool = False
    ) -> None:
        module = context.create_module("wrapper")
        kind = context.call_conv.get_function_type(fndesc.restype, fndesc.argtypes)
        function = ir.Function(module, kind, fndesc.llvm_func_name)
        _Wrapper(context, module, function, fndesc, env, call_helper, release_gil).build()
        library.add_ir_module(module)

    context.create_cpython_wrapper = create_cpython_wrapper


def look_at_arrays(function: Callable[..., Any], kinds: Sequence[Any]) -> Callable[..., Any]:
    """Refuse what machine code would, for a kernel that runs as the Python it is written in.

    Parameters
    ----------
    function : callable
    kinds : sequence of numba.types.Type
        Its arguments'.
    """
    arrays = [
        (i, kind, as_dtype(kind.dtype)) for i, kind in enumerate(kinds) if _is_looked_at(kind)
    ]

    @functools.wraps(function)
    def checked(*args: Any) -> Any:
        for i, kind, dtype in arrays:
            array = args[i]
            if type(array) is not np.ndarray or array.dtype != dtype or array.ndim != kind.ndim:
                raise TypeError(_refusal(kind))
            if not (array.flags.c_contiguous and array.flags.aligned):
                raise TypeError(_refusal(kind))
        return function(*args)

    return checked
