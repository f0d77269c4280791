"""Prove CUDA kernels without a GPU: compile them, execute their PTX on NumPy, count their SASS.

Compile and launch; an array argument is passed as numba-cuda passes it, and changes in place::

    from ptx.build import build
    from ptx.launch import launch
    from ptx.memory import GlobalMemory

    ptx = build(kernels.copy_words, (types.int64[::1], types.int32), (9, 0))
    memory = GlobalMemory()                       # for what is reached by address alone
    source_address = memory.add(source, "source")
    geometry = np.array([source_address, memory.add(target, "target")])
    report = launch(ptx, grid, block, [geometry, num_words], memory=memory)

A pool's geometry is made of such addresses: `GlobalMemory.add` takes any array or view and gives
the virtual address of its element 0. Buffers lie more than 2**32 apart, so that an address
computed in 32 bits, or past an array's end, is in none of them; ``address=`` puts one anywhere
(two blocks of a pool 2**33 bytes apart, say). ``array.flags.writeable`` decides whether kernels
may store to it.

`launch` raises a subclass of `ptx.faults.PTXError` with the PTX line for an access outside every
buffer, a misaligned one, a store to read-only memory, a load of shared or local memory that
nothing wrote, two threads on one address with no barrier between, a divergent barrier or shuffle,
an endless loop, and any instruction the interpreter does not know. Its report counts bytes,
requests and 32-byte sectors: ``report.of("load", 16)`` is what 16-byte-a-lane loads did, and
coalesced accesses have no ``excess_sectors``.

`ptx.sass.assemble` runs ptxas and nvdisasm on PTX: registers, spills, ``global_accesses()``,
``num_calls``, ``num_generic``, ``num_local``. `ptx.sass.link` takes the way of a real launch,
LTO-IR through nvJitLink, and gives the same counts and the PTX that was assembled, which can be
executed like any other. `ptx.mutants.load_mutant` plants a bug in a kernels module.

Test modules that build kernels call `ptx.wheels.require_wheels` before they import numba.cuda.

Not proven by executing PTX: ptxas itself (it may contract ``mul.f32`` and ``add.f32`` without
``.rn`` into one fma; see `ptx.contraction`), the memory model between blocks, timing, and the
last bits of ``.approx`` instructions, which are rounded from float64 here. A NaN result has the
format's canonical word (0x7fffffff, 0x7fff, 0x7f) whatever the source's sign and payload, as the
PTX manual says of arithmetic; ml_dtypes keeps the sign, so compare NaNs as NaNs.
"""
