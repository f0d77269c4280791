"""Snapshots, clones and files: what comes back is what was, or nothing comes back."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invariants import assert_intact
from lives import SETTINGS, crowded, lived
from step_support import compute, handles, hit_blocks
from support import INTERPRETED, make_cache

import nbkv
from nbkv.snapshot_format import PREAMBLE_DTYPE

POLICIES = ["lru", "fifo", "frequency"]
PROMPT = [1, 2, 3, 4, 5, 6, 7]


def same(a: nbkv.PagedKVCache, b: nbkv.PagedKVCache) -> bool:
    return bool((a.state_bytes() == b.state_bytes()).all())


def served(**options: Any) -> nbkv.PagedKVCache:
    cache = make_cache(16, 2, **options)
    compute(cache, 1, PROMPT)
    compute(cache, 2, [*PROMPT, 8])
    cache.finish(handles(cache.handle(2)))
    return cache


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_snapshot_comes_back_byte_for_byte(policy: str, setting: str, rng: random.Random) -> None:
    cache = lived(policy, setting, rng)
    before = cache.snapshot()
    copy = nbkv.PagedKVCache.from_snapshot(before)
    assert same(cache, copy)
    assert_intact(copy)
    assert (copy.snapshot() == before).all()
    other = lived(policy, setting, rng)
    other.restore(before)
    assert same(cache, other)
    assert_intact(other)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_crowded_cache_comes_back_byte_for_byte(policy: str) -> None:
    cache = crowded(policy)
    copy = nbkv.PagedKVCache.from_snapshot(cache.snapshot())
    assert same(cache, copy)
    cache.reset_prefix_cache()  # leaves names behind, above their watermark
    copy.restore(cache.snapshot())
    assert same(cache, copy)


def test_equal_calls_give_equal_snapshots() -> None:
    assert (served().snapshot() == served().snapshot()).all()


def test_a_snapshot_stops_at_what_is_used() -> None:
    small = make_cache(100_000, 16)
    compute(small, 1, PROMPT)
    assert len(small.snapshot()) < 25_000
    assert small.snapshot_size() == len(small.snapshot())


def test_restore_undoes_what_was_done_since() -> None:
    cache = served()
    before, bytes_before = cache.snapshot(), cache.state_bytes()
    for seq_id in range(10, 14):
        cache.allocate_blocks_for_tokens(seq_id, 4)
    cache.free_sequence(1)
    cache.reset_prefix_cache()
    cache.restore(before)
    assert (cache.state_bytes() == bytes_before).all()
    assert hit_blocks(cache, PROMPT) == 3
    assert len(cache.last_evicted) == len(cache.last_copies) == 0
    cache.restore(before, check=False)
    assert (cache.state_bytes() == bytes_before).all()


def test_a_clone_goes_its_own_way() -> None:
    cache = served()
    before = cache.state_bytes()
    clone = cache.clone()
    assert same(cache, clone)
    assert clone.config == cache.config
    clone.free_sequence(1)
    clone.evict(5)
    assert (cache.state_bytes() == before).all()
    assert 1 in cache


def test_a_snapshot_goes_into_memory_of_the_callers() -> None:
    cache = served()
    size = cache.snapshot_size()
    raw = np.full(size + 256, 7, np.uint8)
    out = raw[-raw.ctypes.data % 64 :][: size + 64]
    taken = cache.snapshot(out)
    assert np.shares_memory(taken, out)
    assert (taken == cache.snapshot()).all()
    assert (out[size:] == 7).all()
    with pytest.raises(nbkv.ArgumentError, match="aligned and at least"):
        cache.snapshot(out[: size - 1])
    with pytest.raises(nbkv.ArgumentError, match="aligned and at least"):
        cache.snapshot(raw[-raw.ctypes.data % 64 + 1 :])
    with pytest.raises(nbkv.ArgumentError, match="its own"):
        cache.snapshot(cache.writable_arena())


def test_a_snapshot_may_lie_anywhere() -> None:
    cache = served()
    taken = cache.snapshot()
    askew = np.empty(len(taken) + 1, np.uint8)[1:]
    askew[:] = taken
    assert same(nbkv.PagedKVCache.from_snapshot(askew), cache)
    askew.flags.writeable = False
    cache.restore(askew)
    with pytest.raises(TypeError, match="numpy array"):
        cache.restore(taken.tobytes())  # type: ignore[arg-type]
    with pytest.raises(nbkv.ArgumentError, match="uint8"):
        cache.restore(taken.view(np.int8))  # type: ignore[arg-type]


def test_plans_of_before_are_refused_and_can_be_withdrawn() -> None:
    cache = make_cache(16, 2)
    handle, _ = cache.admit(1, PROMPT)
    plan = cache.plan(handles(handle), 4)
    copy = nbkv.PagedKVCache.from_snapshot(cache.snapshot())
    with pytest.raises(nbkv.StepError, match="plan of this cache"):
        copy.commit(plan)
    with pytest.raises(nbkv.StepError):
        copy.plan(handles(handle), 4)
    lost = copy.fail(int(copy.header["committed_step"][0]) + 1)
    assert lost["seq_id"].tolist() == [1]
    copy.commit(copy.plan(handles(handle), 4))
    cache.restore(cache.snapshot())
    with pytest.raises(nbkv.StepError):
        cache.commit(plan)
    cache.fail(1)
    again = cache.plan(handles(handle), 4, out=plan.buffers)
    cache.commit(again)
    cache.check_integrity()


def test_a_file_comes_back_and_finds_its_prefixes(tmp_path: Path) -> None:
    cache, path = served(), tmp_path / "cache.nbkv"
    cache.save(path)
    loaded = nbkv.PagedKVCache.load(path)
    assert same(cache, loaded)
    assert loaded.config == cache.config
    assert hit_blocks(loaded, PROMPT) == 3
    loaded.append_token(1)
    loaded.save(str(path))  # over the old one
    assert same(nbkv.PagedKVCache.load(path), loaded)
    assert os.listdir(tmp_path) == ["cache.nbkv"]


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.nbkv"
    served().save(path)
    whole = path.read_bytes()
    for size in [*range(0, 200, 13), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(nbkv.SnapshotError, match=r"cache\.nbkv: .*cut off"):
            nbkv.PagedKVCache.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(nbkv.SnapshotError, match="bytes, not"):
        nbkv.PagedKVCache.load(path)


def test_a_file_with_any_bit_flipped_is_refused(tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "cache.nbkv"
    served().save(path)
    whole = bytearray(path.read_bytes())
    places = [*range(PREAMBLE_DTYPE.itemsize), *rng.sample(range(len(whole)), 200)]
    for place in places:
        bit = 1 << rng.randrange(8)
        whole[place] ^= bit
        path.write_bytes(whole)
        with pytest.raises(nbkv.SnapshotError):
            nbkv.PagedKVCache.load(path)
        whole[place] ^= bit


def changed(path: Path, field: str, value: Any) -> None:
    data = np.fromfile(path, np.uint8)
    data[: PREAMBLE_DTYPE.itemsize].view(PREAMBLE_DTYPE)[field] = value
    data.tofile(path)


def test_foreign_files_and_other_versions_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cache.nbkv"
    path.write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(nbkv.SnapshotError, match="no snapshot of nbkv"):
        nbkv.PagedKVCache.load(path)
    served().save(path)
    changed(path, "format_version", 99)
    with pytest.raises(nbkv.SnapshotError, match="format version 99"):
        nbkv.PagedKVCache.load(path)
    served().save(path)
    changed(path, "layout_version", 98)
    with pytest.raises(nbkv.SnapshotError, match="layout version 98"):
        nbkv.PagedKVCache.load(path)
    with pytest.raises(FileNotFoundError):
        nbkv.PagedKVCache.load(tmp_path / "nowhere")


def test_a_file_saved_from_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    cache, path = served(), tmp_path / "cache.nbkv"
    cache.writable_arena()[cache.header["blocks_start"][0]] ^= 64
    cache.save(path)
    with pytest.raises(nbkv.IntegrityError, match=r"cache\.nbkv: block 0: ref_count"):
        nbkv.PagedKVCache.load(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_save_that_fails_leaves_what_was(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, path = served(), tmp_path / "cache.nbkv"
    cache.save(path)
    before = path.read_bytes()
    cache.append_token(1)

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(OSError, match="disk full"):
        cache.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["cache.nbkv"]


def test_a_save_is_forced_to_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]
        )
    served().save(tmp_path / "cache.nbkv")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_snapshot_of_another_configuration_is_refused() -> None:
    before = served().snapshot()
    other = make_cache(32, 2)
    state = other.state_bytes()
    with pytest.raises(nbkv.SnapshotError, match="num_blocks is 16, this cache's is 32"):
        other.restore(before)
    assert (other.state_bytes() == state).all()


def test_a_damaged_snapshot_changes_nothing() -> None:
    cache = served()
    taken = cache.snapshot()
    damaged = cache.clone()
    damaged.writable_arena()[damaged.header["blocks_start"][0]] ^= 64
    state = cache.state_bytes()
    with pytest.raises(nbkv.IntegrityError, match="block 0: ref_count"):
        cache.restore(damaged.snapshot())
    assert (cache.state_bytes() == state).all()
    assert (cache.snapshot() == taken).all()
    with pytest.raises(nbkv.IntegrityError):
        nbkv.PagedKVCache.from_snapshot(damaged.snapshot())
    damaged.writable_arena()[0] ^= 1
    with pytest.raises(nbkv.IntegrityError, match="header: magic"):
        nbkv.PagedKVCache.from_snapshot(damaged.snapshot(), check=False)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_bytes_are_read_or_refused(policy: str, rng: random.Random) -> None:
    """In memory there is no checksum: the parts are checked, then the content is audited."""
    taken = crowded(policy).snapshot()
    num_read = 0
    for _ in range(100 if INTERPRETED else 1000):
        snapshot = taken.copy()
        for _ in range(rng.choice([1, 1, 3, 30])):
            reach = rng.choice([128, 1024, len(snapshot)])
            snapshot[rng.randrange(reach)] = rng.choice([0, 1, 127, 128, 255])
        try:
            cache = nbkv.PagedKVCache.from_snapshot(snapshot)
        except (nbkv.SnapshotError, nbkv.IntegrityError):
            continue
        num_read += 1
        cache.check_integrity()
    assert num_read < 500
