"""Compile kernels to PTX with no GPU and no driver."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

ComputeCapability = tuple[int, int]


@contextlib.contextmanager
def offline(cc: ComputeCapability) -> Iterator[None]:
    """Let numba-cuda compile device functions for a card that is not there."""
    from numba.cuda import dispatcher

    device = type("Device", (), {"compute_capability": cc})
    with mock.patch.object(dispatcher, "get_current_device", return_value=device):
        yield


@functools.cache
def build(
    function: Any,
    signature: Any,
    cc: ComputeCapability = (9, 0),
    *,
    fastmath: bool | None = None,
    launch_bounds: int | None = None,
) -> str:
    """Compile a kernel to PTX; the same call again in this process costs nothing.

    Parameters
    ----------
    function : callable
        A Python function or what ``cuda.jit`` made of one, whose fastmath and launch_bounds
        then hold unless they are given here.
    signature : tuple or str
        The types of its arguments, a tuple of numba types or ``"void(int64[::1], ...)"``.
    cc : tuple of int
        The compute capability, ``(9, 0)`` for sm_90.

    Returns
    -------
    str
        The module's text.
    """
    from numba import cuda

    options = getattr(function, "targetoptions", {})
    python_function = getattr(function, "py_func", function)
    if fastmath is None:
        fastmath = options.get("fastmath", False)
    if launch_bounds is None:
        launch_bounds = options.get("launch_bounds") or None
    with offline(cc):
        ptx, _ = cuda.compile(
            python_function,
            signature,
            device=False,
            abi="numba",
            cc=cc,
            fastmath=fastmath,
            launch_bounds=launch_bounds,
        )
    return ptx
