"""Other libraries' arrays, found by address and strides, never copied."""

import ctypes

import ml_dtypes
import numpy as np
import pytest
from pool_support import make_config

import nbkv
from nbkv.pools.foreign import describe


class Interface:
    """An array with nothing but __array_interface__, or __cuda_array_interface__."""

    def __init__(self, array: np.ndarray, name: str = "__array_interface__", **changes) -> None:
        setattr(self, name, array.__array_interface__ | changes)
        self.array = array


class Capsule:
    """An array with nothing but DLPack."""

    def __init__(self, array: np.ndarray, kind: tuple[int, int] | None = None) -> None:
        self.array, self.kind = array, kind

    def __dlpack__(self, **_: object) -> object:
        capsule = self.array.__dlpack__()
        if self.kind is not None:
            pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
            pointer_of.restype = ctypes.c_void_p
            pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
            start = pointer_of(capsule, b"dltensor")
            # Behind the data, the device and the number of dimensions.
            ctypes.c_uint8.from_address(start + 20).value = self.kind[0]
            ctypes.c_int32.from_address(start + 8).value = self.kind[1]
        return capsule


def test_strides_and_addresses_are_those_of_the_array() -> None:
    array = np.zeros((4, 6, 8), np.float16)[1:, ::2]
    for wrapped in (array, Interface(array), Capsule(array)):
        found = describe("array", wrapped)
        assert found.address == array.ctypes.data
        assert found.shape == (3, 3, 8)
        assert found.strides == array.strides
        assert (found.dtype_name, found.on_cuda, found.is_read_only) == ("float16", False, False)


def test_an_interface_without_strides_is_row_major() -> None:
    array = np.zeros((2, 3, 4), np.float32)
    found = describe("array", Interface(array, strides=None))
    assert found.strides == (48, 16, 4)


def test_dtypes_that_numpy_lacks_keep_their_names() -> None:
    assert describe("array", np.zeros(3, ml_dtypes.bfloat16)).dtype_name == "bfloat16"
    assert describe("array", np.zeros(3, ml_dtypes.float8_e4m3fn)).dtype_name == "float8_e4m3fn"
    words = np.zeros(3, np.uint16)
    assert describe("array", Capsule(words, (4, 1))).dtype_name == "bfloat16"
    assert describe("array", Capsule(words.view(np.uint8), (10, 1))).dtype_name == "float8_e4m3fn"


def test_arrays_on_a_device_say_so() -> None:
    array = np.zeros(3, np.float32)
    found = describe("array", Interface(array, "__cuda_array_interface__"))
    assert found.on_cuda
    assert found.address == array.ctypes.data
    assert describe("array", Capsule(array, (2, 2))).on_cuda


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="array is a list; it must be an array of numpy or torch"):
        describe("array", [1, 2])
    with pytest.raises(nbkv.ArgumentError, match="DLPack type is"):
        describe("array", Capsule(np.zeros(3, np.uint8), (5, 1)))
    with pytest.raises(nbkv.ArgumentError, match="DLPack device is 4"):
        describe("array", Capsule(np.zeros(3, np.uint8), (1, 4)))


def test_a_pool_wraps_memory_with_dlpack_and_writes_to_it() -> None:
    config = make_config()
    memory = np.zeros((7, 3, 2, 4, 2, 8), np.float32)
    pool = nbkv.HostPool.wrap(config, Capsule(memory))
    row = np.ones((1, 2, 8), np.float32)
    pool.append(1, row, 2 * row, [9])
    assert (memory[2, 1, 0, 1] == 1).all()
    assert (memory[2, 1, 1, 1] == 2).all()
    assert memory.sum() == 16 + 32


def test_torchs_tensors_are_wrapped_written_and_read() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install '.[test-torch]'")
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    for dtype, kind in kinds.items():
        config = make_config(dtype)
        memory = torch.zeros((7, 3, 2, 2, 4, 8)).to(kind).transpose(3, 4)
        pool = nbkv.HostPool.wrap(config, memory)
        source = torch.randn((3, 5, 2, 8))
        source = source.to(torch.bfloat16 if dtype != "float32" else kind)
        pool.append_all(source, -source, torch.arange(5).numpy() + 4)
        held = memory.float()[1:, :, 0].transpose(0, 1).reshape(3, -1, 2, 8)[:, :5]
        want = source.float() if dtype != "fp8" else source.float().to(kind).float()
        assert torch.equal(held, want)
        out = torch.zeros((2, 5, 2, 8), dtype=source.dtype)
        assert pool.gather(2, [1, 2], 5, out) is out
        assert torch.equal(out[1].float(), -want[2])
