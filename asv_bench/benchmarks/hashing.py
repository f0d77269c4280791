"""Hashing the blocks of a prompt."""

import numpy as np

from nbkv import Salt, hash_tokens
from nbkv.bench.hashing import BLOCK_SIZE, LONG_PROMPT, nanoseconds_a_token

ROUNDS = 20
IMAGE_EVERY = 1_000


def track_long_prompt():
    return nanoseconds_a_token(ROUNDS)


track_long_prompt.unit = "ns/token"


class HashTokens:
    params = ([1, 8, BLOCK_SIZE, 128],)
    param_names = ("block size",)

    def setup(self, block_size):
        self.tokens = np.arange(LONG_PROMPT, dtype=np.int32)
        self.salt = Salt("tenant")
        self.images = [(i, i + 500, i) for i in range(0, LONG_PROMPT, IMAGE_EVERY)]
        hash_tokens(self.tokens, block_size)

    def time_plain(self, block_size):
        hash_tokens(self.tokens, block_size)

    def time_salted_with_images(self, block_size):
        hash_tokens(self.tokens, block_size, self.salt, self.images)
