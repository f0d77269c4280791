"""What quantising does with rows of special numbers, end to end."""

import ml_dtypes
import numpy as np
import pytest
from pool_support import LAYOUTS, make_config, make_pool, quantise_int8

import nbkv

INF, NAN = np.inf, np.nan
ROWS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, -2, INF, 0.5, -INF, 0, NAN, 2],
        [INF, -INF, NAN, INF, 0, 0, 0, 0],
        [1e-45, 0, -1e-45, 3e-39, 0, 0, 0, 0],
        [3e38, -3e38, 1, 0, 0, 0, 0, 0],
        [127, 126.5, 0.5, 1.5, 2.5, -0.5, -1.5, 63.5],
    ],
    np.float32,
)


@pytest.mark.parametrize("place", LAYOUTS)
def test_int8_rows_of_special_numbers(place) -> None:
    config = make_config("int8", num_kv_heads=1)
    pool = make_pool(config, place)
    rows = ROWS[:, None, :]
    pool.append(1, rows, -rows, np.arange(6) + 3)
    for kv, sign in ((0, 1), (1, -1)):
        words, scales = quantise_int8(sign * rows)
        got = pool.data[:, 1, kv].reshape(-1, 1, 8)[3:9]
        assert got.tolist() == words.tolist()
        assert pool.scales[:, 1, kv].reshape(-1, 1)[3:9].tobytes() == scales.tobytes()
    assert not pool.data[0, 1, 0, 3].any()
    assert pool.scales[1, 1, 0, 1] == 0  # nothing finite but 0: the row is 0
    got = pool.gather(1, [0, 1, 2], 12)[0, 4]
    assert got.tolist() == [[pytest.approx(x, abs=0.01) for x in (1, -2, 2, 0.5, -2, 0, 0, 2)]]


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_fp8_rows_of_special_numbers(place, kind) -> None:
    config = make_config("fp8", num_kv_heads=1)
    pool = make_pool(config, place)
    pool.set_scales(0.5)
    with np.errstate(over="ignore"):
        rows = ROWS[:, None, :].astype(kind)
        want = np.clip(rows.astype(np.float32) * np.float32(2), -448, 448)
    pool.append(0, rows, rows, np.arange(6))
    want = want.astype(ml_dtypes.float8_e4m3fn)
    assert pool.data[:, 0, 0].reshape(-1, 1, 8)[:6].tobytes() == want.tobytes()
    got = pool.gather(0, [0, 1], 6)
    assert got[1].tobytes() == (want.astype(np.float32) * np.float32(0.5)).tobytes()
    for out_kind in (np.float16, ml_dtypes.bfloat16):
        out = np.empty((2, 6, 1, 8), out_kind)
        pool.gather(0, [0, 1], 6, out)
        assert out.tobytes() == got.astype(out_kind).tobytes()


def test_words_of_bfloat16_may_be_uint16_or_ml_dtypes(rng) -> None:
    rows = ROWS[:, None, :].astype(ml_dtypes.bfloat16)
    for dtype in ("bfloat16", "fp8", "int8"):
        first = nbkv.HostPool(make_config(dtype, num_kv_heads=1))
        second = nbkv.HostPool(make_config(dtype, num_kv_heads=1))
        first.append(0, rows, rows, np.arange(6))
        second.append(0, rows.view(np.uint16), rows.view(np.uint16), np.arange(6))
        assert first.data.tobytes() == second.data.tobytes()
        assert first.data.any()
        out = np.empty((2, 6, 1, 8), np.uint16)
        first.gather(0, [0, 1], 6, out)
        again = np.empty((2, 6, 1, 8), ml_dtypes.bfloat16)
        first.gather(0, [0, 1], 6, again)
        assert out.tobytes() == again.tobytes()
