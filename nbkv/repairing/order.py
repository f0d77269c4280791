"""Repair of what orders blocks: the fence, the free list, and the policy's ring or heap."""

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv.repairing.views import Ids, Views, follow

Bools = npt.NDArray[np.bool_]

_STEP_BITS = 0xFFFFFFFF
_ACCESS_BITS = 40
_LATEST = 2**_ACCESS_BITS - 1


def mend_order(views: Views, num_fresh: int, was_in_use: Bools) -> None:
    """Put every FREE and CACHED block where it waits.

    Parameters
    ----------
    views : Views
        States and links are mended.
    num_fresh : int
    was_in_use : bool array, shape (num_fresh,)
        Blocks that were HELD before the repair: steps in flight may still touch them.
    """
    blocks, header = views.blocks[:num_fresh], views.header
    free, cached = blocks["state"] == layout.FREE, blocks["state"] == layout.CACHED
    in_flight = views.count("num_steps") - views.count("completed_step")
    waits = _steps_to_wait(views, num_fresh, in_flight, was_in_use)
    old_fence = follow(views.count("fence_head"), blocks["link"], free | cached)
    old_free = follow(views.count("free_head"), blocks["link"], free)
    order = _order_cached(views, cached.nonzero()[0], waits)
    _write_fence(views, num_fresh, waits, old_fence, order)
    fenced = waits > 0
    _write_free_list(views, (free & ~fenced), old_free)
    past = order[~fenced[order]]
    if views.config.policy_code == layout.LRU:
        _write_ring(views, past)
    else:
        _write_heap(views, past)
    header["num_free_blocks"] = views.config.num_blocks - num_fresh + int(free.sum())
    header["num_cached_blocks"] = int(cached.sum())
    header["num_held_blocks"] = num_fresh - int(free.sum()) - int(cached.sum())
    header["num_fenced_blocks"] = int(fenced.sum())
    header["num_fenced_free"] = int((fenced & free).sum())


def _steps_to_wait(views: Views, num_fresh: int, in_flight: int, was_in_use: Bools) -> Ids:
    """Say for each block how many steps must complete before it is handed out; 0 for none."""
    blocks = views.blocks[:num_fresh]
    idle = blocks["state"] != layout.HELD
    steps = blocks["fence_step"].astype(np.int64) - views.count("completed_step") & _STEP_BITS
    fenced = idle & (blocks["flags"] & layout.FENCED != 0)
    waits = np.where(fenced, np.clip(steps, 1, max(in_flight, 1)), 0)
    waits[idle & was_in_use] = in_flight
    if not views.config.run_ahead or in_flight == 0:
        waits[:] = 0
    result: Ids = waits
    return result


def _order_cached(views: Views, cached: Ids, waits: Ids) -> Ids:
    """Order cached blocks by release, children before parents; `waits` may grow."""
    blocks = views.blocks
    access = np.clip(blocks["last_access"][cached], 0, _LATEST).astype(np.int64)
    keys = dict(
        zip(cached.tolist(), ((waits[cached] << _ACCESS_BITS) | access).tolist(), strict=True)
    )
    depths = _depths(views, cached)
    deepest = sorted(keys, key=lambda block_id: -depths[block_id])
    for block_id in deepest:
        parent = int(blocks["parent"][block_id])
        if parent in keys:
            keys[parent] = max(keys[parent], keys[block_id])
    order = np.array(sorted(keys, key=lambda b: (keys[b], -depths[b], b)), np.int64)
    for block_id, key in keys.items():
        waits[block_id] = key >> _ACCESS_BITS
    recency = max(views.count("recency"), 0)
    known = blocks["last_access"][order]
    if len(order) and ((known[1:] <= known[:-1]).any() or known[0] < 1 or known[-1] > recency):
        views.header["recency"] = recency = max(recency, len(order))
        blocks["last_access"][order] = np.arange(recency - len(order), recency) + 1
    return order


