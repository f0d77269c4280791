"""The arena: one ``uint8`` array that holds all state, as sections of flat records.

Equations between the counters (``header``), the records and the tables::

    num_free_blocks + num_cached_blocks + num_held_blocks == num_blocks
    num_free_blocks == (num_blocks - num_fresh_blocks) + length of the free list + num_fenced_free
    num_fenced_blocks == length of the fence queue: num_fenced_free FREE ones, the rest CACHED
    sum(blocks.ref_count) == entries in all tables (holes aside) + sum(external_holds)
    num_external_holds == sum(external_holds)
    external_holds[b] >= 1, b linked and with a parent  =>  external_holds[parent] >= 1
    sum(blocks.pin_count) == blocks in all leases
    blocks.state == HELD    <=>  ref_count + pin_count >= 1
    blocks.state == CACHED  <=>  not held, and INDEXED or NAMED
    blocks.num_children == number of linked (INDEXED or NAMED) blocks whose parent this is
    sequences.num_blocks >= ceil(sequences.num_tokens / block_size)
    sequences.num_known <= sequences.num_committed <= sequences.num_tokens
    completed_step <= num_steps, committed_step <= num_steps

A zeroed arena is a valid empty one, so creating a cache touches one page; whatever lies
above a watermark (``num_fresh_blocks``, ``num_fresh_rows``, ``num_fresh_names``) is
meaningless and never read.
"""

from typing import Final

import numpy as np

MAGIC: Final = 0x0056_4B42_4E00_0001
LAYOUT_VERSION: Final = 2
HEADER_BYTES: Final = 1024
ALIGNMENT: Final = 64

NO_BLOCK: Final = -1
NO_ROW: Final = -1

# Slots of an index bucket: one cache line.
INDEX_WAYS: Final = 8

# Numbers of a row of the runtime's copies: source, destination, tokens kept.
COPY_FIELDS: Final = 3

# Chain hashes computed ahead, at most: a power of two.
HASH_RING: Final = 32

# Eviction policies, as kernels see them.
LRU: Final = 0
FIFO: Final = 1
FREQUENCY: Final = 2

# States of a block. Zero must be FREE: a fresh arena is all zero.
FREE: Final = 0
HELD: Final = 1
CACHED: Final = 2

# Flags of a block.
INDEXED: Final = 1  # its key is in prefix_index
NAMED: Final = 2  # at least one named prefix covers it
LOADING: Final = 4  # its content is on its way in and must not be hit yet
DETACHED: Final = 8  # cut from its parent: never matched by a walk
CALLER_KEYED: Final = 16  # its key is a hash the caller made, a domain of its own
FENCED: Final = 32  # released under steps still in flight: waits in the fence queue
HAS_EXTRA: Final = 64  # its key's extra_key is not 0

# States and flags of a sequence row.
ROW_FREE: Final = 0
ROW_ACTIVE: Final = 1
TAIL_OPEN: Final = 1  # may write at tail_fill of tail_block without looking at its record
IN_BATCH: Final = 2  # seen by the batch call now running (never set between calls)
COPY_TAIL: Final = 4  # the batch call now running copies its tail (never set between calls)
UNINDEXABLE: Final = 8  # its blocks must not be indexed any more
PARTIAL_HIT: Final = 16  # its last block is another's, of which it uses the beginning: copy it
DEFERRED: Final = 32  # the plan now running leaves it out (never set between calls)
PREEMPTED: Final = 64  # the plan now running ends it (never set between calls)

SECTIONS: Final = (
    "runtime",
    "blocks",
    "block_keys",
    "tokens",
    "sequences",
    "sequence_keys",
    "seq_index",
    "prefix_index",
    "names",
    "name_index",
    "ranks",
    "extras",
    "leases",
    "leased",
    "external_holds",
    "tables",
)

