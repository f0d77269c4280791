"""Repair of the prefix tree: which keys, links and names can be trusted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv._demand import ready
from nbkv.kernels import mending
from nbkv.repairing.records import write_names
from nbkv.repairing.report import RepairReport
from nbkv.repairing.rows import Tables
from nbkv.repairing.views import Ids, Views, follow

Bools = npt.NDArray[np.bool_]

_KEY_FLAGS = layout.INDEXED | layout.CALLER_KEYED | layout.HAS_EXTRA
_LINK_FLAGS = _KEY_FLAGS | layout.NAMED
_KNOWN_FLAGS = _LINK_FLAGS | layout.DETACHED | layout.FENCED


@dataclass
class Tree:
    """What is trusted of the blocks' links, block by block.

    Parameters
    ----------
    parents : int64 array
    indexed, named : bool array
    """

    parents: Ids
    indexed: Bools
    named: Bools

    @property
    def linked(self) -> Bools:
        """Blocks that a prefix leads to."""
        linked: Bools = self.indexed | self.named
        return linked

    def cut(self, bad: Bools) -> None:
        """Take blocks out, and all that they lead to, circles included."""
        bad = bad | self._unrooted(bad)
        self.indexed &= ~bad
        self.named &= ~bad

    def _unrooted(self, bad: Bools) -> Bools:
        """Find what no walk from a root leads to, in steps that double."""
        linked = self.linked & ~bad
        sound = linked.copy()
        above = np.where(linked, self.parents, layout.NO_BLOCK)
        for _ in range(len(linked).bit_length() + 1):
            has_parent = above != layout.NO_BLOCK
            at = np.where(has_parent, above, 0)
            sound &= ~has_parent | sound[at]
            above = np.where(has_parent, above[at], layout.NO_BLOCK)
        result: Bools = ~sound | (above != layout.NO_BLOCK)
        return result


def mend_links(views: Views, tables: Tables, held: Bools, report: RepairReport, keep: bool) -> None:
    """Keep the links and keys that agree with tables, tokens and the index.

    Parameters
    ----------
    views : Views
        Its header is mended as far as the lists of blocks.
    tables : Tables
    held : bool array, shape (num_fresh,)
        Blocks that somebody holds.
    report : RepairReport
    keep : bool
        False gives all of them up.
    """
    num_fresh = len(held)
    blocks, keys = views.blocks[:num_fresh], views.keys[:num_fresh]
    flags = blocks["flags"] & np.uint8(_KNOWN_FLAGS)
    parents = blocks["parent"].astype(np.int64)
    linked = (flags & (layout.INDEXED | layout.NAMED) != 0) & (blocks["state"] != layout.FREE)
    bad = ~linked | (parents < layout.NO_BLOCK) | (parents >= num_fresh) | (not keep)
    parents[bad | (flags & layout.DETACHED != 0)] = layout.NO_BLOCK
    _follow_tables(parents, linked, flags, tables)
    blocks["parent"] = parents
    _mend_keys(views, flags, num_fresh)
    tree = Tree(parents, flags & layout.INDEXED != 0, flags & layout.NAMED != 0)
    tree.cut(bad)
    tree.indexed &= _provable(views, flags, num_fresh)
    tree.cut(~tree.linked | _improper(views, tree, held, flags))
    living = _mend_names(views, tree, keep, report)
    flags &= np.uint8(255 - _LINK_FLAGS)
    has_extra = keys["extra_key"] != 0
    caller = blocks["flags"] & layout.CALLER_KEYED != 0
    flags[tree.indexed] |= np.uint8(layout.INDEXED)
    flags[tree.indexed & caller] |= np.uint8(layout.CALLER_KEYED)
    flags[tree.indexed & has_extra & ~caller] |= np.uint8(layout.HAS_EXTRA)
    flags[tree.named] |= np.uint8(layout.NAMED)
    blocks["flags"] = flags
    keys["num_keyed_tokens"][~tree.indexed] = 0
    blocks["parent"] = np.where(tree.linked, parents, layout.NO_BLOCK)
    _count_children(views, tree, num_fresh)
    write_names(views, living)


def _follow_tables(
    parents: Ids, linked: Bools, flags: npt.NDArray[np.uint8], tables: Tables
) -> None:
    """Give linked blocks that a table has the parent before them."""
    ids = tables.block_ids
    whole = linked[ids] & (flags[ids] & layout.DETACHED == 0)
    parents[ids[whole]] = tables.before[whole]


def _mend_keys(views: Views, flags: npt.NDArray[np.uint8], num_fresh: int) -> None:
    """Make agree what a key says twice."""
    blocks, keys = views.blocks[:num_fresh], views.keys[:num_fresh]
    caller = flags & layout.CALLER_KEYED != 0
    indexed = flags & layout.INDEXED != 0
    by_tokens = indexed & ~caller
    keys["num_keyed_tokens"][by_tokens] = views.config.block_size
    covered = np.clip(keys["num_keyed_tokens"], 1, views.config.block_size)
    keys["num_keyed_tokens"] = np.where(indexed, covered, 0)
    keys["hash_high"][caller & indexed] = 0
    keys["extra_key"][caller & indexed] = 0
    has_extra = (keys["extra_key"] != 0) & by_tokens
    flags &= np.uint8(255 - layout.HAS_EXTRA)
    flags[has_extra] |= np.uint8(layout.HAS_EXTRA)
    flags[caller & ~indexed] &= np.uint8(255 - layout.CALLER_KEYED)
    blocks["flags"] = flags


def _provable(views: Views, flags: npt.NDArray[np.uint8], num_fresh: int) -> Bools:
    """Tell whose key its tokens and its parent prove, or else the index remembers."""
    blocks, keys = views.blocks[:num_fresh], views.keys[:num_fresh]
    proven = np.zeros(num_fresh, np.bool_)
    ready(mending.check_hashes)(views.arena, proven)
    tags = np.zeros(num_fresh, np.int64)
    ready(mending.mix_tags)(np.ascontiguousarray(keys["hash_low"]), tags)
    slots = views.prefix_index[views.prefix_index["occupant"] > 0]
    remembered = np.zeros(num_fresh, bool)
    fitting = slots[slots["occupant"] <= num_fresh]
    at = fitting["occupant"].astype(np.int64) - 1
    remembered[at[tags[at] == fitting["tag"]]] = True
    parents = blocks["parent"]
    by_caller = flags & layout.CALLER_KEYED != 0
    root = parents == layout.NO_BLOCK
    above = np.where(root, 0, parents)
    unsure = root & (flags & (layout.DETACHED | layout.HAS_EXTRA) != 0)
    unsure |= by_caller | (~root & (flags[above] & layout.INDEXED == 0))
    result: Bools = proven & (~unsure | remembered)
    return result


def _improper(views: Views, tree: Tree, held: Bools, flags: npt.NDArray[np.uint8]) -> Bools:
    """Find links that hold otherwise sound blocks to the wrong parents, and doubles."""
    num_fresh = len(held)
    keys, holds = views.keys[:num_fresh], views.holds[:num_fresh]
    has_parent = tree.parents != layout.NO_BLOCK
    above = np.where(has_parent, tree.parents, 0)
    caller = flags & layout.CALLER_KEYED != 0
    bad = has_parent & held & ~held[above]
    bad |= has_parent & (holds > 0) & (holds[above] == 0)
    bad |= has_parent & tree.indexed & tree.indexed[above] & (caller != caller[above])
    bad |= has_parent & tree.named & ~tree.named[above] & ~tree.indexed
    plain = (tree.indexed & (flags & layout.DETACHED == 0)).nonzero()[0]
    columns = (
        tree.parents[plain],
        keys["hash_low"][plain],
        keys["hash_high"][plain],
        keys["num_keyed_tokens"][plain],
        caller[plain],
    )
    order = np.lexsort((plain, *columns))
    equal = np.ones(max(len(plain) - 1, 0), bool)
    for column in columns:
        equal &= column[order][1:] == column[order][:-1]
    bad[plain[order[1:][equal]]] = True
    result: Bools = bad
    return result


def _mend_names(views: Views, tree: Tree, keep: bool, report: RepairReport) -> list[int]:
    """Keep the names whose blocks form a chain from the root, and count what they cover."""
    num_fresh = len(tree.parents)
    keys, names = views.keys[:num_fresh], views.names
    slots = views.name_index[views.name_index["occupant"] > 0]
    tags = np.zeros(len(names), np.int64)
    ready(mending.mix_tags)(np.ascontiguousarray(names["hash"]), tags)
    candidates = {
        int(occupant) - 1
        for tag, occupant in zip(slots["tag"].tolist(), slots["occupant"].tolist(), strict=True)
        if occupant <= len(names) and tags[occupant - 1] == tag
    }
    living, hashes = [], set()
    covered = np.zeros(num_fresh, np.int64)
    wanted = set((names["num_blocks"].nonzero()[0]).tolist()) & candidates
    for name in sorted(wanted):
        leaf, number = int(names["leaf"][name]), int(names["hash"][name])
        chain = follow(leaf, tree.parents, tree.linked)
        whole = len(chain) == names["num_blocks"][name] and bool(tree.named[chain].all())
        if not keep or not whole or tree.parents[chain[-1]] != layout.NO_BLOCK or number in hashes:
            report.note("named prefixes", f"name {number} forgotten")
            continue
        hashes.add(number)
        living.append(name)
        covered[chain] += 1
    tree.named &= covered > 0
    tree.cut(~tree.linked)
    keys["named_count"] = covered
    keys["first_name"] = 0
    for name in reversed(living):
        leaf = int(names["leaf"][name])
        names["next_name"][name] = keys["first_name"][leaf]
        keys["first_name"][leaf] = name + 1
    return living


def _count_children(views: Views, tree: Tree, num_fresh: int) -> None:
    """Count every block's children, and keep the one it names if it is one."""
    blocks = views.blocks[:num_fresh]
    parents = np.where(tree.linked, tree.parents, layout.NO_BLOCK)
    has_parent = parents != layout.NO_BLOCK
    blocks["num_children"] = np.bincount(parents[has_parent], minlength=num_fresh)
    child = blocks["child"].astype(np.int64)
    inside = (child >= 0) & (child < num_fresh)
    own = inside & (parents[np.where(inside, child, 0)] == np.arange(num_fresh))
    blocks["child"] = np.where(own, child, layout.NO_BLOCK)
