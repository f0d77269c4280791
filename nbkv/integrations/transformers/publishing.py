"""Ids for tokens that were committed without: from then on prompts can hit them."""

import numpy as np

from nbkv.errors import ArgumentError, KVCacheError
from nbkv.integrations.transformers.rows import Rows, Tokens
from nbkv.layout import INT32


def publish_rows(rows: Rows, ids: Tokens) -> None:
    """Tell the ids of all committed columns.

    Parameters
    ----------
    rows : Rows
    ids : int32 array, shape (num_rows, num_columns)

    Raises
    ------
    ArgumentError
        They do not begin with what is known already. Nothing has changed then.
    OutOfBlocksError, CapacityError
        Rows before the one that was refused are published, the others are as they were.
    """
    num_known = rows.num_known
    is_token = np.arange(num_known) >= rows.pads[:, None]
    if (ids[:, :num_known] != rows.ids)[is_token].any():
        raise ArgumentError("sequences do not begin with the prompts that were admitted")
    for i, pad in enumerate(rows.pads.tolist()):
        known = max(0, num_known - pad)
        rows.seq_ids[i] = _with_ids(rows, rows.seq_ids[i], ids[i, pad:], known)
    rows.ids = ids


def _with_ids(rows: Rows, seq_id: int, tokens: Tokens, num_known: int) -> int:
    """Put a sequence with the same content and all its ids in the place of one without.

    What is committed without ids is never indexed. So the blocks from the first unknown token
    on are planned anew, their words copied, and committed with ids.
    """
    if num_known == tokens.size:
        return seq_id
    cache, copy = rows.cache, rows.new_id()
    cache.fork(seq_id, copy)
    try:
        cache.truncate(copy, num_known)
        plan = rows.plan_sequences([copy], np.array([tokens.size - num_known], INT32))
    except KVCacheError:
        rows.finish([copy])
        raise
    cache.execute(plan)
    first, last = (n // cache.config.block_size for n in (num_known, tokens.size - 1))
    tables = [rows.table(number)[first : last + 1] for number in (seq_id, copy)]
    cache.pool.copy_blocks(np.stack(tables, axis=1))
    rows.commit_plan(plan, tokens=tokens[num_known:])
    rows.finish([seq_id])
    return copy
