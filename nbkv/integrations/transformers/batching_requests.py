"""Requests by name over a `PagedKVCache`: what a continuous batch asks of its blocks.

Blocks are allocated to a request when it is scheduled, before anything is known of the batch
as a whole; `plan` then gives the tokens of the whole batch their slots, in one call that
cannot run out of blocks. It plans each sequence up to where the scheduler says that it ends,
so that tokens whose keys and values came by a copy (a fork, a restored offload) are caught
up with in the same call.
"""

import itertools
from collections import deque
from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from nbkv.cache import PagedKVCache
from nbkv.plan import StepBuffers, StepPlan

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

_ROW_MASK: Final = 0xFFFFFFFF
_NO_TOKENS: Final = np.empty(0, np.int32)
_SMALLEST_BUFFERS: Final = 4_096  # tokens


class Request(Protocol):
    """What is read of a scheduler's request: its name and, position by position, its tokens."""

    request_id: str
    initial_tokens: list[int]
    generated_tokens: list[int]


@dataclass(slots=True)
class _Planned:
    """A plan that is not committed, with what its tokens are read from once they are known."""

    plan: StepPlan
    requests: Sequence[Request]
    handles: list[int]
    starts: list[int]
    ends: list[int]


class RequestBlocks:
    """The sequences of a cache under the names of a scheduler's requests.

    Parameters
    ----------
    cache : PagedKVCache
        With ``run_ahead``: an asynchronous batch is planned before the one before is known.
    shares : bool
        Let requests share the blocks of equal prefixes.

    Attributes
    ----------
    num_reserved_blocks : int
        Blocks that no request ever gets: the first ones.
    num_prompt_tokens, num_hit_tokens : int
        Tokens of prompts that were begun, as whoever did so counted them here, and how many of
        them were there already.
    num_preemptions : int
        Requests whose blocks were taken back, as whoever did so counted them here.
    """

    def __init__(self, cache: PagedKVCache, *, num_reserved: int = 0, shares: bool = True) -> None:
        self.cache = cache
        self.shares = shares
        self.num_reserved_blocks = num_reserved
        self.num_prompt_tokens = self.num_hit_tokens = self.num_preemptions = 0
        self._handles: dict[str, int] = {}
        self._seq_ids = itertools.count(1)
        self._planned: deque[_Planned] = deque()
        self._spare: list[StepBuffers] = []
        self._buffer_tokens = _SMALLEST_BUFFERS
        self._buffer_bytes = 0
        if num_reserved:
            cache.allocate(num_reserved)

    def names(self) -> KeysView[str]:
        """Return the names of the requests that are open."""
        return self._handles.keys()

    @property
    def num_blocks(self) -> int:
        """Blocks that requests can have, all together."""
        return self.cache.total_blocks - self.num_reserved_blocks

    def find_hit(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Tell how much of a prompt is cached, its last token aside; changes nothing.

        Returns
        -------
        tuple of int
            Tokens hit, whole blocks of them; and how many of those blocks are evictable now.
        """
        if not self.shares or len(tokens) <= self.cache.config.block_size:
            return 0, 0
        match = self.cache.match_prefix(_as_ids(tokens), max_hit_tokens=len(tokens) - 1)
        return match.num_hit_tokens, match.num_revived

    def open(self, request_id: str, tokens: Sequence[int] = (), max_hit_tokens: int = 0) -> int:
        """Open a request over the longest cached prefix of its prompt; return the tokens hit."""
        handle, num_hit = self.cache.admit(
            next(self._seq_ids), _as_ids(tokens), max_hit_tokens=max_hit_tokens
        )
        self._handles[request_id] = handle
        self.num_hit_tokens += num_hit
        return num_hit

    def num_missing(self, request_id: str, num_tokens: int) -> int:
        """Return how many blocks more a request needs, to hold so many tokens in all."""
        handle = self._handles.get(request_id)
        held = 0 if handle is None else self._field("num_blocks", handle)
        return max(0, -(-num_tokens // self.cache.config.block_size) - held)

    def has_room(self, request_id: str, num_tokens: int) -> bool:
        """Tell whether a request can have blocks for so many tokens in all."""
        if request_id not in self._handles and self._is_full():
            return False
        return self.num_missing(request_id, num_tokens) <= self.cache.num_usable_blocks

    def has_room_behind(self, num_hit: int, num_revived: int, num_tokens: int) -> bool:
        """Tell whether a request that is not open can, once it holds what `find_hit` found."""
        needed = -(-num_tokens // self.cache.config.block_size)
        held = num_hit // self.cache.config.block_size
        return not self._is_full() and needed - held <= self.cache.num_usable_blocks - num_revived

    def _is_full(self) -> bool:
        return self.cache.num_sequences == self.cache.config.max_sequences

    def reserve(self, request_id: str, num_tokens: int) -> None:
        """Give a request blocks for so many tokens in all, opening it if unknown.

        Raises
        ------
        OutOfBlocksError, CapacityError
            `has_room` said so.
        """
        missing = self.num_missing(request_id, num_tokens)
        if request_id not in self._handles:
            self.open(request_id)
        seq_id = self._field("seq_id", self._handles[request_id])
        for _ in range(missing):
            self.cache.allocate_block(seq_id)

    def table(self, request_id: str) -> list[int]:
        """Return a request's blocks in logical order."""
        ids = self.cache.block_table(self._field("seq_id", self._handles[request_id]))
        return [] if ids is None else ids.tolist()

    def num_shareable(self, request_id: str, num_tokens: int) -> int:
        """Return how many blocks a fork at so many tokens can share: full and committed ones."""
        if not self.shares:
            return 0
        self.commit()
        committed = self._field("num_committed", self._handles[request_id])
        return min(num_tokens, committed) // self.cache.config.block_size

    def fork(self, source: str, name: str, num_tokens: int) -> tuple[list[int], list[int]]:
        """Open a request over the shareable blocks of another one, and give it the others anew.

        Parameters
        ----------
        source, name : str
            Of the request, and of its fork.
        num_tokens : int
            Where they part.

        Returns
        -------
        tuple of list
            Blocks whose content is to be copied, and where to.
        """
        table = self.table(source)
        shared = self.num_shareable(source, num_tokens)
        if shared:
            seq_id = next(self._seq_ids)
            self.cache.share_prefix(self._field("seq_id", self._handles[source]), seq_id, shared)
            self._handles[name] = self.cache.handle(seq_id)
        self.reserve(name, len(table) * self.cache.config.block_size)
        return table[shared:], self.table(name)[shared:]

    def plan(self, requests: Sequence[Request], ends: Int32s) -> Int64s:
        """Plan a batch, each sequence up to its end, within the blocks that it has.

        Parameters
        ----------
        requests : sequence of Request
        ends : int32 array, shape (n,)
            Tokens of each, the new ones included.

        Returns
        -------
        int64 array, shape (n,)
            Their handles, for `nbkv.page_tables`.
        """
        names = self._handles
        handles = np.array([names[request.request_id] for request in requests], np.int64)
        starts = self.cache.sequences["num_tokens"][handles & _ROW_MASK].astype(np.int32)
        counts = ends - starts
        plan = self.cache.plan(handles, counts, out=self._take_buffers(int(counts.sum())))
        # One stream runs every step, and every copy, in the order of the plans: whatever gets a
        # block next writes it after this step has read it, so nothing need wait behind a fence.
        self.cache.complete(plan.step_id)
        self._planned.append(
            _Planned(plan, requests, handles.tolist(), starts.tolist(), ends.tolist())
        )
        return handles

    def commit(self) -> None:
        """Commit the plans whose tokens are all known: from now on others can hit them.

        An asynchronous batch takes in on the device what the batch before it samples. Its plan
        stays until the host has heard of that.
        """
        while self._planned:
            planned = self._planned[0]
            tokens = self._tokens_of(planned) if self.shares else None
            if self.shares and tokens is None:
                return
            self.cache.commit(planned.plan, tokens=tokens)
            self._planned.popleft()
            self._spare.append(planned.plan.buffers)

    def _tokens_of(self, planned: _Planned) -> Int32s | None:
        """Return the ids of a plan's tokens, entry after entry; None while one is not known."""
        tokens: list[int] = []
        entries = zip(planned.requests, planned.handles, planned.starts, planned.ends, strict=True)
        for request, handle, start, end in entries:
            prompt = len(request.initial_tokens)
            if start >= prompt:
                ids = request.generated_tokens[start - prompt : end - prompt]
            elif end <= prompt:
                ids = request.initial_tokens[start:end]
            else:
                ids = request.initial_tokens[start:] + request.generated_tokens[: end - prompt]
            if len(ids) < end - start:
                if self._handles.get(request.request_id) == handle:
                    return None
                # It has ended: its entry counts for nothing, whatever stands there.
                ids = ids + [0] * (end - start - len(ids))
            tokens += ids
        return np.array(tokens, np.int32)

    def _take_buffers(self, num_tokens: int) -> StepBuffers:
        """Return buffers of a committed plan, or new ones where those are too small."""
        if num_tokens > self._buffer_tokens:
            self._buffer_tokens = 1 << (num_tokens - 1).bit_length()
            self._buffer_bytes = StepBuffers.num_bytes(self.cache, self._buffer_tokens)
        while self._spare:
            buffers = self._spare.pop()
            if buffers.data.size >= self._buffer_bytes:
                return buffers
        return StepBuffers.for_cache(self.cache, self._buffer_tokens)

    def finish(self, request_id: str) -> None:
        """End a request; what a prefix finds of it stays cached. Unknown ones are let pass."""
        handle = self._handles.pop(request_id, None)
        if handle is not None:
            self.cache.finish(np.array([handle], np.int64))

    def finish_all(self) -> None:
        """End every request."""
        self.cache.finish(np.array(list(self._handles.values()), np.int64))
        self._handles.clear()

    def _field(self, name: str, handle: int) -> int:
        return int(self.cache.sequences[name][handle & _ROW_MASK])


def _as_ids(tokens: Sequence[int]) -> Int32s:
    return np.array(tokens, np.int32) if len(tokens) else _NO_TOKENS
