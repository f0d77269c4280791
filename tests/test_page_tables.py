"""`nbkv.page_tables`: every form of a page table against a rendering in plain Python."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from page_support import CANARY, Rendering, canaries, join, random_cache, starts_of
from support import INTERPRETED, make_cache

import nbkv
from nbkv import page_tables

NUM_ROUNDS = 30 if INTERPRETED else 300
Case = tuple[nbkv.PagedKVCache, np.ndarray, Rendering]


@pytest.fixture
def cases(rng: random.Random) -> Iterator[Case]:
    """Make many batches over random caches; by handle or seq_id, whole or shorter."""

    def each() -> Iterator[Case]:
        for _ in range(NUM_ROUNDS):
            cache = random_cache(rng)
            want = Rendering(cache, rng, shorter=rng.random() < 0.5)
            before = cache.arena.copy()
            yield cache, want.names(cache, rng.random() < 0.5), want
            assert (cache.arena == before).all()

    return each()


def test_block_tables_are_padded_rows(cases: Iterator[Case], rng: random.Random) -> None:
    for cache, names, want in cases:
        padding = rng.choice([-1, 0, 63])
        width = max(map(len, want.tables), default=0) + rng.randint(0, 2)
        out = canaries((len(names) + 1, width))
        rows = page_tables.block_tables(
            cache, names, out, padding=padding, num_tokens=want.num_tokens
        )
        assert rows.shape == (len(names), width)
        assert np.shares_memory(rows, out) or rows.size == 0
        assert rows.tolist() == [
            [padding if block == -1 else block for block in table]
            + [padding] * (width - len(table))
            for table in want.tables
        ]
        assert (out[len(names) :] == CANARY).all()


def test_seq_lens_are_all_tokens(cases: Iterator[Case]) -> None:
    for cache, names, want in cases:
        out = canaries(len(names) + 1)
        assert page_tables.seq_lens(cache, names, out).tolist() == want.full_lengths
        assert out[len(names)] == CANARY


def test_query_start_loc_sums_counts_up() -> None:
    out = canaries(5)
    starts = page_tables.query_start_loc(np.array([3, 0, 2], np.int32), out)
    assert starts.tolist() == [0, 3, 3, 5]
    assert out.tolist() == [0, 3, 3, 5, CANARY]
    assert page_tables.query_start_loc(np.array([], np.int32), out).tolist() == [0]


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_slot_mapping_gives_slots_and_minus_one_in_holes(
    cases: Iterator[Case], rng: random.Random, dtype: type
) -> None:
    for cache, names, want in cases:
        starts = [rng.randint(0, length) for length in want.full_lengths]
        counts = [
            rng.randint(0, length - start)
            for length, start in zip(want.full_lengths, starts, strict=True)
        ]
        out = canaries(sum(counts) + 2, dtype)
        slots = page_tables.slot_mapping(
            cache, names, np.array(starts, np.int32), np.array(counts, np.int32), out
        )
        assert slots.dtype == dtype
        assert slots.tolist() == [
            slot
            for i, (start, count) in enumerate(zip(starts, counts, strict=True))
            for slot in want.slots(i, start, count)
        ]
        assert (out[len(slots) :] == CANARY).all()


def test_one_start_and_one_count_serve_the_whole_batch() -> None:
    cache = make_cache(8, 4)
    cache.allocate_blocks_for_tokens(1, 6)
    cache.allocate_blocks_for_tokens(2, 8)
    names = np.array([1, 2], np.uint64)
    slots = page_tables.slot_mapping(cache, names, 3, 2, canaries(4, np.int64))
    assert slots.tolist() == [3, 4, 11, 12]


def test_flashinfer_lists_pages_and_leaves_holes_out(cases: Iterator[Case]) -> None:
    for cache, names, want in cases:
        pages, batch = want.pages(), len(names)
        indptr, last = canaries(batch + 2), canaries(batch + 1)
        indices = canaries(sum(map(len, pages)) + 1)
        count = page_tables.flashinfer(
            cache, names, indptr, indices, last, num_tokens=want.num_tokens
        )
        assert count == sum(map(len, pages))
        assert indptr.tolist() == [*starts_of(pages), CANARY]
        assert indices.tolist() == [*join(pages), CANARY]
        assert last.tolist() == [*want.last_page_len(), CANARY]


def test_csr_step_writes_pages_lengths_and_the_last_slots(
    cases: Iterator[Case], rng: random.Random
) -> None:
    for cache, names, want in cases:
        pages, batch = want.pages(), len(names)
        counts: Any = np.array(want.counts, np.int32)
        if rng.random() < 0.2:
            counts = min(want.lengths, default=0)
            want.counts = [counts] * batch
        indptr, last, lens = canaries(batch + 2), canaries(batch + 1), canaries(batch + 1)
        indices = canaries(sum(map(len, pages)) + 1)
        slots = canaries(sum(want.counts) + 1, np.int64)
        written = page_tables.csr_step(
            cache, names, counts, indptr, indices, last, lens, slots, num_tokens=want.num_tokens
        )
        assert written == (sum(map(len, pages)), sum(want.counts))
        assert indptr.tolist() == [*starts_of(pages), CANARY]
        assert indices.tolist() == [*join(pages), CANARY]
        assert last.tolist() == [*want.last_page_len(), CANARY]
        assert lens.tolist() == [*want.lengths, CANARY]
        assert slots.tolist() == [*want.last_slots(), CANARY]


def test_flex_attention_maps_columns_to_blocks_and_back(cases: Iterator[Case]) -> None:
    for cache, names, want in cases:
        width = max(map(len, want.tables), default=0) + 1
        table = canaries((len(names) + 1, width), np.int64)
        inverse = canaries((len(names) + 1, cache.total_blocks), np.int64)
        got_table, got_inverse = page_tables.flex_attention(
            cache, names, table, inverse, num_tokens=want.num_tokens
        )
        assert got_table.tolist() == [row + [-1] * (width - len(row)) for row in want.tables]
        assert got_inverse.tolist() == [
            [row.index(block) if block in row else -1 for block in range(cache.total_blocks)]
            for row in want.tables
        ]
        assert (table[len(names) :] == CANARY).all()
        assert (inverse[len(names) :] == CANARY).all()


def test_tensorrt_llm_points_at_keys_and_values(cases: Iterator[Case]) -> None:
    for cache, names, want in cases:
        width = max(map(len, want.tables), default=0) + 1
        scale = 2 * cache.config.num_layers
        out = canaries((1, len(names) + 1, 2, width))
        rows = page_tables.tensorrt_llm(cache, names, out, padding=0, num_tokens=want.num_tokens)
        assert rows.tolist() == [
            [
                [
                    [0 if block == -1 else block * scale + kv for block in row]
                    + [0] * (width - len(row))
                    for kv in (0, 1)
                ]
                for row in want.tables
            ]
        ]
        assert (out[0, len(names) :] == CANARY).all()


def test_hf_indices_write_the_last_tokens_and_read_all_outside_holes(
    cases: Iterator[Case], rng: random.Random
) -> None:
    for cache, names, want in cases:
        stride = rng.choice([None, want.block_size + 3])
        reads = [
            slot
            for i, length in enumerate(want.lengths)
            for slot in want.slots(i, 0, length, stride)
            if slot != -1
        ]
        write_index = canaries(sum(want.counts) + 1, np.int64)
        read_index = canaries(len(reads) + 1, np.int64)
        got = page_tables.hf_indices(
            cache,
            names,
            np.array(want.counts, np.int32),
            write_index,
            read_index,
            block_stride=stride,
            num_tokens=want.num_tokens,
        )
        assert [index.tolist() for index in got] == [want.last_slots(stride), reads]
        assert write_index[-1] == read_index[-1] == CANARY


def test_apply_changes_brings_a_copy_up_to_date(rng: random.Random) -> None:
    table = canaries((4, 3))
    want = table.tolist()
    changes = [(0, rng.randrange(4), rng.randrange(3), rng.choice([-1, 5, 7])) for _ in range(40)]
    for _, row, column, block in changes:
        want[row][column] = block
    page_tables.apply_changes(table, np.array(changes, np.int32), num_blocks=8)
    assert table.tolist() == want
    page_tables.apply_changes(table, np.empty((0, 4), np.int32))
    assert table.tolist() == want