def _depths(views: Views, cached: Ids) -> dict[int, int]:
    """Measure how far each cached block is from its root or from a held block."""
    parents = dict(zip(cached.tolist(), views.blocks["parent"][cached].tolist(), strict=True))
    depths: dict[int, int] = {}
    for block_id in parents:
        way, at = [], block_id
        while at in parents and at not in depths:
            way.append(at)
            at = parents[at]
        depth = depths.get(at, 0)
        for passed in reversed(way):
            depth += 1
            depths[passed] = depth
    return depths


def _write_fence(
    views: Views, num_fresh: int, waits: Ids, old_fence: Ids, cached_order: Ids
) -> None:
    """Queue the fenced blocks by step, then as they were, or as they were let go."""
    blocks = views.blocks[:num_fresh]
    blocks["flags"] &= np.uint8(255 - layout.FENCED)
    places = np.full(num_fresh, num_fresh, np.int64)
    places[old_fence] = np.arange(len(old_fence))
    # The recency of cached blocks decides where the two disagree.
    ranked = places[cached_order]
    places[cached_order] = np.maximum.accumulate(ranked) if len(ranked) else ranked
    turn = np.zeros(num_fresh, np.int64)
    turn[cached_order] = np.arange(1, len(cached_order) + 1)
    fenced = (waits > 0).nonzero()[0]
    queue = fenced[np.lexsort((fenced, turn[fenced], places[fenced], waits[fenced]))]
    blocks["flags"][queue] |= np.uint8(layout.FENCED)
    completed = views.count("completed_step")
    steps = (completed + waits[queue]) & _STEP_BITS
    blocks["fence_step"][queue] = steps.astype(np.uint32).view(np.int32)
    for name, head in (("link", False), ("writer", True)):
        values = np.full(len(queue), layout.NO_BLOCK, np.int64)
        if head:
            values[1:] = queue[:-1]
        else:
            values[:-1] = queue[1:]
        blocks[name][queue] = values
    views.header["fence_head"] = queue[0] if len(queue) else layout.NO_BLOCK
    views.header["fence_tail"] = queue[-1] if len(queue) else layout.NO_BLOCK


def _write_free_list(views: Views, waiting: Bools, old_free: Ids) -> None:
    """List the free blocks: as far as the old list leads, then the others by number."""
    known = old_free[waiting[old_free]]
    rest = waiting.copy()
    rest[known] = False
    order = np.concatenate((known, rest.nonzero()[0]))
    links = np.full(len(order), layout.NO_BLOCK, np.int64)
    links[:-1] = order[1:]
    views.blocks["link"][order] = links
    views.header["free_head"] = order[0] if len(order) else layout.NO_BLOCK
    views.header["free_tail"] = order[-1] if len(order) else layout.NO_BLOCK


def _write_ring(views: Views, order: Ids) -> None:
    header = views.header
    views.ranks[:] = 0
    views.ranks[: len(order)] = order
    views.blocks["link"][order] = np.arange(len(order))
    for name in ("ring_head", "ring_write", "ring_read", "ring_sweeping", "heap_size"):
        header[name] = 0
    header["ring_tail"] = len(order)


def _write_heap(views: Views, order: Ids) -> None:
    """Write the leaves sorted, which makes a heap."""
    blocks, header = views.blocks, views.header
    blocks["link"][order] = layout.NO_BLOCK
    leaves = order[blocks["num_children"][order] == 0]
    primary = np.zeros(len(leaves), np.int64)
    secondary = blocks["alloc_order"][leaves]
    if views.config.policy_code == layout.FREQUENCY:
        primary = blocks["access_count"][leaves].astype(np.int64)
        secondary = blocks["last_access"][leaves]
    ranked = leaves[np.lexsort((leaves, secondary, primary))]
    at = np.lexsort((leaves, secondary, primary))
    views.ranks[:] = np.zeros((), layout.RANK_DTYPE)
    entries = views.ranks[: len(leaves)]
    entries["primary"], entries["secondary"] = primary[at], secondary[at]
    entries["block"] = ranked
    blocks["link"][ranked] = np.arange(len(ranked))
    for name in ("ring_head", "ring_tail", "ring_write", "ring_read", "ring_sweeping"):
        header[name] = 0
    header["heap_size"] = len(leaves)
