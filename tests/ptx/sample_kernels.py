"""Small kernels for the tests of the interpreter and the builder."""

from llvmlite import ir
from numba import cuda, float32, int32, int64, types, uint32
from numba.cuda.extending import intrinsic

WORD = ir.IntType(64)
PAIR = ir.LiteralStructType([WORD, WORD])


@intrinsic
def load_16(typingctx, address):
    """Load 16 bytes of global memory as two words."""
    signature = types.UniTuple(types.uint64, 2)(types.int64)

    def generate(context, builder, signature, arguments):
        asm = ir.InlineAsm(
            ir.FunctionType(PAIR, [WORD]),
            "ld.global.v2.u64 {$0, $1}, [$2];",
            "=l,=l,l",
            side_effect=True,
        )
        pair = builder.call(asm, arguments)
        words = [builder.extract_value(pair, i) for i in range(2)]
        return context.make_tuple(builder, signature.return_type, words)

    return signature, generate


@intrinsic
def store_16(typingctx, address, first, second):
    """Store two words to 16 bytes of global memory."""
    signature = types.void(types.int64, types.uint64, types.uint64)

    def generate(context, builder, signature, arguments):
        asm = ir.InlineAsm(
            ir.FunctionType(ir.VoidType(), [WORD] * 3),
            "st.global.v2.u64 [$0], {$1, $2};",
            "l,l,l",
            side_effect=True,
        )
        builder.call(asm, arguments)
        return context.get_dummy_value()

    return signature, generate


@cuda.jit
def copy_words(geometry, num_words):
    """Copy words of 16 bytes from the first address of `geometry` to the second."""
    i = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    step = int32(cuda.gridDim.x * cuda.blockDim.x)
    while i < num_words:
        first, second = load_16(geometry[0] + int64(i) * 16)
        store_16(geometry[1] + int64(i) * 16, first, second)
        i = int32(i + step)


@cuda.jit
def sum_blocks(values, sums):
    """Add each block's 64 values by a tree in shared memory."""
    rank = int32(cuda.threadIdx.x)
    partial = cuda.shared.array(64, float32)
    partial[rank] = values[uint32(cuda.blockIdx.x * 64 + rank)]
    cuda.syncthreads()
    step = int32(32)
    while step > 0:
        if rank < step:
            partial[rank] += partial[int32(rank + step)]
        cuda.syncthreads()
        step = int32(step >> 1)
    if rank == 0:
        sums[uint32(cuda.blockIdx.x)] = partial[0]


@cuda.jit
def copy_rows(geometry, num_rows):
    """Copy rows of 256 bytes, one a thread, all of it in registers at once."""
    i = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    if i < num_rows:
        source = geometry[0] + int64(i) * 256
        target = geometry[1] + int64(i) * 256
        first = (
            load_16(source),
            load_16(source + 16),
            load_16(source + 32),
            load_16(source + 48),
            load_16(source + 64),
            load_16(source + 80),
            load_16(source + 96),
            load_16(source + 112),
        )
        for part in first:
            store_16(target, part[0], part[1])
            target += 16
