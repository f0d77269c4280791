"""Repair of small records: leases, extra keys, and the lists of those that are free."""

import numpy as np
import numpy.typing as npt

from nbkv import layout
from nbkv.repairing.report import RepairReport
from nbkv.repairing.views import Views, count_used, follow, relink

Bools = npt.NDArray[np.bool_]


def mend_leases(views: Views, num_fresh: int, report: RepairReport) -> npt.NDArray[np.int64]:
    """Keep the leases whose lists are whole.

    Parameters
    ----------
    views : Views
    num_fresh : int
        Blocks that have ever been in use.
    report : RepairReport

    Returns
    -------
    int64 array, shape (num_blocks,)
        The pins of each block.
    """
    leases, leased = views.leases, views.leased
    num_leases = count_used(leases)
    pins = np.zeros(views.config.num_blocks, np.int64)
    unused = np.ones(len(leased), bool)
    lasting = np.zeros(num_leases, bool)
    total = 0
    for lease in range(num_leases):
        if leases["state"][lease] == 0:
            continue
        chain = _chain_of(views, lease, unused, num_fresh)
        if chain is None:
            words = f"lease {lease} of sequence {int(leases['seq_id'][lease])} ended"
            report.note("leases", words)
            generation = int(leases["generation"][lease])
            leases["generation"][lease] = generation + 1 if 0 < generation < 2**31 - 1 else 1
            continue
        unused[chain] = False
        lasting[lease] = True
        total += len(chain)
        np.add.at(pins, leased["block"][chain], 1)
    leases["state"][:num_leases] = lasting
    leases["reserved"] = 0
    leases["generation"][:num_leases] = np.maximum(leases["generation"][:num_leases], 1)
    _, first = relink(views.count("free_lease"), leases["next_lease"][:num_leases], ~lasting, 1)
    _write(views, "lease", num_leases, int(lasting.sum()), first)
    taken = (~unused).nonzero()[0]
    num_leased = int(taken[-1]) + 1 if len(taken) else 0
    leased[num_leased:] = np.zeros((), layout.LEASED_DTYPE)
    idle = unused[:num_leased]
    _, first = relink(views.count("free_leased"), leased["next_leased"][:num_leased], idle, 1)
    _write(views, "leased", num_leased, total, first)
    return pins


def _chain_of(
    views: Views, lease: int, unused: Bools, num_fresh: int
) -> npt.NDArray[np.int64] | None:
    """Follow a lease's list; None where it is not whole."""
    leases, leased = views.leases, views.leased
    chain = follow(int(leases["first_leased"][lease]), leased["next_leased"], unused, 1)
    if leases["state"][lease] != 1 or len(chain) != leases["num_blocks"][lease]:
        return None
    if len(chain) and leased["next_leased"][chain[-1]] != 0:
        return None
    block_ids = leased["block"][chain]
    if ((block_ids < 0) | (block_ids >= num_fresh)).any():
        return None
    return chain


_POOLS = {
    "lease": ("num_fresh_leases", "num_leases", "free_lease"),
    "leased": ("num_fresh_leased", "num_leased_blocks", "free_leased"),
    "extra": ("num_fresh_extras", "num_extra_keys", "free_extra"),
    "name": ("num_fresh_names", "num_names", "free_name"),
}


def _write(views: Views, pool: str, ever: int, used: int, first: int) -> None:
    for name, value in zip(_POOLS[pool], (ever, used, first), strict=True):
        views.header[name] = value


def mend_extras(views: Views, report: RepairReport) -> None:
    """Keep the lists of extra keys that are whole; a sequence without its own indexes no more."""
    extras, rows = views.extras, views.sequences
    num_extras = count_used(extras)
    unused = np.ones(num_extras, bool)
    for row in range(views.count("num_fresh_rows")):
        first = int(views.sequence_keys["first_extra"][row])
        if rows["state"][row] != layout.ROW_ACTIVE or first == 0:
            continue
        chain = follow(first, extras["next_extra"], unused, 1)
        starts, ends = (extras[x][chain].astype(np.int64) for x in ("start", "end"))
        whole = len(chain) > 0 and extras["next_extra"][chain[-1]] == 0
        ordered = (starts < ends).all() and (starts[1:] >= ends[:-1]).all()
        if whole and ordered and starts[0] >= 0:
            unused[chain] = False
            continue
        words = f"those of sequence {int(rows['seq_id'][row])} lost, it indexes no more blocks"
        report.note("extra keys", words)
        views.sequence_keys["first_extra"][row] = 0
        rows["flags"][row] |= np.uint8(layout.UNINDEXABLE)
    extras["reserved"] = 0
    views.sequence_keys["reserved"] = 0
    _, first = relink(views.count("free_extra"), extras["next_extra"][:num_extras], unused, 1)
    _write(views, "extra", num_extras, int((~unused).sum()), first)


def write_names(views: Views, living: list[int]) -> None:
    """List the names that are not living as free."""
    num_names = count_used(views.names)
    idle = np.ones(num_names, bool)
    idle[living] = False
    views.names["reserved"] = 0
    _, first = relink(views.count("free_name"), views.names["next_name"][:num_names], idle, 1)
    _write(views, "name", num_names, len(living), first)


def mend_free_rows(views: Views) -> None:
    """List the rows of no sequence."""
    num_rows = views.count("num_fresh_rows")
    states = views.sequences["state"][:num_rows]
    idle = states == layout.ROW_FREE
    links = views.sequences["tail_block"][:num_rows]
    _, first = relink(views.count("free_row"), links, idle)
    views.header["free_row"] = first
    views.header["num_sequences"] = num_rows - int(idle.sum())
