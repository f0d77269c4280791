"""Machine code on disk: shared by processes, never older than the sources it is made from."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import INTERPRETED

import nbkv

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
    code = "from nbkv import _jit; print(_jit.digest_sources())"
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
    from nbkv import _jit

    copy = copy_package(tmp_path / "copy") / "nbkv"
    monkeypatch.setattr(_jit, "__file__", str(copy / "_jit.py"))
    seen = {_jit.digest_sources()}
    sources = sorted(copy.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        source.write_bytes(source.read_bytes() + b"\n")
        seen.add(_jit.digest_sources())
    sources[-1].rename(sources[-1].with_name("renamed.py"))
    seen.add(_jit.digest_sources())
    assert len(seen) == len(sources) + 2


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


def test_only_one_file_calls_njit() -> None:
    calls = re.compile(r"\b(njit|jit|vectorize|guvectorize|jitclass)\b\s*\(|@(nb|numba)\.")
    users = [p.name for p in PACKAGE.rglob("*.py") if calls.search(p.read_text())]
    assert users == ["_jit.py"]
