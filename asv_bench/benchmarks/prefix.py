"""Adding a prompt whose blocks are all cached, and letting it go again."""

import numpy as np

from nbkv import PagedKVCache
from nbkv.bench.blocks import BLOCK_SIZE, PROMPT_BLOCKS, small_config

NUM_PROMPTS = 64


class CachedPrompts:
    def setup(self):
        self.cache = PagedKVCache(small_config(NUM_PROMPTS * PROMPT_BLOCKS))
        hashes = np.arange(1, NUM_PROMPTS * PROMPT_BLOCKS + 1, dtype=np.uint64)
        self.prompts = list(hashes.reshape(NUM_PROMPTS, PROMPT_BLOCKS))
        self.time_add_and_free_64_prompts()
        self.cache.add_sequence(0, self.prompts[0])
        if self.cache.num_hit_tokens(0) != PROMPT_BLOCKS * BLOCK_SIZE:
            raise RuntimeError("the prompts are not cached: this would measure something else")
        self.cache.free_sequence(0)

    def time_add_and_free_64_prompts(self):
        for seq_id, hashes in enumerate(self.prompts):
            self.cache.add_sequence(seq_id, hashes)
            self.cache.free_sequence(seq_id)
