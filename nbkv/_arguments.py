"""Arguments made into what the kernels take, or refused by name, value and range."""

import operator
from typing import Any, Final, NoReturn, TypeGuard

import numpy as np
import numpy.typing as npt

from nbkv.errors import ArgumentError
from nbkv.layout import INT32

ID_MAX: Final = 2**64 - 1
_INT32_MAX: Final = 2**31 - 1
_INT32_RANGE: Final = f"{-_INT32_MAX - 1} to {_INT32_MAX} (int32)"
_DIMENSIONS: Final = {1: "one-dimensional", 2: "two-dimensional", 4: "four-dimensional"}
_NO_HASHES: Final = np.empty(0, np.uint64)


def refuse(name: str, value: object, allowed: str) -> NoReturn:
    """Raise the error for a value out of range."""
    raise ArgumentError(f"{name} is {value!r}; it must be {allowed}")


def check_id(name: str, value: object) -> int:
    """Check a seq_id or hash: any integer from 0 to 2**64 - 1.

    Parameters
    ----------
    name : str
        What to call it in the error.
    value : object

    Returns
    -------
    int

    Raises
    ------
    TypeError
        It is not an integer.
    ArgumentError
        It does not fit into uint64.
    """
    # The hot path: an int of the right size, before anything slower.
    if type(value) is int and 0 <= value <= ID_MAX:
        return value
    number = check_count(name, value)
    if number > ID_MAX:
        refuse(name, value, f"0 to {ID_MAX} (uint64)")
    return number


def check_count(name: str, value: object, most: int | None = None) -> int:
    """Check a count: any integer from 0 on.

    Parameters
    ----------
    name : str
    value : object
    most : int, optional

    Returns
    -------
    int

    Raises
    ------
    TypeError
        It is not an integer (a bool is not one).
    ArgumentError
        It is negative, or above `most`.
    """
    if type(value) is int and value >= 0 and most is None:
        return value
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
        wrong = True
    else:
        wrong = isinstance(value, (bool, np.bool_))
    if wrong:
        raise TypeError(f"{name} is {value!r}; it must be an integer")
    if number < 0:
        refuse(name, value, "at least 0")
    if most is not None and number > most:
        refuse(name, value, f"0 to {most}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Check that a value is True or False; what has a truth value of its own is neither."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def is_plain(value: object, dtype: "np.dtype[Any]") -> TypeGuard[npt.NDArray[Any]]:
    """Tell fast whether an array is what a kernel takes, without a conversion.

    Parameters
    ----------
    value : object
    dtype : numpy.dtype
        A builtin one, of which there is one object; False may also mean "look closer".

    Returns
    -------
    bool
    """
    if type(value) is not np.ndarray or value.dtype is not dtype or value.ndim != 1:
        return False
    return value.flags.carray


def check_vector(
    name: str, value: object, dtype: type[np.generic], num_dimensions: int = 1
) -> npt.NDArray[Any]:
    """Check an array of exactly one dtype; make it C-contiguous.

    Parameters
    ----------
    name : str
    value : object
    dtype : numpy scalar type
    num_dimensions : int

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    TypeError
        It is not an array.
    ArgumentError
        Wrong dtype or number of dimensions.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a numpy array")
    if value.dtype != dtype or value.ndim != num_dimensions:
        refuse(name, _describe(value), f"{np.dtype(dtype)}, {_DIMENSIONS[num_dimensions]}")
    return _owned(value)


def _owned(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # A read-only or strided array would be another specialisation of the kernel.
    if value.flags.c_contiguous and value.flags.writeable and value.flags.aligned:
        return value
    return np.array(value)


def _describe(value: npt.NDArray[Any]) -> str:
    return f"{value.dtype} array of shape {value.shape}"


def check_out(
    name: str, value: object, dtype: type[np.generic], num_dimensions: int = 1
) -> npt.NDArray[Any]:
    """Check an array that is written to: dtype, dimensions, contiguous and writable."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a numpy array")
    flags = value.flags
    is_plain = flags.c_contiguous and flags.aligned
    if value.dtype != dtype or value.ndim != num_dimensions or not is_plain:
        shape = _DIMENSIONS[num_dimensions]
        refuse(name, _describe(value), f"{np.dtype(dtype)}, {shape} and contiguous")
    if not flags.writeable:
        refuse(name, "a read-only array", "writable")
    return value


