"""All of the pools' CUDA intrinsics, in one file: numba's successors have another interface.

Memory is read and written by address (int64), in pieces that are aligned to their own size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir
from numba import types

from nbkv.pools.cuda_jit import device_intrinsic

_I16: Final = ir.IntType(16)
_I32: Final = ir.IntType(32)
_I64: Final = ir.IntType(64)
_F32: Final = ir.FloatType()
_TWO_I64: Final = ir.VectorType(_I64, 2)
_GLOBAL: Final = 1
_PAIR: Final = types.UniTuple(types.uint64, 2)
_FLOATS: Final = types.UniTuple(types.float32, 2)


def _pointer(builder: Any, address: Any, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer(_GLOBAL))


def _loading(kind: ir.Type, number: Any, size: int) -> Callable[..., Any]:
    """Make the body of an intrinsic that reads one number from global memory."""

    def body(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], kind), align=size, typ=kind)

        return number(types.int64), generate

    return body


def _storing(kind: ir.Type, number: Any, size: int) -> Callable[..., Any]:
    """Make the body of an intrinsic that writes one number to global memory."""

    def body(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[1], _pointer(builder, args[0], kind), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, number), generate

    return body


load8 = device_intrinsic("load8")(_loading(_I64, types.uint64, 8))
load4 = device_intrinsic("load4")(_loading(_I32, types.int32, 4))
load_float = device_intrinsic("load_float")(_loading(_F32, types.float32, 4))
store8 = device_intrinsic("store8")(_storing(_I64, types.uint64, 8))
store4 = device_intrinsic("store4")(_storing(_I32, types.int32, 4))
store_float = device_intrinsic("store_float")(_storing(_F32, types.float32, 4))


@device_intrinsic("load16")
def load16(typing_context: Any, address: Any) -> Any:
    """Read 16 bytes as two uint64, the one at the lower address first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        both = builder.load(_pointer(builder, args[0], _TWO_I64), align=16, typ=_TWO_I64)
        halves = [builder.extract_element(both, ir.Constant(_I32, i)) for i in (0, 1)]
        return context.make_tuple(builder, signature.return_type, halves)

    return _PAIR(types.int64), generate


@device_intrinsic("store16")
def store16(typing_context: Any, address: Any, values: Any) -> Any:
    """Write 16 bytes that `load16` would read as these two uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        both = ir.Constant(_TWO_I64, ir.Undefined)
        for i in (0, 1):
            half = builder.extract_value(args[1], i)
            both = builder.insert_element(both, half, ir.Constant(_I32, i))
        builder.store(both, _pointer(builder, args[0], _TWO_I64), align=16)
        return context.get_dummy_value()

    return types.void(types.int64, _PAIR), generate


def _assembly(
    text: str, constraints: str, result: ir.Type, takes: Sequence[ir.Type], signature: Any
) -> Callable[..., Any]:
    """Make the generator of an intrinsic that is one piece of PTX."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        kind = ir.FunctionType(result, takes)
        found = builder.call(ir.InlineAsm(kind, text, constraints), args)
        if isinstance(signature.return_type, types.UniTuple):
            parts = [builder.extract_value(found, i) for i in range(2)]
            return context.make_tuple(builder, signature.return_type, parts)
        return found

    return generate


def _bits(kind: ir.Type, signature: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        return builder.bitcast(args[0], kind)

    return signature, generate


@device_intrinsic("bits_of")
def bits_of(typing_context: Any, number: Any) -> Any:
    """Return a float32's bits as a uint32."""
    return _bits(_I32, types.uint32(types.float32))


@device_intrinsic("float_of")
def float_of(typing_context: Any, bits: Any) -> Any:
    """Return the float32 of a uint32's bits."""
    return _bits(_F32, types.float32(types.uint32))


@device_intrinsic("multiply_high")
def multiply_high(typing_context: Any, one: Any, other: Any) -> Any:
    """Return the upper 32 bits of the product of two uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, other = (builder.zext(arg, _I64) for arg in args)
        product = builder.lshr(builder.mul(one, other), ir.Constant(_I64, 32))
        return builder.trunc(product, _I32)

    return types.uint32(types.uint32, types.uint32), generate


@device_intrinsic("floats_of_halves")
def floats_of_halves(typing_context: Any, halves: Any) -> Any:
    """Return the float32 of two float16 in a uint32, the lower one first."""
    text = (
        "{ .reg .b16 low, high; mov.b32 {low, high}, $2;"
        " cvt.f32.f16 $0, low; cvt.f32.f16 $1, high; }"
    )
    signature = _FLOATS(types.uint32)
    result = ir.LiteralStructType([_F32, _F32])
    return signature, _assembly(text, "=f,=f,r", result, [_I32], signature)


@device_intrinsic("halves_of_floats")
def halves_of_floats(typing_context: Any, low: Any, high: Any) -> Any:
    """Round two float32 to float16, half to even, and put them into a uint32."""
    signature = types.uint32(types.float32, types.float32)
    text = "cvt.rn.f16x2.f32 $0, $2, $1;"
    return signature, _assembly(text, "=r,f,f", _I32, [_F32, _F32], signature)


@device_intrinsic("bfloats_of_floats")
def bfloats_of_floats(typing_context: Any, low: Any, high: Any) -> Any:
    """Round two float32 to bfloat16, half to even, and put them into a uint32."""
    signature = types.uint32(types.float32, types.float32)
    text = "cvt.rn.bf16x2.f32 $0, $2, $1;"
    return signature, _assembly(text, "=r,f,f", _I32, [_F32, _F32], signature)


@device_intrinsic("fp8_of_floats")
def fp8_of_floats(typing_context: Any, low: Any, high: Any) -> Any:
    """Round two float32 to e4m3fn, half to even, at most 448, into a uint16; NaN is 0x7F."""
    signature = types.uint16(types.float32, types.float32)
    text = "cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;"
    return signature, _assembly(text, "=h,f,f", _I16, [_F32, _F32], signature)


@device_intrinsic("rint_to_int8")
def rint_to_int8(typing_context: Any, number: Any) -> Any:
    """Round a float32 half to even and saturate to -128 to 127; NaN is 0."""
    signature = types.int32(types.float32)
    text = "cvt.rni.sat.s8.f32 $0, $1;"
    return signature, _assembly(text, "=r,f", _I32, [_F32], signature)


@device_intrinsic("exp2_of")
def exp2_of(typing_context: Any, number: Any) -> Any:
    """Return 2 to the power of a float32, to 2 units in the last place."""
    signature = types.float32(types.float32)
    text = "ex2.approx.ftz.f32 $0, $1;"
    return signature, _assembly(text, "=f,f", _F32, [_F32], signature)


@device_intrinsic("exchange")
def exchange(typing_context: Any, number: Any, mask: Any) -> Any:
    """Return the float32 of the lane whose number differs from this one's by `mask`, by xor.

    All 32 lanes take part.
    """
    signature = types.float32(types.float32, types.int32)
    text = (
        "{ .reg .b32 bits; mov.b32 bits, $1;"
        " shfl.sync.bfly.b32 bits, bits, $2, 31, -1; mov.b32 $0, bits; }"
    )
    return signature, _convergent(text, signature)


def _convergent(text: str, signature: Any) -> Callable[..., Any]:
    """Generate PTX that must neither move nor go where fewer lanes come by."""

    def generate(context: Any, builder: Any, _: Any, args: Any) -> Any:
        kind = ir.FunctionType(_F32, [_F32, _I32])
        assembly = ir.InlineAsm(kind, text, "=f,f,r", side_effect=True)
        return builder.call(assembly, args, attrs=("convergent",))

    return generate