HEADER_FIELDS: Final = (
    "magic",
    "layout_version",
    "arena_bytes",
    # Configuration. bytes_per_block is 0 where int64 cannot hold it.
    "block_size",
    "num_blocks",
    "bytes_per_block",
    "policy",
    "num_groups",
    "run_ahead",
    "hit_visibility",
    "partial_reuse",
    "dedup",
    "window",
    "watermark",
    "max_sequences",
    "max_blocks_per_sequence",
    "max_named_prefixes",
    "max_leases",
    "max_leased_blocks",
    "max_extra_keys",
    "table_stride",
    # Blocks: those below num_fresh_blocks have been handed out at least once.
    "num_fresh_blocks",
    "num_free_blocks",
    "num_cached_blocks",
    "num_held_blocks",
    "num_fenced_blocks",
    "num_fenced_free",
    "free_head",
    "free_tail",
    # Blocks waiting for their fence, in the order of their release.
    "fence_head",
    "fence_tail",
    # Rows of sequences and of named prefixes, with their free lists.
    "num_sequences",
    "num_fresh_rows",
    "free_row",
    "num_names",
    "num_fresh_names",
    "free_name",
    "num_leases",
    "num_fresh_leases",
    "free_lease",
    "num_leased_blocks",
    "num_fresh_leased",
    "free_leased",
    "num_extra_keys",
    "num_fresh_extras",
    "free_extra",
    "num_external_holds",
    # Masks of the indexes: buckets of INDEX_WAYS slots - 1, buckets a power of two.
    "seq_index_mask",
    "prefix_index_mask",
    "name_index_mask",
    # Logical clocks.
    "recency",
    "alloc_counter",
    "arrivals",
    "num_steps",
    "committed_step",
    "completed_step",
    # The recency ring (lru) and the rank heap (fifo, frequency), in section ranks.
    "ring_mask",
    "ring_head",
    "ring_tail",
    "ring_write",
    "ring_read",
    "ring_sweeping",
    "heap_size",
    # What `CacheStats` shows.
    "total_allocations",
    "total_deallocations",
    "cache_hits",
    "cache_misses",
    "evictions",
    "cow_copies",
    "preemptions",
    # Keys the chain hashes.
    "hash_seed",
    # Byte offsets of each section, its end excluded.
    *(f"{name}_{edge}" for name in SECTIONS for edge in ("start", "end")),
)

# The header: int64 each, at offset 0. Counts unless the comments above say otherwise.
HEADER_DTYPE: Final = np.dtype([(name, "i8") for name in HEADER_FIELDS])

# What is excluded from digests and from byte comparison: reports of the latest call and
# scratch. The arrays evicted (int32, num_blocks), copies (int32, max_sequences x 3: source,
# destination, tokens kept), scratch (int32, max_sequences + max(max_sequences,
# max_blocks_per_sequence)) and hashes (uint64, HASH_RING x 2) follow this record.
RUNTIME_DTYPE: Final = np.dtype(
    [
        ("writer", "i8"),  # process id of the writer, 0 when none
        ("sequence_lock", "i8"),  # odd while a mutating call runs
        ("busy", "i8"),  # raised while a long call runs without the GIL
        ("created_ns", "i8"),  # wall clock at creation, ns
        ("identity", "i8"),  # random: tells plans of this cache from those of another
        ("num_evicted", "i8"),  # rows of evicted that the latest mutating call wrote
        ("num_copies", "i8"),  # rows of copies that it wrote
        ("detail", "i8"),  # of a refusal: blocks needed, or the position in the batch
        ("set_aside", "i8"),  # of OUT_OF_BLOCKS: cached blocks the call would itself hold
        ("evicted_start", "i8"),  # byte offsets in the arena, and the end of each array
        ("evicted_end", "i8"),
        ("copies_start", "i8"),
        ("copies_end", "i8"),
        ("scratch_start", "i8"),
        ("scratch_end", "i8"),
        ("hashes_start", "i8"),
        ("hashes_end", "i8"),
    ]
)

# One cache line. link and writer mean something in one state only:
#   FREE: link = next on the free list; CACHED: link = slot in the ring or in the heap
#   (NO_BLOCK when not in the heap); HELD: writer = row that has it as its open tail.
#   FENCED (FREE or CACHED): link = next, writer = the one before in the fence queue.
# An open tail's num_tokens and access_count lag behind: the valid tokens are the writer's
# tail_fill, and tail_writes is still to be added. They are settled when the tail closes.
BLOCK_DTYPE: Final = np.dtype(
    [
        ("ref_count", "i4"),  # sequences and adapters that hold it
        ("pin_count", "i2"),  # leases that cover it
        ("num_tokens", "i2"),  # valid tokens, 0..block_size
        ("state", "i1"),  # FREE, HELD, CACHED
        ("flags", "u1"),  # INDEXED | NAMED | LOADING | DETACHED | CALLER_KEYED | FENCED | HAS_EXTRA
        ("group", "u1"),  # layer group, 0
        ("priority", "i1"),  # reserved for soft priorities, 0
        ("generation", "i4"),  # how often it was handed out (wraps)
        ("ready_step", "i4"),  # step whose commit published its content
        ("fence_step", "i4"),  # step that must complete before it is handed out again
        ("link", "i4"),  # see above
        ("writer", "i4"),  # see above; NO_ROW
        ("parent", "i4"),  # linked: block of the tokens before, NO_BLOCK at the root
        ("child", "i4"),  # linked child made most recently, NO_BLOCK
        ("num_children", "i4"),  # linked blocks whose parent this is
        ("access_count", "i4"),  # uses, for the frequency policy
        ("last_access", "i8"),  # recency clock when it was last released
        ("alloc_order", "i8"),  # allocation clock when it was handed out
    ]
)

