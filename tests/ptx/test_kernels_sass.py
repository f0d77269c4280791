"""The kernels' machine code: registers, access widths, no spills, no divisions."""

import re

import pytest

from ptx.wheels import require_wheels

require_wheels()

from nbkv.pools import cuda_decode, cuda_warmup  # noqa: E402
from nbkv.pools.cuda_jit import KERNELS, offline  # noqa: E402
from ptx.build import build  # noqa: E402
from ptx.sass import assemble  # noqa: E402

CAPABILITIES = [(8, 0), (8, 9), (9, 0), (10, 0)]
#: Registers of a thread at most. gather's and swap's on 8.x: ptxas loads more ahead there.
LIMITS = {
    "append": 24,
    "append_heads": 28,
    "gather": 24,
    "gather_heads": 28,
    "copy": 32,
    "copy_rows": 32,
    "swap": 20,
    "swap_narrow": 20,
    "zero": 20,
    "append_fp8": 40,
    "append_int8": 40,
    "gather_fp8": 48,
    "gather_int8": 48,
    "decode": 64,
    "combine": 40,
}
OLDER_LIMITS = {"swap": 24, "swap_narrow": 24}
#: A float32 division calls a function where numbers are subnormal, and a shuffle in a loop one
#: of ptxas's own on 8.x; nothing else is called.
CALLED = {
    "append_int8": {"sm3x_div_rn_noftz_f32_slowpath", "sm70_shflsync_bfly"},
    "decode": {"sm70_shflsync_bfly"},
    "combine": {"sm20_rcp_rn_f32_slowpath"},
}
CASES = [
    pytest.param(name, cc, id=f"{name}-{cc[0]}.{cc[1]}")
    for name, kernel in KERNELS.items()
    for cc in CAPABILITIES
    if cc >= kernel.needs and (cc != (8, 9) or kernel.needs == (8, 9))
]


def binary_of(name, cc):
    kernel = KERNELS[name]
    return assemble(build(kernel.function, kernel.argument_types, cc))


def test_every_kernel_has_a_limit():
    assert set(LIMITS) == set(KERNELS)
    assert cuda_decode.decode is KERNELS["decode"]


@pytest.mark.parametrize(("name", "cc"), CASES)
def test_kernels_fit_their_registers_and_spill_nothing(name, cc):
    binary = binary_of(name, cc)
    limit = LIMITS[name] if cc >= (9, 0) else OLDER_LIMITS.get(name, LIMITS[name])
    assert binary.registers <= limit
    assert binary.spill_store_bytes == binary.spill_load_bytes == binary.stack_bytes == 0
    assert binary.num_local == 0


@pytest.mark.parametrize(("name", "cc"), CASES)
def test_kernels_address_global_memory_and_call_no_division(name, cc):
    binary = binary_of(name, cc)
    assert binary.num_generic == 0
    called = set(re.findall(r"\$__internal_\d+_\$__cuda_(\w+)", binary.sass))
    assert called <= CALLED.get(name, set())


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("name", ["append", "gather", "copy", "swap"])
def test_kernels_of_contiguous_rows_move_128_bits_and_nothing_narrower(name, cc):
    accesses = binary_of(name, cc).global_accesses()
    units = 4 if name == "copy" else 1
    assert accesses["load 128"] == accesses["store 128"] == units
    # Narrower loads are of the pool's words and of indices; all stores are data.
    assert {width for width in accesses if width.startswith("store")} == {"store 128"}


@pytest.mark.parametrize("name", ["append_heads", "gather_heads", "copy_rows", "zero"])
def test_kernels_of_any_rows_have_a_wide_and_a_narrow_path(name):
    accesses = binary_of(name, (9, 0)).global_accesses()
    assert accesses["store 128"] >= 1
    assert accesses["store 64"] >= 1
    assert set(accesses) <= {
        "load 128",
        "store 128",
        "load 64",
        "store 64",
        "load 32",
        "store 32",
    }
    assert ("store 32" in accesses) == (name == "copy_rows")  # scales


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_launch_compiles_the_ptx_that_is_executed_here(name):
    from numba.cuda.dispatcher import _Kernel

    kernel = KERNELS[name]
    with offline((9, 0)):
        made = _Kernel(kernel.function, kernel.argument_types, **kernel.dispatcher.targetoptions)
    assert not made._codelibrary._lto
    (launched,) = made._codelibrary.get_asm_strs(cc=cuda_warmup.linked_capability((9, 0)))

    def body(ptx):
        return re.sub(r"\d+", "#", ptx[ptx.index(".visible .entry") :])

    # Names of registers and labels apart, which numba counts through a process.
    assert body(launched) == body(build(kernel.function, kernel.argument_types, (9, 0)))
