"""Products and sums that ptxas may fuse, which would round once where the PTX rounds twice."""

from ptx.kernel import Instruction, Kernel, Register

ROUNDINGS = {"rn", "rz", "rm", "rp"}
FLOATS = {"f16", "bf16", "f32", "f64", "f16x2", "bf16x2"}


def _may_fuse(instruction: Instruction, *opcodes: str) -> bool:
    """Whether this is float arithmetic that does not insist on a rounding of its own."""
    parts = instruction.parts
    return parts[0] in opcodes and parts[-1] in FLOATS and not ROUNDINGS & set(parts)


def fusable_products(kernel: Kernel) -> list[tuple[Instruction, Instruction]]:
    """Return each product without ``.rn`` with a sum without ``.rn`` that reads it.

    The interpreter rounds both. Hardware need not: ptxas contracts them by default. A kernel
    whose results must be exact has none of these pairs.
    """
    products = {
        instruction.operands[0]: instruction
        for instruction in kernel.instructions
        if _may_fuse(instruction, "mul")
    }
    return [
        (products[operand], instruction)
        for instruction in kernel.instructions
        if _may_fuse(instruction, "add", "sub")
        for operand in instruction.operands[1:]
        if isinstance(operand, Register) and operand in products
    ]
