"""The model's blocks: free, held or cached, waiting behind the fence, linked to parents.

Lists, dicts and deques, no numpy, nothing incremental that could be derived: what is
cached, who the children of a block are and which block goes first is looked up each
time. It is slow and meant to be checked by reading.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


class Refused(Exception):
    """An operation that the cache must refuse.

    ``kind`` is the error's class name; ``detail`` for a lack of blocks (needed, evictable).
    """

    def __init__(self, kind: str, detail: tuple[int, int] | None = None) -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail


@dataclass(eq=False)
class Block:
    """What is known of one block."""

    block_id: int
    ref_count: int = 0
    pin_count: int = 0
    num_tokens: int = 0
    # Its key: a caller's hash, or its own tokens with what else they depend on.
    chain_hash: int | None = None
    tokens: tuple[int, ...] | None = None
    extra: tuple = ()
    num_keyed: int = 0
    names: set[int] = field(default_factory=set)
    parent: "Block | None" = None
    # The child linked last, until that one is unlinked: older ones do not come back.
    child: "Block | None" = None
    # Held somewhere without the block before it: never linked to that one, never matched.
    detached: bool = False
    ready_step: int = 0
    # The step that must be completed before it is used again; None: not behind the fence.
    fence: int | None = None
    access_count: int = 0
    alloc_order: int = 0
    released: int = 0

    @property
    def indexed(self) -> bool:
        return self.chain_hash is not None or self.tokens is not None

    @property
    def findable(self) -> bool:
        return self.indexed or bool(self.names)

    @property
    def held(self) -> bool:
        return self.ref_count + self.pin_count > 0

    @property
    def evictable(self) -> bool:
        return self.findable and not self.held and self.fence is None


@dataclass(eq=False)
class Line:
    """One sequence: its table (None where the window left a hole) and its tokens."""

    table: list[Block | None] = field(default_factory=list)
    num_tokens: int = 0  # planned
    num_hit_tokens: int = 0
    num_committed: int = 0
    ids: list[int] = field(default_factory=list)  # of the leading tokens, as far as known
    salt: object = None
    extras: tuple[tuple[int, int, object], ...] = ()
    no_index: bool = False
    partial: bool = False  # its tail is another's block, used in part: the next write copies
    last_step: int = 0
    void_step: int = 0  # what steps up to this one planned and did not commit is void
    seq_id: int = -1
    row: int = -1
    arrival: int = 0

    @property
    def blocks(self) -> list[Block]:
        return [b for b in self.table if b is not None]

    @property
    def first_block(self) -> int:
        """Table columns that the window has left behind."""
        return len(self.table) - len(self.blocks)


class NaiveBlocks:
    """Blocks come and go: one rule a method."""

    def __init__(self, block_size: int, num_blocks: int, policy: str = "lru") -> None:
        self.block_size, self.num_blocks, self.policy = block_size, num_blocks, policy
        self.blocks = [Block(i) for i in range(num_blocks)]
        self.free = deque(self.blocks)  # what may be handed out, in order
        self.fence: list[Block] = []  # what may not yet, in order of release
        self.names: dict[int, list[Block]] = {}
        self.run_ahead = False
        self.num_steps = self.committed_step = self.completed_step = 0
        self.num_allocated = self.num_releases = 0
        self.total_allocations = self.total_deallocations = 0
        self.cache_hits = self.cache_misses = self.evictions = self.cow_copies = 0
        self.last_evicted: list[int] = []
        self.last_copies: list[tuple[int, int]] = []
        self.last_kept: list[int] = []  # tokens that each copy keeps
        self.last_changes: list[tuple[int, int, int]] = []  # row, column, block_id

    # --- what is derived -------------------------------------------------------------
    @property
    def held(self) -> list[Block]:
        return [b for b in self.blocks if b.held]

    @property
    def cached(self) -> list[Block]:
        return [b for b in self.blocks if not b.held and b.findable]

    @property
    def num_free(self) -> int:
        return self.num_blocks - len(self.held) - len(self.cached)

    @property
    def evictable(self) -> list[Block]:
        return [b for b in self.blocks if b.evictable]

    @property
    def num_usable(self) -> int:
        return len(self.free) + len(self.evictable)

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _children(self, block: Block) -> list[Block]:
        return [b for b in self.blocks if b.parent is block]

    # --- room ------------------------------------------------------------------------
    def _begin(self) -> None:
        self.last_evicted, self.last_copies, self.last_kept = [], [], []
        self.last_changes = []

    def _check_available(self, needed: int, num_revived: int = 0) -> None:
        """Refuse what does not fit beside the evictable blocks that the call itself holds."""
        if needed + num_revived > self.num_usable:
            raise Refused("OutOfBlocksError", (needed, len(self.evictable) - num_revived))

    def _make_free(self, needed: int) -> None:
        while len(self.free) < needed:
            self._evict()

    def _evict(self) -> None:
        leaves = [b for b in self.evictable if not self._children(b)]
        keys = {
            "lru": lambda b: b.released,
            "fifo": lambda b: b.alloc_order,
            "frequency": lambda b: (b.access_count, b.released),
        }
        # The oldest release is a leaf by itself; asking all evictable blocks proves it.
        among = self.evictable if self.policy == "lru" else leaves
        victim = min(among, key=keys[self.policy])
        assert victim in leaves
        # Its children are gone, so it is the last block of every name that it is under.
        dying = {name: self.names.pop(name)[:-1] for name in sorted(victim.names)}
        victim.names.clear()
        self._forget_key(victim)
        self.free.append(victim)
        for name, others in dying.items():
            self._drop_name(name, others)
        self.evictions += 1
        self.last_evicted.append(victim.block_id)

    # --- links -----------------------------------------------------------------------
    def _link(self, block: Block, parent: Block | None) -> None:
        block.parent = parent
        if parent is not None:
            parent.child = block

    def _unlink(self, block: Block) -> None:
        if block.parent is not None and block.parent.child is block:
            block.parent.child = None
        block.parent = None

    def _unlink_if_lost(self, block: Block) -> None:
        if not block.findable:
            self._unlink(block)

    def _forget_key(self, block: Block) -> None:
        block.chain_hash, block.tokens, block.extra, block.num_keyed = None, None, (), 0
        self._unlink_if_lost(block)

    def _drop_name(self, name: int, blocks: list[Block]) -> None:
        for block in blocks:
            block.names.discard(name)
            self._unlink_if_lost(block)
            if not block.findable:
                self._free_if_loose(block)

    def _free_if_loose(self, block: Block) -> None:
        """A block that was cached and is found no more is free; behind the fence it waits."""
        if not block.held and block.fence is None:
            self.free.append(block)

    # --- references ------------------------------------------------------------------
    def _take_new(self) -> Block:
        block = self.free.popleft()
        assert not block.held
        assert not block.findable
        assert block.parent is None
        assert block.fence is None
        self.num_allocated += 1
        block.detached = False
        block.ref_count, block.num_tokens, block.ready_step = 1, 0, 0
        block.access_count, block.alloc_order = 1, self.num_allocated
        return block

    def _hold(self, block: Block) -> None:
        block.ref_count += 1
        block.access_count += 1
        self._unfence(block)

    def _unfence(self, block: Block) -> None:
        if block.fence is not None:
            self.fence.remove(block)
            block.fence = None

    def _release(self, blocks: Sequence[Block]) -> None:
        """Let go of these, in table order: free ones head first, cached ones tail first."""
        for block in blocks:
            block.ref_count -= 1
        self._settle(blocks)

    def _settle(self, blocks: Sequence[Block]) -> None:
        gone = [b for b in blocks if not b.held]
        must_wait = self.run_ahead and self.num_steps > self.completed_step
        for block in [b for b in gone if not b.findable]:
            if not must_wait:
                self.free.append(block)
            else:
                self._enter_fence(block)
        for block in reversed([b for b in gone if b.findable]):
            self.num_releases += 1
            block.released = self.num_releases
            if must_wait:
                self._enter_fence(block)

    def _enter_fence(self, block: Block) -> None:
        block.fence = self.num_steps
        self.fence.append(block)

    def _pass_fence(self) -> None:
        while self.fence and self.fence[0].fence <= self.completed_step:
            block = self.fence.pop(0)
            block.fence = None
            if not block.findable:
                self.free.append(block)
