"""What an import says when a library is missing, or another version is installed."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

PACKAGE = "nbkv.integrations.transformers"


@pytest.fixture
def import_with(monkeypatch):
    """Import the package anew where these versions are installed."""

    def run(**versions):
        def version(name):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(PACKAGE)

    return run


def test_tested_versions_import_without_importing_transformers(import_with):
    package = import_with(transformers="5.23.4", torch="2.13.0", psutil="7.0")
    assert f"{PACKAGE}.batching" not in sys.modules
    with pytest.raises(AttributeError, match="no attribute 'instal'"):
        package.instal  # noqa: B018


@pytest.mark.parametrize("found", ["5.22.0", "5.24.0", "4.57.1", "15.23.0"])
def test_other_versions_of_transformers_are_named(import_with, found):
    message = rf"needs transformers 5\.23\.x; transformers {found} is installed: pip install"
    with pytest.raises(ImportError, match=message):
        import_with(transformers=found, torch="2.13.0", psutil="7.0")


@pytest.mark.parametrize("missing", ["transformers", "torch", "psutil"])
def test_a_missing_library_is_named(import_with, missing):
    versions = {"transformers": "5.23.0", "torch": "2.13.0", "psutil": "7.0"}
    del versions[missing]
    with pytest.raises(ImportError, match=f"needs {missing}, which is not installed: pip install"):
        import_with(**versions)


def test_importing_nbkv_imports_none_of_them():
    code = "import nbkv, sys; print({'torch', 'transformers', 'psutil'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
