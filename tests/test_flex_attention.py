"""torch's own PagedAttention, run on our page tables, attends as over contiguous keys."""

import random

import numpy as np
import pytest
from page_support import plant_hole
from support import make_cache

import nbkv
from nbkv import page_tables

torch = pytest.importorskip("torch", reason="needs torch: pip install '.[test-torch]'")
flex = pytest.importorskip("torch.nn.attention.flex_attention")
paged = pytest.importorskip("torch.nn.attention.experimental._paged_attention")

PAGE, NUM_PAGES, NUM_HEADS, HEAD_DIM = 16, 40, 2, 16
LENGTHS = [37, 16, 1, 50]
LONGEST = 64  # a multiple of PAGE: flex masks whole blocks of keys
WINDOW = 20


def scattered_cache(rng: random.Random) -> nbkv.PagedKVCache:
    """Make sequences whose blocks lie among each other's, in no order."""
    cache = make_cache(NUM_PAGES, PAGE, max_sequences=16)
    for seq_id in range(10, 16):
        cache.allocate_blocks_for_tokens(seq_id, 6 * PAGE)
    for seq_id in rng.sample(range(10, 16), 6):
        cache.free_sequence(seq_id)
    for seq_id in range(len(LENGTHS)):
        cache.add_sequence(seq_id)
    left = dict(enumerate(LENGTHS))
    while left:
        seq_id = rng.choice(list(left))
        count = min(left[seq_id], rng.randint(1, PAGE))
        cache.append_tokens(np.array([seq_id], np.uint64), count)
        left[seq_id] -= count
        if not left[seq_id]:
            del left[seq_id]
    return cache


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def windowed(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", [causal, windowed])
def test_paged_attention_equals_attention_over_contiguous_keys(rng: random.Random, mask) -> None:
    cache = scattered_cache(rng)
    batch = len(LENGTHS)
    names = np.arange(batch, dtype=np.uint64)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    shape = (batch, NUM_HEADS, LONGEST, HEAD_DIM)
    query, keys, values = (torch.randn(shape, generator=generator) for _ in range(3))

    # Keys and values go to the pool by slot.
    pool = torch.full((2, NUM_HEADS, NUM_PAGES * PAGE, HEAD_DIM), 1e3)
    slots = page_tables.slot_mapping(
        cache, names, 0, np.array(LENGTHS, np.int32), np.empty(sum(LENGTHS), np.int64)
    )
    for kv, source in enumerate((keys, values)):
        rows = torch.cat([source[i, :, :length] for i, length in enumerate(LENGTHS)], dim=1)
        pool[kv][:, torch.from_numpy(slots)] = rows

    if mask is windowed:
        # All but the last token's window of the longest sequence has gone.
        plant_hole(cache, 3, (LENGTHS[3] - WINDOW) // PAGE)
    attention = paged.PagedAttention(NUM_PAGES, PAGE, batch, device="cpu")
    page_tables.flex_attention(
        cache, names, attention.page_table.numpy(), attention.physical_to_logical.numpy()
    )

    lengths = torch.tensor(LENGTHS)
    # The last token's query only, as in decoding: it sees no hole.
    last = torch.stack([query[i, :, length - 1 : length] for i, length in enumerate(LENGTHS)])

    def at_the_end(b, h, q_idx, kv_idx):
        return mask(b, h, lengths[b] - 1, kv_idx)

    logical = flex.create_block_mask(
        at_the_end, batch, None, 1, LONGEST, device="cpu", BLOCK_SIZE=(1, PAGE)
    )
    physical = attention.convert_logical_block_mask(logical, kv_len=lengths)
    got = flex.flex_attention(last, pool[:1], pool[1:], block_mask=physical)

    for i, length in enumerate(LENGTHS):
        seen = mask(0, 0, length - 1, torch.arange(length))
        want = torch.nn.functional.scaled_dot_product_attention(
            last[i], keys[i, :, :length], values[i, :, :length], attn_mask=seen[None, None]
        )
        torch.testing.assert_close(got[i], want, rtol=1e-5, atol=1e-5)


def test_the_tables_are_what_paged_attention_itself_makes(rng: random.Random) -> None:
    cache = scattered_cache(rng)
    attention = paged.PagedAttention(NUM_PAGES, PAGE, len(LENGTHS), device="cpu")
    table = np.empty((len(LENGTHS), NUM_PAGES), np.int64)
    inverse = np.empty((len(LENGTHS), NUM_PAGES), np.int64)
    page_tables.flex_attention(cache, np.arange(len(LENGTHS), dtype=np.uint64), table, inverse)
    # Let it hand out the same pages: it takes them from the end of its list, in its order.
    for seq_id, length in enumerate(LENGTHS):
        attention.empty_pages = cache.block_table(seq_id).tolist()
        attention.reserve(torch.tensor([seq_id]), torch.tensor([length]))
    assert table.tolist() == attention.page_table.tolist()
    assert inverse.tolist() == attention.physical_to_logical.tolist()
