"""Launch a kernel on NumPy arrays, passing arguments as numba-cuda does."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx.accesses import Traffic
from ptx.decoder import decode
from ptx.faults import LaunchError
from ptx.kernel import Kernel, Parameter
from ptx.machine import Device, Layout, Program, Threads
from ptx.memory import GlobalMemory
from ptx.parser import parse, type_bytes
from ptx.values import DTYPES

# Blocks execute in batches of about this many threads: enough to drown NumPy's call costs.
BATCH_THREADS = 4096


@dataclass
class Report:
    """What a launch did.

    `traffic` is global memory's, by ``("load" | "store" | "atomic", bytes a lane)``.
    """

    traffic: dict[tuple[str, int], Traffic]
    num_steps: int

    def num_bytes(self, direction: str) -> int:
        """Return the bytes loaded or stored in global memory, by all widths."""
        return sum(t.num_bytes for (name, _), t in self.traffic.items() if name == direction)

    @property
    def loaded_bytes(self) -> int:
        """Bytes loaded from global memory."""
        return self.num_bytes("load")

    @property
    def stored_bytes(self) -> int:
        """Bytes stored to global memory."""
        return self.num_bytes("store")

    def of(self, direction: str, width: int) -> Traffic:
        """Return the traffic of one direction and width; zeros when there was none."""
        return self.traffic.get((direction, width), Traffic())


def find_kernel(ptx: str, name: str = "") -> Kernel:
    """Return the kernel whose mangled name contains `name`; there must be one.

    Raises
    ------
    LaunchError
        When none or several match.
    """
    kernels = parse(ptx)
    if name in kernels:
        return kernels[name]
    found = [kernel for key, kernel in kernels.items() if name in key]
    if len(found) != 1:
        raise LaunchError(f"{len(found)} kernels are named {name!r} in {list(kernels)}")
    return found[0]


def launch(
    ptx: str,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    arguments: Sequence[Any],
    *,
    name: str = "",
    memory: GlobalMemory | None = None,
    shared_bytes: int = 0,
    check_races: bool = True,
    max_steps: int = 1_000_000,
) -> Report:
    """Execute every block of a launch; stores go to the arrays themselves.

    Parameters
    ----------
    ptx : str
        The module, from `ptx.build.build` or written by hand.
    grid, block : int or tuple
        Blocks, and threads a block, in up to three dimensions.
    arguments : sequence
        As Python would pass them to the kernel: an array becomes what numba-cuda makes of it
        (meminfo, parent, nitems, itemsize, data, shape, strides), an int or float a scalar of
        the parameter's type, bytes a parameter that is a byte array.
    name : str
        Part of the kernel's name; needed when the module has several.
    memory : GlobalMemory, optional
        Holds the arrays that the kernel reaches by address alone. Array arguments are added.
    shared_bytes : int
        Dynamic shared memory.
    check_races : bool
        Whether to look for races when the launch has ended.
    max_steps : int
        Instructions of a batch of blocks, before the launch counts as endless.

    Returns
    -------
    Report
        Bytes, requests and sectors.

    Raises
    ------
    PTXError
        A subclass naming the fault, with the PTX line; see `ptx.faults`.
    """
    kernel = find_kernel(ptx, name)
    memory = GlobalMemory() if memory is None else memory
    parameters = _bind(kernel, arguments, memory)
    layout = _lay_out(kernel, memory, shared_bytes)
    device = Device(memory, _three(grid), _three(block), parameters, layout, max_steps=max_steps)
    program = Program(kernel, decode)
    num_blocks = device.grid[0] * device.grid[1] * device.grid[2]
    batch = max(1, BATCH_THREADS // device.threads_per_block)
    total = 0
    for first in range(0, num_blocks, batch):
        device.num_steps = 0
        program.run(Threads(device, kernel, first, min(batch, num_blocks - first)))
        total += device.num_steps
    if check_races:
        for log in device.logs.values():
            log.check()
    return Report(device.traffic, total)


def _three(shape: int | tuple[int, ...]) -> tuple[int, int, int]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    x, y, z = (int(size) for size in (*sizes, 1, 1, 1)[:3])
    if min(x, y, z) < 1 or len(sizes) > 3:
        raise LaunchError(f"a grid or block of {shape}")
    return x, y, z


def array_words(array: np.ndarray[Any, Any], memory: GlobalMemory) -> list[int]:
    """Return the scalars that numba-cuda passes for an array."""
    address = memory.add(array)
    return [0, 0, array.size, array.itemsize, address, *array.shape, *array.strides]


def _bind(kernel: Kernel, arguments: Sequence[Any], memory: GlobalMemory) -> dict[str, bytes]:
    """Give every parameter its bytes."""
    flat: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray) and argument.ndim:
            flat.extend(array_words(argument, memory))
        else:
            flat.append(argument)
    if len(flat) != len(kernel.parameters):
        raise LaunchError(
            f"{kernel.name} has {len(kernel.parameters)} parameters, the arguments make {len(flat)}"
        )
    return {
        parameter.name: _parameter_bytes(parameter, value)
        for parameter, value in zip(kernel.parameters, flat, strict=True)
    }


def _parameter_bytes(parameter: Parameter, value: Any) -> bytes:
    if parameter.array_size:
        if not isinstance(value, bytes) or len(value) != parameter.array_size:
            raise LaunchError(f"{parameter.name} takes {parameter.array_size} bytes")
        return value
    size = type_bytes(parameter.type)
    if parameter.type[0] == "f":
        return np.asarray(value).astype(DTYPES[parameter.type]).tobytes()
    if isinstance(value, float | np.floating):
        # A float may come in an integer parameter: .b32 says nothing of what it holds.
        if parameter.type[0] != "b":
            raise LaunchError(f"{parameter.name} of type {parameter.type} is given {value}")
        return struct.pack("<f" if size == 4 else "<d", value)
    number = int(value)
    if not -(1 << 8 * size - 1) <= number < 1 << 8 * size:
        raise LaunchError(f"{number} does not fit {parameter.type}")
    return (number % (1 << 8 * size)).to_bytes(size, "little")


def _lay_out(kernel: Kernel, memory: GlobalMemory, shared_bytes: int) -> Layout:
    """Place a module's variables; global and constant ones become buffers."""
    offsets: dict[str, int] = {}
    sizes = {"shared": 0, "local": 0}
    dynamic = []
    for variable in kernel.variables.values():
        if variable.space in ("global", "const"):
            content = variable.content or bytes(variable.num_bytes)
            data = np.frombuffer(bytearray(content), np.uint8)
            writable = variable.space == "global"
            offsets[variable.name] = memory.add(data, variable.name, writable=writable)
        elif variable.num_bytes == 0:
            dynamic.append(variable)
        else:
            start = -(-sizes[variable.space] // variable.alignment) * variable.alignment
            offsets[variable.name] = start
            sizes[variable.space] = start + variable.num_bytes
    if dynamic or shared_bytes:
        start = -(-sizes["shared"] // 16) * 16
        offsets.update({variable.name: start for variable in dynamic})
        sizes["shared"] = start + shared_bytes
    return Layout(offsets, sizes["shared"], sizes["local"])
