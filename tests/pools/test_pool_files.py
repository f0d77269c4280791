"""A pool's file: read by a pool of any layout, or refused whole."""

import io

import numpy as np
import pytest
from pool_support import CASES, DTYPES, fill, make_config, make_pool, pair_of

import nbkv
from nbkv.pools import files


@pytest.mark.parametrize(("dtype", "place"), CASES)
def test_a_pool_of_another_layout_loads_what_was_saved(
    rng, dtype, place, tmp_path, monkeypatch
) -> None:
    # A few blocks at a time.
    monkeypatch.setattr(files, "_BATCH_BYTES", 3 * make_config(dtype).bytes_per_block)
    pool, plain = pair_of(rng, make_config(dtype), place)
    fill(rng, pool, plain)
    pool.zero([2])
    plain.zero(2)
    pool.save(tmp_path / "pool")
    for other in (("layer_major", "HND"), place):
        loaded = make_pool(make_config(dtype), other)
        loaded.load(str(tmp_path / "pool"))
        plain.assert_equals(loaded)
        assert loaded.fill_ratio == pool.fill_ratio == 6 / 7
        if dtype == "fp8":
            assert loaded.scales.tobytes() == pool.scales.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_are_the_same_whatever_the_layout(rng, dtype) -> None:
    first, plain = pair_of(rng, make_config(dtype), ("block_major", "NHD"))
    fill(rng, first, plain)
    second = make_pool(make_config(dtype), ("layer_major", "HND"))
    texts = [io.BytesIO(), io.BytesIO()]
    first.save(texts[0])
    texts[0].seek(0)
    second.load(texts[0])
    second.save(texts[1])
    assert texts[0].getvalue() == texts[1].getvalue()
    if dtype not in ("fp8", "int8"):
        assert texts[0].getvalue().endswith(plain.words.tobytes())


def test_open_files_are_read_from_where_they_stand(rng) -> None:
    pool, plain = pair_of(rng, make_config(), ("block_major", "NHD"))
    fill(rng, pool, plain)
    text = io.BytesIO(b"before")
    text.seek(6)
    pool.save(text)
    text.write(b"behind")
    text.seek(6)
    loaded = nbkv.HostPool(make_config())
    loaded.load(text)
    plain.assert_equals(loaded)
    assert text.read() == b"behind"


def spoiled(good: bytes, how: str) -> bytes:
    if how == "cut":
        return good[:-1]
    if how == "empty":
        return b""
    if how == "other":
        return b"PK" + good[2:]
    if how == "length":
        return good[:8] + b"\xff" * 8 + good[16:]
    return good[:16] + b"?" + good[17:]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", r"file is '\d+ bytes long'; it must be \d+ bytes long"),
        ("empty", "file is no pool's"),
        ("other", "file is no pool's"),
        ("length", "file is no pool's"),
        ("header", "file has a header that cannot be read"),
    ],
)
def test_a_spoiled_file_changes_nothing(rng, how, message) -> None:
    pool, plain = pair_of(rng, make_config("fp8"), ("block_major", "NHD"))
    fill(rng, pool, plain)
    text = io.BytesIO()
    nbkv.HostPool(make_config("fp8")).save(text)
    with pytest.raises(nbkv.ArgumentError, match=message):
        pool.load(io.BytesIO(spoiled(text.getvalue(), how)))
    plain.assert_equals(pool)
    assert pool.scales.tobytes() == plain.scales.tobytes()
    assert pool.fill_ratio == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 8}, "file's num_blocks is 7; it must be that of this pool, 8"),
        ({"head_dim": 9}, "file's head_dim is 8"),
        ({"dtype": "float16"}, "file's dtype is 'float32'"),
    ],
)
def test_a_file_of_another_shape_is_refused(options, message) -> None:
    text = io.BytesIO()
    nbkv.HostPool(make_config()).save(text)
    text.seek(0)
    other = nbkv.HostPool(make_config(**options))
    with pytest.raises(nbkv.ArgumentError, match=message):
        other.load(text)
    assert not np.count_nonzero(other.data)
