"""Other libraries' arrays by address and strides: nothing is copied, nothing imported."""

import ctypes
from typing import Any, Final, NamedTuple

import numpy as np

from nbkv._arguments import refuse

_CPU_DEVICES: Final = (1, 3, 11)  # DLPack: CPU, CUDA's page-locked host memory, ROCm's
_CUDA_DEVICES: Final = (2, 13)  # DLPack: CUDA, CUDA managed
#: DLPack: (type code, bits) to a dtype's name.
_DLPACK_NAMES: Final = {
    (0, 8): "int8",
    (0, 32): "int32",
    (0, 64): "int64",
    (1, 8): "uint8",
    (1, 16): "uint16",
    (2, 16): "float16",
    (2, 32): "float32",
    (2, 64): "float64",
    (4, 16): "bfloat16",
    (10, 8): "float8_e4m3fn",
}


#: Of the usual dtypes: numpy makes up a dtype's name each time, which takes longer.
_NAMES: Final = {
    np.dtype(kind): np.dtype(kind).name
    for kind in (np.float32, np.float16, np.uint16, np.uint8, np.int8)
}


class Foreign(NamedTuple):
    """An array of any library.

    Attributes
    ----------
    address : int
        Of its first element.
    shape : tuple of int
    strides : tuple of int
        In bytes.
    dtype_name : str
        ``float32``, ``bfloat16``, ``float8_e4m3fn`` ...
    on_cuda : bool
        Whether the address is a device's.
    is_read_only : bool
    owner : object
        Keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype_name: str
    on_cuda: bool
    is_read_only: bool
    owner: object


def describe(name: str, array: object) -> Foreign:
    """Find where an array lies.

    Parameters
    ----------
    name : str
        What to call it in an error.
    array : object
        numpy's, torch's, or anything with ``__cuda_array_interface__``,
        ``__array_interface__`` or DLPack.

    Returns
    -------
    Foreign

    Raises
    ------
    TypeError
        It is none of these.
    ArgumentError
        Its dtype or device is none that is known.
    """
    if isinstance(array, np.ndarray):
        return _from_numpy(array)
    if hasattr(array, "__cuda_array_interface__") and not hasattr(array, "data_ptr"):
        return _from_interface(array, array.__cuda_array_interface__, on_cuda=True)
    if all(hasattr(array, method) for method in ("data_ptr", "stride", "element_size")):
        return _from_torch(name, array)
    if hasattr(array, "__array_interface__"):
        return _from_interface(array, array.__array_interface__, on_cuda=False)
    if hasattr(array, "__dlpack__"):
        return _from_dlpack(name, array)
    raise TypeError(
        f"{name} is a {type(array).__name__}; it must be an array of numpy or torch, or have"
        " __cuda_array_interface__, __array_interface__ or __dlpack__"
    )


def address_of(array: "np.ndarray[Any, Any]") -> int:
    """Return the address of an array of numpy's that is contiguous, writable and not empty.

    By way of its buffer, in a third of the time that the array's own attributes take.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def _from_numpy(array: "np.ndarray[Any, Any]") -> Foreign:
    flags = array.flags
    name = _NAMES.get(array.dtype)
    if name is not None and flags.carray and array.size:
        return Foreign(address_of(array), array.shape, array.strides, name, False, False, array)
    address = array.__array_interface__["data"][0]
    read_only = not flags.writeable
    return Foreign(
        address,
        array.shape,
        array.strides,
        name or array.dtype.name,
        False,
        read_only,
        array,
    )


def _from_interface(owner: object, interface: dict[str, Any], on_cuda: bool) -> Foreign:
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is None:
        strides = row_major(shape, dtype.itemsize)
    address, read_only = interface["data"]
    return Foreign(
        int(address or 0), shape, tuple(strides), dtype.name, on_cuda, bool(read_only), owner
    )


def _from_torch(name: str, tensor: Any) -> Foreign:  # noqa: ANN401
    kind, item = tensor.device.type, tensor.element_size()
    if kind not in ("cpu", "cuda"):
        refuse(f"{name}'s device", str(tensor.device), "a CPU or a CUDA device")
    strides = tuple(item * stride for stride in tensor.stride())
    dtype = str(tensor.dtype).rpartition(".")[2]
    return Foreign(
        tensor.data_ptr(), tuple(tensor.shape), strides, dtype, kind == "cuda", False, tensor
    )


def row_major(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Compute the strides of an array without gaps, last axis fastest.

    Parameters
    ----------
    shape : tuple of int
    item_bytes : int

    Returns
    -------
    tuple of int
        In bytes.
    """
    strides, step = [], item_bytes
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


class _DLTensor(ctypes.Structure):
    """DLPack's own record: the beginning of what a capsule points to."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(name: str, array: Any) -> Foreign:  # noqa: ANN401
    # The capsule stays as it was made and is kept: when it goes, its own destructor lets the
    # memory go, as the protocol has it for a capsule that nobody consumed.
    capsule = array.__dlpack__()
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    kind = _DLPACK_NAMES.get((tensor.code, tensor.bits))
    if kind is None or tensor.lanes != 1:
        refuse(f"{name}'s DLPack type", (tensor.code, tensor.bits, tensor.lanes), "a known one")
    if tensor.device_type not in (*_CPU_DEVICES, *_CUDA_DEVICES):
        refuse(f"{name}'s DLPack device", tensor.device_type, "a CPU or a CUDA device")
    shape = tuple(tensor.shape[: tensor.ndim])
    item = tensor.bits // 8
    if tensor.strides:
        strides = tuple(item * stride for stride in tensor.strides[: tensor.ndim])
    else:
        strides = row_major(shape, item)
    on_cuda = tensor.device_type in _CUDA_DEVICES
    address = (tensor.data or 0) + tensor.byte_offset
    return Foreign(address, shape, strides, kind, on_cuda, False, (array, capsule))
