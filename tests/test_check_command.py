"""``nbkv check``: what it says of a saved cache, and with which exit code."""

from pathlib import Path

import numpy as np
import pytest
from step_support import compute
from support import make_cache

import nbkv
from nbkv import cli, layout


def saved(path: Path, damaged: bool = False) -> nbkv.PagedKVCache:
    cache = make_cache(16, 2)
    compute(cache, 1, [1, 2, 3, 4, 5])
    cache.append_token(2)
    if damaged:
        start = int(cache.header["blocks_start"][0])
        cache.writable_arena()[start:].view(np.uint8)[layout.BLOCK_DTYPE.itemsize] = 7
    cache.save(path)
    return cache


def test_an_intact_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cache.nbkv"
    saved(path)
    assert cli.main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: intact\n")
    assert "2 sequences are alive" in out


def test_a_file_that_contradicts_itself_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache.nbkv"
    saved(path, damaged=True)
    assert cli.main(["check", str(path)]) == 1
    words = "block 1: ref_count is 7 but 1 table entries hold it"
    assert capsys.readouterr().out == f"{path}: {words}\n"


def test_a_repaired_copy_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, mended = tmp_path / "cache.nbkv", tmp_path / "mended.nbkv"
    saved(path, damaged=True)
    assert cli.main(["check", str(path), "--repair", str(mended)]) == 0
    out = capsys.readouterr().out
    assert "block ref_count: 1 changed, block 1 from 7 to 1" in out
    assert f"{mended}: written" in out
    loaded = nbkv.PagedKVCache.load(mended)
    assert loaded.num_cached_tokens(1) == 5
    assert cli.main(["check", str(mended)]) == 0
    missing = tmp_path / "nowhere" / "mended.nbkv"
    assert cli.main(["check", str(path), "--repair", str(missing)]) == 2
    assert "--repair" in capsys.readouterr().err


def test_what_cannot_be_read_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache.nbkv"
    saved(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert cli.main(["check", str(path)]) == 2
    assert f"{path}: it has" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path / "nowhere")]) == 2
    assert "No such file" in capsys.readouterr().err
