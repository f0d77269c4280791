"""Chain hashes of a long prompt."""

import numpy as np

from nbkv.bench.timing import best_of, seconds_of
from nbkv.hashing import hash_tokens

BLOCK_SIZE = 16
LONG_PROMPT = 100_000


def nanoseconds_a_token(rounds: int) -> float:
    """Time `hash_tokens` of 100,000 tokens, a token."""
    tokens = np.random.default_rng(1).integers(0, 128_000, LONG_PROMPT, np.int32)
    return best_of(rounds, lambda: seconds_of(lambda: hash_tokens(tokens, BLOCK_SIZE))) * (
        1e9 / LONG_PROMPT
    )
