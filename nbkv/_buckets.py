"""Index buckets compared at once: a bucket is one vector register."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from nbkv._twins import compiled_as
from nbkv.layout import INDEX_DTYPE, INDEX_WAYS

Array = npt.NDArray[Any]


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


@compiled_as(find_occupant)
def _find_occupant(typingctx: Any, index: Any, start: Any, occupant: Any) -> Any:
    signature = types.int64(index, types.int64, types.int64)
    fields = sum(1 << lane for lane in _lanes_of("occupant"))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = make_array(signature.args[0])(context, builder, args[0])
        bits = _compare_bucket(context, builder, source, args[1], args[2])
        matches = builder.and_(bits, ir.IntType(64)(fields))
        return _first_slot(builder, matches, args[1])

    return signature, codegen


@compiled_as(find_tag)
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
