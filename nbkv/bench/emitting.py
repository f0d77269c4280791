"""Emitting page tables of a decoding batch."""

from collections.abc import Callable

import numpy as np

from nbkv import page_tables
from nbkv.bench.decoding import BLOCK_SIZE, CONTEXT, Decoding
from nbkv.bench.timing import best_of, flush_caches, seconds_of

NUM_SEQUENCES = 256
PAGES_EACH = CONTEXT // BLOCK_SIZE


class Emitting:
    """Page tables of `NUM_SEQUENCES` sequences at `CONTEXT` tokens, and arrays to take them.

    Parameters
    ----------
    by_seq_id : bool
        Name them by seq_id in the calls, not by handle.
    """

    def __init__(self, by_seq_id: bool = False) -> None:
        decoding = Decoding(NUM_SEQUENCES, by_seq_id)
        self.cache, self.names, self.counts = decoding.cache, decoding.names, decoding.counts
        n = NUM_SEQUENCES
        self.indptr = np.empty(n + 1, np.int32)
        self.indices = np.empty(n * PAGES_EACH, np.int32)
        self.last_page_len = np.empty(n, np.int32)
        self.seq_lens = np.empty(n, np.int32)
        self.slots = np.empty(n, np.int64)
        self.table = np.empty((n, PAGES_EACH), np.int32)
        self.offsets = np.empty((1, n, 2, PAGES_EACH), np.int32)
        self.reads = np.empty(n * CONTEXT, np.int64)

    def csr_step(self) -> None:
        """Emit all that FlashInfer reads in one step."""
        page_tables.csr_step(
            self.cache,
            self.names,
            self.counts,
            self.indptr,
            self.indices,
            self.last_page_len,
            self.seq_lens,
            self.slots,
        )

    def block_tables(self) -> None:
        """Emit rows."""
        page_tables.block_tables(self.cache, self.names, self.table)

    def tensorrt_llm(self) -> None:
        """Emit block offsets."""
        page_tables.tensorrt_llm(self.cache, self.names, self.offsets)

    def hf_indices(self) -> None:
        """Emit token rows."""
        page_tables.hf_indices(self.cache, self.names, self.counts, self.slots, self.reads)

    @staticmethod
    def microseconds(call: Callable[[], None], rounds: int, cold: bool = False) -> float:
        """Time one of the calls; best round."""

        def once() -> float:
            if cold:
                flush_caches()
            return seconds_of(call)

        return best_of(rounds, once) * 1e6
