"""A CudaPool whose device executes the kernels' PTX on NumPy."""

import numpy as np

from nbkv.pools.cuda import CudaPool
from nbkv.pools.cuda_device import Device, Memory
from nbkv.pools.foreign import row_major
from nbkv.pools.views import view_at
from ptx.build import build
from ptx.launch import launch
from ptx.memory import GlobalMemory

#: What new memory is full of, so that nothing relies on zeros.
GARBAGE = 0xA5


class OnDevice:
    """An array in the device's memory, as torch or CuPy would show it."""

    def __init__(self, array, address, dtype_name=None):
        self.array = array
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (address, not array.flags.writeable),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": dtype_name or array.dtype.str,
        }


class PTXDevice(Device):
    """Executes launches, and keeps a report of each as ``(kernel's name, report)``.

    `replaced` has kernels by the name of the one whose place they take.
    """

    replaced = {}  # noqa: RUF012

    def __init__(self, cc):
        super().__init__()
        self.cc = cc
        self.max_threads = 128
        self.memory = GlobalMemory()
        self.reports = []
        self.mapped = {}
        self.num_events = 0

    def compute_capability(self):
        return self.cc

    def allocate(self, num_bytes):
        array = np.full(max(num_bytes, 1), GARBAGE, np.uint8)
        return Memory(self.memory.add(array, f"allocation of {num_bytes} bytes"), array)

    def put(self, array):
        """Show an array, of any strides, as one in the device's memory."""
        return OnDevice(array, self.memory.add(array, "an argument"))

    def map_host(self, pool):
        """Page-lock a HostPool's memory."""
        memory = pool._owner
        start = memory.__array_interface__["data"][0]
        self.mapped[start] = self.memory.add(memory, "host pool"), memory.size

    def reaches(self, array):
        return array.on_cuda

    def mapped_address(self, address):
        for start, (mapped, size) in self.mapped.items():
            if start <= address < start + size:
                return mapped + address - start
        return None

    def fill_zero(self, memory, num_bytes, stream):
        memory.owner[:num_bytes] = 0

    def view(self, address, shape, strides, dtype, owner):
        host = self.host_address(address)
        array = view_at(host, shape, strides, dtype, owner)
        return OnDevice(array, address)

    def host_address(self, address):
        for buffer in self.memory.buffers:
            if buffer.address <= address < buffer.end:
                return buffer.data.__array_interface__["data"][0] + address - buffer.address
        raise AssertionError(f"{address:#x} is in no buffer")

    def upload(self, address, array, stream):
        if array.size:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            strides = row_major(flat.shape, 1)
            self.view(address, flat.shape, strides, flat.dtype, None).array[...] = flat

    def launch(self, kernel, grid, block, stream, args):
        if 0 in grid:
            return
        assert block[0] * block[1] * block[2] % 32 == 0
        assert max(grid[1:]) <= 65_535
        chosen = self.replaced.get(kernel.name, kernel)
        ptx = build(chosen.function, chosen.argument_types, self.cc)
        report = launch(ptx, grid, block, list(args), memory=self.memory)
        self.reports.append((kernel.name, report))

    def as_stream(self, stream):
        return stream or 0

    def new_stream(self):
        return "side stream"

    def record(self, stream):
        self.num_events += 1
        return self.num_events

    def wait(self, stream, event):
        assert event <= self.num_events


def pool_class(device):
    """Return CudaPool on a device."""

    class PTXPool(CudaPool):
        @staticmethod
        def _new_device():
            return device

    return PTXPool


def make_pool(config, cc=(9, 0), **options):
    """Make a CudaPool on a PTXDevice."""
    return pool_class(PTXDevice(cc))(config, **options)
