"""Appending tokens: the step of a decode loop."""

import time

import numpy as np

from nbkv.bench.timing import busy_thread, flush_caches
from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig

BLOCK_SIZE = 16
CONTEXT = 2_048
STEPS = BLOCK_SIZE  # a round: each sequence opens one block, and fills it
SETUP_BATCH = 1_024


class Decoding:
    """A batch of sequences at `CONTEXT` tokens each.

    Parameters
    ----------
    num_sequences : int
        Of the batch.
    by_seq_id : bool
        Name them by seq_id in the calls, not by handle.
    """

    def __init__(self, num_sequences: int, by_seq_id: bool = False) -> None:
        blocks_each = CONTEXT // BLOCK_SIZE + 2
        self.cache = PagedKVCache(
            CacheConfig(
                BLOCK_SIZE,
                num_sequences * blocks_each,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                max_sequences=num_sequences,
                max_blocks_per_sequence=blocks_each,
            )
        )
        self.num_sequences = num_sequences
        # Spread over the id space, as a server's ids would be.
        self.seq_ids = np.arange(num_sequences, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        handles = [self.cache.add_sequence(int(seq_id)) for seq_id in self.seq_ids]
        self.names = self.seq_ids if by_seq_id else np.array(handles, np.int64)
        for first in range(0, num_sequences, SETUP_BATCH):
            self.cache.append_tokens(self.names[first : first + SETUP_BATCH], CONTEXT)
        self.counts = np.ones(num_sequences, np.int32)
        self.slots = np.empty(num_sequences, np.int64)

    def step(self) -> None:
        """Append one token to every sequence."""
        self.cache.append_tokens(self.names, self.counts, self.slots)

    def rewind(self) -> None:
        """Bring every sequence back to `CONTEXT` tokens."""
        for seq_id in self.seq_ids.tolist():
            self.cache.truncate(seq_id, CONTEXT)

    def step_seconds(self, cold: bool = False) -> list[float]:
        """Time each of `STEPS` steps, then rewind."""
        clock, seconds = time.perf_counter, []
        for _ in range(STEPS):
            if cold:
                flush_caches()
            began = clock()
            self.step()
            seconds.append(clock() - began)
        self.rewind()
        return seconds

    def nanoseconds_a_sequence(self, rounds: int, cold: bool = False) -> float:
        """Average over a whole block's steps, opening it included; best round."""
        if not cold:
            self.step_seconds()
        best = min(sum(self.step_seconds(cold)) for _ in range(rounds))
        return best / STEPS / self.num_sequences * 1e9


def append_token_nanoseconds(rounds: int, num_tokens: int = 4_096) -> float:
    """Time `append_token`, called from Python for one sequence after another."""
    decoding = Decoding(64)
    append, seq_ids = decoding.cache.append_token, decoding.seq_ids.tolist()
    calls = [seq_ids[i % 64] for i in range(min(num_tokens, 64 * STEPS))]
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for seq_id in calls:
            append(seq_id)
        best = min(best, time.perf_counter() - began)
        decoding.rewind()
    return best / len(calls) * 1e9


def busy_thread_ratio(rounds: int, num_sequences: int = 1_024) -> float:
    """Divide the p99 of a step beside a busy Python thread by the p50 of one alone."""
    decoding = Decoding(num_sequences)
    alone = [s for _ in range(rounds) for s in decoding.step_seconds()]
    with busy_thread():
        beside = [s for _ in range(rounds) for s in decoding.step_seconds()]
    return float(np.percentile(beside, 99) / np.percentile(alone, 50))