BLOCK_KEY_DTYPE: Final = np.dtype(
    [
        ("hash_low", "u8"),  # chain hash, or the caller's hash
        ("hash_high", "u8"),  # 0 for caller-made hashes
        ("extra_key", "u8"),  # salt or media digest, 0 when none
        ("num_keyed_tokens", "i2"),  # tokens that the key covers, 0 when not INDEXED
        ("named_count", "i2"),  # named prefixes that cover it
        ("first_name", "i4"),  # 1 + the first named prefix whose leaf this is, 0 when none
    ]
)

# One cache line, all that a decode without a new block touches.
# tail_block is the block of position num_tokens while TAIL_OPEN is set.
SEQUENCE_DTYPE: Final = np.dtype(
    [
        ("seq_id", "u8"),  # the caller's name
        ("num_tokens", "i4"),  # tokens that have a slot (planned)
        ("num_committed", "i4"),  # tokens whose K/V is there, or will be in stream order
        ("num_known", "i4"),  # tokens whose ids are recorded, from position 0
        ("num_blocks", "i4"),  # entries of its table
        ("num_hit_tokens", "i4"),  # tokens found by prefix at admission
        ("first_block", "i4"),  # first table column inside the window, 0
        ("tail_block", "i4"),  # TAIL_OPEN: where the next token goes; free row: next free
        ("tail_writes", "i4"),  # TAIL_OPEN: calls that wrote, not yet in access_count
        ("generation", "i4"),  # >= 1 once used; part of the handle
        ("last_step", "i4"),  # step that last planned for it
        ("void_step", "i4"),  # what steps up to this one planned and did not commit is void
        ("tail_fill", "i2"),  # TAIL_OPEN: offset of the next token, 0..block_size - 1
        ("state", "i1"),  # ROW_FREE, ROW_ACTIVE
        ("flags", "u1"),  # TAIL_OPEN | UNINDEXABLE | PARTIAL_HIT | marks of a running call
        ("arrival", "i8"),  # order of creation, or what the caller said
    ]
)

# The second line of a sequence row: what only prefix caching by tokens needs.
SEQUENCE_KEY_DTYPE: Final = np.dtype(
    [
        ("salt_low", "u8"),  # tenant and adapter, 0 when none
        ("salt_high", "u8"),
        ("owner", "i4"),  # client tag, 0
        ("first_extra", "i4"),  # 1 + its first extra key, in order of position; 0 when none
        ("reserved", "i4", (2,)),
    ]
)

# What tells apart tokens that look alike, an image's placeholders say: a list a sequence.
EXTRA_DTYPE: Final = np.dtype(
    [
        ("digest", "u8"),
        ("start", "i4"),  # first token position
        ("end", "i4"),  # one past the last
        ("next_extra", "i4"),  # 1 + next of the same sequence (or free record), 0 at the end
        ("reserved", "i4", (3,)),
    ]
)

# Open addressing in buckets of INDEX_WAYS slots, load <= 1/2. Empty is all zero.
INDEX_DTYPE: Final = np.dtype(
    [
        ("tag", "u4"),  # mixed hash bits; tag & mask is the home bucket
        ("occupant", "i4"),  # 1 + row or block_id or name, 0 when empty
    ]
)

NAME_DTYPE: Final = np.dtype(
    [
        ("hash", "u8"),  # the caller's name of the prefix
        ("leaf", "i4"),  # its last block
        ("num_blocks", "i4"),  # its length
        ("next_name", "i4"),  # 1 + next of the same leaf (or free name), 0 at the end
        ("reserved", "i4", (3,)),
    ]
)

# A heap entry: the block with the smallest (primary, secondary) goes first.
RANK_DTYPE: Final = np.dtype(
    [
        ("secondary", "i8"),  # alloc_order (fifo), last_access (frequency)
        ("primary", "i4"),  # 0 (fifo), access_count (frequency)
        ("block", "i4"),
    ]
)

LEASE_DTYPE: Final = np.dtype(
    [
        ("seq_id", "u8"),  # the sequence it was taken from
        ("generation", "i4"),  # >= 1 once used; part of the lease
        ("num_blocks", "i4"),
        ("first_leased", "i4"),  # 1 + its first block's record, head first
        ("next_lease", "i4"),  # free lease: 1 + next free, 0 at the end
        ("state", "i4"),  # 1 while it lasts
        ("reserved", "i4"),
    ]
)

LEASED_DTYPE: Final = np.dtype(
    [
        ("block", "i4"),
        ("next_leased", "i4"),  # 1 + next of the same lease (or free record), 0 at the end
    ]
)

INT16: Final = np.dtype(np.int16)
INT32: Final = np.dtype(np.int32)
INT64: Final = np.dtype(np.int64)
UINT64: Final = np.dtype(np.uint64)

__all__ = [name for name in dir() if name.isupper() and not name.startswith("_")]