def check_hashes(name: str, values: object) -> npt.NDArray[np.uint64]:
    """Check caller-made hashes: a uint64 array, or integers from 0 to 2**64 - 1."""
    if values is None:
        return _NO_HASHES
    if isinstance(values, np.ndarray):
        return check_vector(name, values, np.uint64)
    checked = [check_id(f"{name}[{i}]", value) for i, value in enumerate(_items(name, values))]
    return np.array(checked, np.uint64)


def check_prompt_hashes(name: str, values: object) -> tuple[npt.NDArray[np.uint64], int]:
    """Check the hashes of a prompt's blocks: one word each, or the two of a chain hash.

    Parameters
    ----------
    name : str
    values : object
        uint64, shape (n,) or (n, 2), or integers from 0 to 2**64 - 1.

    Returns
    -------
    uint64 array, shape (n * words,)
    words : int
        1 or 2.

    Raises
    ------
    TypeError, ArgumentError
    """
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return check_hashes(name, values), 1
    if values.dtype != np.uint64 or values.ndim != 2 or values.shape[1] != 2:
        refuse(name, _describe(values), "uint64 of shape (n,) or (n, 2)")
    return _owned(values.reshape(-1)), 2


def check_block_ids(name: str, values: object, num_blocks: int) -> npt.NDArray[np.int32]:
    """Check block ids: an integer array or sequence, each below the number of blocks."""
    if isinstance(values, np.ndarray) and (values.ndim != 1 or values.dtype.kind not in "iu"):
        refuse(name, _describe(values), "integers, one-dimensional")
    checked = [check_count(f"{name}[{i}]", value) for i, value in enumerate(_items(name, values))]
    for i, block_id in enumerate(checked):
        if block_id >= num_blocks:
            refuse(f"{name}[{i}]", block_id, f"0 to {num_blocks - 1}")
    return np.array(checked, np.int32)


def _items(name: str, values: object) -> list[object]:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} is {values!r}; it must be an array or a list of integers")
    try:
        return list(values)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(
            f"{name} is {values!r}; it must be an array or a list of integers"
        ) from None


def check_counts(
    name: str, value: object, length: int, batch: str = "sequences"
) -> npt.NDArray[np.int32]:
    """Check the counts of a batch: int32 of the batch's length, or one integer for all."""
    if not isinstance(value, np.ndarray):
        number = check_count(name, value)
        if number > _INT32_MAX:
            refuse(name, value, f"0 to {_INT32_MAX}")
        return np.array([number], np.int32)
    counts = check_vector(name, value, np.int32)
    if counts.size != length:
        refuse(name, _describe(counts), f"as long as {batch}, {length}")
    return counts


def check_tokens(name: str, values: object) -> npt.NDArray[np.int32]:
    """Check token ids: an int32 array is taken as it is, other integers are converted.

    Parameters
    ----------
    name : str
    values : object

    Returns
    -------
    int32 array
        C-contiguous.

    Raises
    ------
    TypeError
        Not integers.
    ArgumentError
        A value does not fit into int32, or not one-dimensional.
    """
    # The hot path, as `is_plain` has it, without the call.
    plain = type(values) is np.ndarray and values.dtype is INT32 and values.ndim == 1
    if plain and values.flags.carray:  # type: ignore[attr-defined]
        return values  # type: ignore[return-value]
    if not isinstance(values, np.ndarray):
        return _convert_tokens(name, _items(name, values))
    if values.ndim != 1:
        refuse(name, _describe(values), "integers, one-dimensional")
    if values.dtype == np.int32:
        return _owned(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} is a {_describe(values)}; it must be integers")
    for value in (values.min(initial=0), values.max(initial=0)):
        if not -_INT32_MAX - 1 <= value <= _INT32_MAX:
            refuse(name, int(value), _INT32_RANGE)
    return values.astype(np.int32)


def _convert_tokens(name: str, values: list[object]) -> npt.NDArray[np.int32]:
    try:
        return np.fromiter(map(operator.index, values), np.int32, len(values))  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        pass
    for i, value in enumerate(values):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(f"{name}[{i}] is {value!r}; it must be an integer") from None
        if not -_INT32_MAX - 1 <= number <= _INT32_MAX:
            refuse(f"{name}[{i}]", value, _INT32_RANGE)
    raise AssertionError("one of them was wrong")
