"""The optional wheels: what is missing, and skipping without them."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

import pytest

WHEELS = (
    "numba-cuda",
    "ml_dtypes",
    "nvidia-cuda-nvcc",
    "nvidia-cuda-nvdisasm",
    "nvidia-cuda-cuobjdump",
)


def missing_wheels() -> list[str]:
    """Return the names of the wheels that are not installed."""
    missing = []
    for name in WHEELS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def require_wheels() -> None:
    """Skip the module that calls this, with a reason, unless the wheels are there."""
    for variable in ("NUMBA_ENABLE_CUDASIM", "NUMBA_DISABLE_JIT"):
        if os.environ.get(variable, "0") != "0":
            pytest.skip(f"{variable} is set: nothing is compiled", allow_module_level=True)
    missing = missing_wheels()
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed: pip install '.[test,test-cuda]'",
            allow_module_level=True,
        )


def find_tool(name: str) -> Path:
    """Return the path of ``ptxas`` or ``nvdisasm`` in NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for found in sorted(Path(folder).glob(f"*/bin/{name}*")):
            if found.stem == name:
                return found
    raise FileNotFoundError(f"{name} in {folders}")
