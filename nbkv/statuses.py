"""Status codes: what kernels return instead of raising.

A count, an id or a handle is at least 0; below 0 is one of these, and nothing has changed.
"""

from typing import Final

OK: Final = 0
OUT_OF_BLOCKS: Final = -2
UNKNOWN_SEQUENCE: Final = -3
STALE_HANDLE: Final = -4
DUPLICATE_SEQUENCE: Final = -5
SEQUENCE_EXISTS: Final = -6
TOO_MANY_SEQUENCES: Final = -7
TOO_MANY_BLOCKS: Final = -8
TOO_MANY_NAMES: Final = -9
NEGATIVE_COUNT: Final = -10
OUT_TOO_SMALL: Final = -11
NOT_LEADING: Final = -12
NAME_TAKEN: Final = -13
UNKNOWN_NAME: Final = -14
TOO_MANY_TOKENS: Final = -15
SHARE_TOO_LONG: Final = -16
NAMED_TOO_OFTEN: Final = -17
STEP_OUTSTANDING: Final = -18
STEP_NOT_NEXT: Final = -19
STEP_UNKNOWN: Final = -20
STEPS_UNCOMMITTED: Final = -21
TOKENS_PLANNED: Final = -22
BAD_ACCEPTED: Final = -23
BUFFERS_TOO_SMALL: Final = -24
TOO_MANY_EXTRAS: Final = -25
TOO_MANY_LEASES: Final = -26
TOO_MANY_LEASED: Final = -27
UNKNOWN_LEASE: Final = -28
TOKENS_MISSING: Final = -29
PINNED_TOO_OFTEN: Final = -30
BAD_PARENT: Final = -31
BELOW_WINDOW: Final = -32
BUFFERS_IN_USE: Final = -33
DIFFERENT_PROMPTS: Final = -34
OUT_OVERLAPS: Final = -35
FOREIGN_PLAN: Final = -36
STALE_BLOCK: Final = -40
BLOCK_OUT_OF_RANGE: Final = -41
BLOCK_IS_FREE: Final = -42
BLOCK_IS_EMPTY: Final = -43
BLOCK_NOT_HELD: Final = -44
HELD_TOO_OFTEN: Final = -45
PARENT_NOT_HELD: Final = -46
NOT_INDEXABLE: Final = -47
KEYS_UNKNOWN: Final = -48

__all__ = [name for name in dir() if name.isupper() and not name.startswith("_")]
