"""Memory is lent again when nobody views it, and never before."""

import sys

import numpy as np
import paged_cache_support as support
import pytest

from nbkv.integrations.transformers.scratch import Scratch

torch = support.torch
FLOAT = np.dtype(np.float32)


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="needs reference counts")
def test_memory_is_lent_again_once_nothing_views_it() -> None:
    scratch = Scratch()
    first = scratch.lend((4, 6), FLOAT)
    address = place(first)
    assert address % 64 == 0
    del first
    again = scratch.lend((3, 5), np.dtype(np.uint16))
    assert (place(again), again.shape, again.dtype.name) == (address, (3, 5), "uint16")


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[:1],
        lambda array: array.view(np.int32).transpose()[1:],
        lambda array: torch.from_numpy(array)[0],
        lambda array: torch.from_numpy(array).view(torch.int32).detach()[:, :2],
    ],
)
def test_memory_that_is_viewed_is_left_alone(view) -> None:
    scratch = Scratch()
    kept = view(scratch.lend((4, 6), FLOAT))
    kept[...] = 5
    for size in (1, 4, 8):
        scratch.lend((size, 6), FLOAT)[...] = 7
    assert (kept == 5).all()


def test_more_memory_is_made_when_it_is_needed() -> None:
    scratch = Scratch()
    scratch.lend((4, 6), FLOAT)
    larger = scratch.lend((400, 6), FLOAT)
    larger[...] = 3
    assert larger.flags.carray
    assert place(larger) % 64 == 0
