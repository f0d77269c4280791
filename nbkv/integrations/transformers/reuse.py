"""Admission of a batch of prompts: from what is held already each of them can go on."""

from typing import NamedTuple

import numpy as np

from nbkv.errors import KVCacheError
from nbkv.hashing import Salt
from nbkv.integrations.transformers.rows import Ints, Rows, Tokens


class Admitted(NamedTuple):
    """What `PagedCache.admit` found, all prompts of the batch together.

    Attributes
    ----------
    num_tokens : int
        Of the prompts, padding left out.
    num_hit_tokens : int
        Of which so many are not computed again.
    """

    num_tokens: int
    num_hit_tokens: int

    @property
    def num_new_tokens(self) -> int:
        """Tokens that the model has to compute."""
        return self.num_tokens - self.num_hit_tokens


def admit_prompts(
    rows: Rows, ids: Tokens, pads: Ints, salt: Salt | None, max_hit_tokens: int
) -> Admitted:
    """Let the rows be these prompts, with what of them is there already.

    A prompt goes on from the longest prefix that is cached, or from a row of the batch before
    it, which may agree to within a block. Columns are computed for all rows or for none: as
    many are reused as the row has that has least.

    Parameters
    ----------
    rows : Rows
        What they were ends here.
    ids : int32 array, shape (num_rows, num_columns)
    pads : int64 array, shape (num_rows,)
        Columns of padding in front; less than num_columns.
    salt : Salt or None
    max_hit_tokens : int
        Most tokens to reuse of each.

    Returns
    -------
    Admitted

    Raises
    ------
    CapacityError
        Nothing is held then.
    """
    prompts = [row[pad:] for row, pad in zip(ids, pads.tolist(), strict=True)]
    hits = [rows.cache.match_prefix(prompt, salt=salt).num_hit_tokens for prompt in prompts]
    sources = _find_sources(rows, prompts, hits, salt)
    found = np.array([max(hit, source[1]) for hit, source in zip(hits, sources, strict=True)])
    columns = int(np.minimum(pads + np.minimum(found, max_hit_tokens), ids.shape[1] - 1).min())
    kept = np.maximum(columns - pads, 0).tolist()
    old = rows.seq_ids
    taken = [
        old[at] if keep > hit else None
        for (at, _), hit, keep in zip(sources, hits, kept, strict=True)
    ]
    rows.keep([seq_id for seq_id in taken if seq_id is not None])
    try:
        seq_ids = [
            _open(rows, seq_id, prompt, keep, salt)
            for seq_id, prompt, keep in zip(taken, prompts, kept, strict=True)
        ]
    except KVCacheError:
        rows.release()
        raise
    rows.take(seq_ids, ids, pads, columns, salt)
    return Admitted(sum(prompt.size for prompt in prompts), sum(kept))


def _find_sources(
    rows: Rows, prompts: list[Tokens], hits: list[int], salt: Salt | None
) -> list[tuple[int, int]]:
    """Find for each prompt a row of the batch before that has more of it than is cached.

    Returns
    -------
    list of (int, int)
        Row and tokens in common, each row once; 0 tokens where there is none.
    """
    free = set(range(len(rows.seq_ids))) if salt == rows.salt else set()
    known = rows.known_tokens()
    sources = []
    for prompt, hit in zip(prompts, hits, strict=True):
        lengths = {at: _num_common(known[at], prompt) for at in sorted(free)}
        best = max(lengths, key=lengths.__getitem__, default=-1)
        if best < 0 or lengths[best] <= hit:
            sources.append((-1, 0))
            continue
        free.discard(best)
        sources.append((best, lengths[best]))
    return sources


def _num_common(first: Tokens, second: Tokens) -> int:
    """Count the tokens that two sequences have in common from the start."""
    size = min(first.size, second.size)
    differs = first[:size] != second[:size]
    return int(differs.argmax()) if differs.any() else size


def _open(rows: Rows, seq_id: int | None, prompt: Tokens, keep: int, salt: Salt | None) -> int:
    """Open a row with the first tokens of a prompt, or cut an old one to them."""
    if seq_id is None:
        seq_id = rows.new_id()
        rows.cache.admit(seq_id, prompt, salt=salt)
        rows.seq_ids.append(seq_id)
    rows.cache.truncate(seq_id, keep)
    return seq_id
