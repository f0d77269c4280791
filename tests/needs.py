"""Libraries that some tests need, or else those are skipped with the reason."""

from importlib import import_module
from types import ModuleType

import pytest


def transformers() -> ModuleType:
    """Return transformers, of the version that nbkv works with."""
    try:
        import_module("nbkv.integrations.transformers")
    except ImportError as error:
        pytest.skip(str(error), allow_module_level=True)
    return import_module("transformers")
