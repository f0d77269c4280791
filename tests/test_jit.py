"""Machine code on disk: shared by processes, never older than the sources it is made from."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import INTERPRETED

import nbkv
from nbkv import _folders, _jit

PACKAGE = Path(nbkv.__file__).parent
# Makes one kernel ready in a fresh process and says where its code came from.
PROBE = """
from nbkv import _jit
from nbkv.kernels import inspect
kernel = inspect.find_sequence
kernel.compile("int64(uint8[::1], uint64)")
stats = kernel.stats
print(_jit.CACHE_DIR, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="without the compiler nothing is cached")


def probe(folder: Path, package_parent: Path, **environment: str) -> tuple[str, int, int]:
    """Run the probe: cache folder, hits and misses."""
    process = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=os.environ
        | {"NBKV_CACHE_DIR": str(folder), "PYTHONPATH": str(package_parent)}
        | environment,
        cwd=package_parent,  # -c puts the working directory before PYTHONPATH
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    where, hits, misses = process.stdout.split()
    return where, int(hits), int(misses)


def copy_package(folder: Path) -> Path:
    """Copy the package, without what is compiled, and return the folder it lies in."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "nbkv", ignore=ignored)
    return folder


@needs_compiler
def test_a_second_process_finds_the_first_ones_code(tmp_path: Path) -> None:
    copy = copy_package(tmp_path / "copy")
    first = probe(tmp_path / "cache", copy)
    assert first[1:] == (0, 1)
    assert probe(tmp_path / "cache", copy) == (first[0], 1, 0)


@needs_compiler
def test_editing_another_file_makes_the_code_stale(tmp_path: Path) -> None:
    copy = copy_package(tmp_path / "copy")
    before = probe(tmp_path / "cache", copy)
    # A constant that the kernel uses, in a file that is not the kernel's own.
    statuses = copy / "nbkv" / "statuses.py"
    text, constant = statuses.read_text(), "UNKNOWN_SEQUENCE: Final = -"
    assert f"{constant}3\n" in text
    statuses.write_text(text.replace(f"{constant}3\n", f"{constant}93\n"))
    after = probe(tmp_path / "cache", copy)
    assert after[0] != before[0]
    assert after[1:] == (0, 1)


@needs_compiler
def test_hashing_alone_makes_no_other_kernel_ready() -> None:
    code = (
        "import nbkv; nbkv.hash_tokens([1], 1); from nbkv import _jit;"
        "print([f.__name__ for f, _ in _jit.ENTRIES if f.signatures])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "['hash_chain']"


def digest_of(copy: Path) -> str:
    """Ask a copy of the package for the name of its cache folder."""
    code = "from nbkv import _folders; print(_folders.digest_sources())"
    environment = os.environ | {"PYTHONPATH": str(copy), "NUMBA_DISABLE_JIT": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_every_source_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_package(tmp_path / "copy") / "nbkv"
    monkeypatch.setattr(_folders, "__file__", str(copy / "_folders.py"))
    seen = {_folders.digest_sources()}
    sources = sorted(copy.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        source.write_bytes(source.read_bytes() + b"\n")
        seen.add(_folders.digest_sources())
    sources[-1].rename(sources[-1].with_name("renamed.py"))
    seen.add(_folders.digest_sources())
    assert len(seen) == len(sources) + 2


def imports_of(source: Path) -> set[Path]:
    """List the package's files that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            # What is imported may be a module itself.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = PACKAGE.parent.joinpath(*name.split("."))
            found |= {path.with_suffix(".py"), path / "__init__.py"}
    # `from nbkv import layout` is of the module, not of all that the package's front offers.
    return {path for path in found if path.is_file()} - {PACKAGE / "__init__.py"}


@pytest.mark.parametrize("package", _folders.SOURCES)
def test_a_packages_listed_sources_are_all_that_its_kernels_can_be_made_from(
    package: str,
) -> None:
    todo = set(PACKAGE.parent.joinpath(*package.split(".")).rglob("*.py"))
    reached: set[Path] = set()
    while todo:
        source = todo.pop()
        reached.add(source)
        todo |= imports_of(source) - reached
    listed: set[Path] = set()
    for name in _folders.SOURCES[package]:
        source = PACKAGE / name
        listed |= set(source.rglob("*.py")) if source.is_dir() else {source}
    assert len(reached) > 1
    assert listed == reached


def test_the_front_of_the_package_gives_kernels_nothing() -> None:
    imported = re.compile(r"^\s*from nbkv import (.*)", re.MULTILINE)
    modules = {path.stem for path in PACKAGE.glob("*")}
    for name in (name for names in _folders.SOURCES.values() for name in names):
        source = PACKAGE / name
        for file in source.rglob("*.py") if source.is_dir() else [source]:
            for names in imported.findall(file.read_text()):
                assert set(re.findall(r"\w+", names)) <= modules, file


def test_the_engines_digest_changes_with_its_own_sources_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_package(tmp_path / "copy") / "nbkv"
    monkeypatch.setattr(_folders, "__file__", str(copy / "_folders.py"))
    before = _folders.digest_sources("nbkv.kernels")
    assert before != _folders.digest_sources()
    for name, kept in [("cache.py", True), ("layout.py", False), ("kernels/plan.py", False)]:
        source = copy / name
        text = source.read_bytes()
        source.write_bytes(text + b"\n")
        assert (_folders.digest_sources("nbkv.kernels") == before) == kept, name
        source.write_bytes(text)
    assert _folders.digest_sources("nbkv.kernels") == before


@needs_compiler
def test_kernels_of_other_packages_have_a_folder_of_their_own() -> None:
    assert _folders.folder_of("nbkv.kernels.plan") == _jit.CACHE_DIR
    other = _folders.folder_of("nbkv.replay.token_loop")
    assert other is not None
    assert other != _jit.CACHE_DIR
    assert other == _folders.folder_of("nbkv.kernels_of_another_kind")


def test_the_same_sources_elsewhere_have_the_same_digest(tmp_path: Path) -> None:
    assert digest_of(copy_package(tmp_path / "a")) == digest_of(copy_package(tmp_path / "b"))


@needs_compiler
def test_flags_that_change_code_have_folders_of_their_own(tmp_path: Path) -> None:
    copy = copy_package(tmp_path / "copy")
    plain = probe(tmp_path / "cache", copy, NUMBA_BOUNDSCHECK="0")
    checked = probe(tmp_path / "cache", copy, NUMBA_BOUNDSCHECK="1")
    assert plain[0] != checked[0]
    assert checked[1:] == (0, 1)


@needs_compiler
def test_a_folder_that_cannot_be_written_gives_one_warning_with_the_remedy(
    tmp_path: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    process = subprocess.run(
        [sys.executable, "-c", "import nbkv"],
        env=os.environ
        | {"NBKV_CACHE_DIR": str(blocked / "cache"), "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr.count("RuntimeWarning") == 1
    assert "NBKV_CACHE_DIR" in process.stderr
    assert "nbkv warmup --into" in process.stderr


def test_only_one_file_for_each_processor_calls_numba() -> None:
    calls = re.compile(r"\b(njit|jit|vectorize|guvectorize|jitclass)\b\s*\(|@(nb|numba)\.")
    users = {p.name for p in PACKAGE.rglob("*.py") if calls.search(p.read_text())}
    assert users == {"_jit.py", "cuda_jit.py"}
