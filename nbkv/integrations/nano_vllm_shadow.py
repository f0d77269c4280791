"""nano-vllm's own block manager with nbkv in its shadow."""

from collections.abc import Callable
from typing import Any

from nbkv.integrations.nano_vllm import Sequence
from nbkv.shadow import Shadow


def _count_free(manager: Any) -> int:
    return len(manager.free_block_ids)


class ShadowedBlockManager:
    """Passes nano-vllm's calls on to its manager, and compares what they did with nbkv.

    Parameters
    ----------
    manager : nanovllm.engine.block_manager.BlockManager
        With no block in use.
    count_free : callable, optional
        Tells how many blocks of it are free, from its `free_block_ids` when omitted.

    Attributes
    ----------
    shadow : Shadow
        Misses are counted, not raised: nano-vllm forgets a cached block when another one of
        the same content is handed out.
    """

    def __init__(self, manager: Any, count_free: Callable[[Any], int] = _count_free) -> None:
        self._manager = manager
        self._count_free = count_free
        self._has_computed = False
        self.block_size: int = manager.block_size
        num_blocks = count_free(manager)
        self.shadow = Shadow(num_blocks, self.block_size, raise_missed_hits=False)

    def __getattr__(self, name: str) -> Any:
        """Look the rest up at the manager."""
        return getattr(self._manager, name)

    def can_allocate(self, seq: Sequence) -> Any:
        """Pass on: compared once the sequence is allocated."""
        self._note_step()
        return self._manager.can_allocate(seq)

    def allocate(self, seq: Sequence, *num_cached_blocks: int) -> None:
        """Pass on, and compare hits, table and free blocks."""
        self._manager.allocate(seq, *num_cached_blocks)
        num_hits = seq.num_cached_tokens // self.block_size
        table, tokens = seq.block_table, seq.token_ids
        self.shadow.opened("allocate", seq.seq_id, table, tokens, num_hits)
        self._check_free("allocate")

    def deallocate(self, seq: Sequence) -> None:
        """Pass on, and compare the table as it was, and free blocks."""
        table = list(seq.block_table)
        self._manager.deallocate(seq)
        self.shadow.closed("deallocate", seq.seq_id, table)
        self._check_free("deallocate")

    def can_append(self, seq: Sequence) -> bool:
        """Pass on: what follows is compared."""
        self._note_step()
        return bool(self._manager.can_append(seq))

    def may_append(self, seq: Sequence) -> None:
        """Pass on, and compare table and free blocks."""
        self._manager.may_append(seq)
        self.shadow.grown("may_append", seq.seq_id, seq.block_table)
        self._check_free("may_append")

    def hash_blocks(self, seq: Sequence) -> None:
        """Pass on, and compare the table."""
        self._manager.hash_blocks(seq)
        self._has_computed = True
        num_full = (seq.num_cached_tokens + seq.num_scheduled_tokens) // self.block_size
        self.shadow.filled("hash_blocks", seq.seq_id, seq.block_table, seq.token_ids, num_full)

    def _note_step(self) -> None:
        """Count a step when the scheduler asks again after something was computed."""
        if self._has_computed:
            self._has_computed = False
            self.shadow.next_step()

    def _check_free(self, call: str) -> None:
        self.shadow.check_free(call, self._count_free(self._manager))
