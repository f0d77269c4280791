"""Arrays over addresses."""

from typing import Any

import numpy as np
import numpy.typing as npt


class _Memory:
    """Somebody's memory as numpy takes it; keeps its owner alive."""

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def view_at(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: "np.dtype[Any]",
    owner: object,
) -> npt.NDArray[Any]:
    """View memory at an address as an array.

    Parameters
    ----------
    address : int
    shape : tuple of int
    strides : tuple of int
        In bytes.
    dtype : numpy.dtype
    owner : object
        Kept for as long as the view, or one of it, lives.

    Returns
    -------
    numpy.ndarray
    """
    interface = {
        "version": 3,
        "data": (address, False),
        "shape": shape,
        "strides": strides,
        "typestr": dtype.str,
    }
    return np.asarray(_Memory(interface, owner))
