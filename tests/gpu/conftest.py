"""Tests that need a CUDA device; each is skipped, with the reason, where there is none."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


def missing() -> str:
    """Return why kernels cannot run here, or an empty string."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda not installed: pip install 'nbkv[cu13]'"
    from numba import config, cuda

    if config.ENABLE_CUDASIM:
        return "NUMBA_ENABLE_CUDASIM is set: that is no GPU"
    if not cuda.is_available():
        return "no CUDA device or no driver"
    return ""


MISSING = missing()


def pytest_collection_modifyitems(items):
    """Skip every test of this folder where there is no device."""
    if not MISSING:
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=MISSING))
