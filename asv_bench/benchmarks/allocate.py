"""Blocks for a prompt, and giving them back."""

from nbkv.bench.blocks import long_free_microseconds, prompt_nanoseconds

ROUNDS = 100


def track_allocate_blocks_for_tokens():
    return prompt_nanoseconds(ROUNDS)[0]


track_allocate_blocks_for_tokens.unit = "ns/block"


def track_free_sequence():
    return prompt_nanoseconds(ROUNDS)[1]


track_free_sequence.unit = "ns/block"


def track_free_long_sequence():
    return long_free_microseconds(ROUNDS)


track_free_long_sequence.unit = "us"
