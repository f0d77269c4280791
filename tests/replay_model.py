"""The replay's meaning in plain Python: a dict of blocks, and a minimum over all of them."""

from collections import deque
from dataclasses import dataclass

from nbkv.replay import Trace

LEAST = {
    "lru": lambda block: block.released,
    "fifo": lambda block: block.born,
    "frequency": lambda block: (block.uses, block.released),
}


@dataclass
class Block:
    parent: int
    holders: int = 0
    children: int = 0
    released: int = 0
    born: int = 0
    uses: int = 0


def simulate(
    trace: Trace,
    policy: str,
    capacity: int,
    running: int,
    private: frozenset[int] = frozenset(),
) -> dict[str, int]:
    """Replay; returns the integers of a run. Blocks that are private go when they are released."""
    cache: dict[int, Block] = {}
    held: deque[list[int]] = deque()
    clock = 0
    counts = dict.fromkeys(
        (
            "hit_blocks",
            "hit_tokens",
            "inserts",
            "evictions",
            "overflow_requests",
            "overflow_blocks",
        ),
        0,
    )

    def evict() -> bool:
        leaves = [name for name, b in cache.items() if not b.holders and not b.children]
        if not leaves:
            return False
        victim = cache.pop(min(leaves, key=lambda name: LEAST[policy](cache[name])))
        if victim.parent in cache:
            cache[victim.parent].children -= 1
        counts["evictions"] += 1
        return True

    for start, row in zip(trace.starts.tolist(), trace.rows(), strict=False):
        if len(held) == running:
            for name in reversed(held.popleft()):
                if name in private:
                    parent = cache.pop(name).parent
                    if parent in cache:
                        cache[parent].children -= 1
                    continue
                clock += 1
                block = cache[name]
                block.holders -= 1
                block.released = clock
                block.born = block.born or clock
                block.uses += 1
        names = row.tolist()
        hits = [name for name in names if name in cache]  # a prefix: ids have one parent
        counts["hit_blocks"] += len(hits)
        counts["hit_tokens"] += int(trace.weights[start : start + len(hits)].sum())
        for name in hits:
            cache[name].holders += 1
        mine = list(hits)
        for name in names[len(hits) :]:
            if len(cache) >= capacity and not evict():
                counts["overflow_requests"] += 1
                counts["overflow_blocks"] += len(names) - len(mine)
                break
            parent = mine[-1] if mine else -1
            cache[name] = Block(parent, holders=1)
            if parent in cache:
                cache[parent].children += 1
            mine.append(name)
            counts["inserts"] += 1
        held.append(mine)
    return counts
