"""Pools: the memory that keys and values live in, on the CPU (`HostPool`) and on CUDA (`CudaPool`).

`CudaPool` is looked up when it is first asked for: nothing else here needs numba-cuda.
"""

import importlib
from typing import Any

from nbkv.pools.geometry import PoolGeometry
from nbkv.pools.host import HostPool

__all__ = ["HostPool", "PoolGeometry"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load `CudaPool`, or say what it needs."""
    if name != "CudaPool":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module("nbkv.pools.cuda")
    except ImportError as error:
        raise ImportError(
            "CudaPool needs numba-cuda, which is not installed:"
            " pip install 'nbkv[cu12]' or 'nbkv[cu13]', as the driver's CUDA is 12 or 13"
        ) from error
    return module.CudaPool
