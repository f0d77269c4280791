"""A scheduler, small and complete: what decides which tokens a model computes in each step.

Continuous batching with chunked prefill, admission by watermark, prefix caching, preemption,
parallel samples by fork, seeded sampling, over any ``model(tokens, plan) -> logits``. What a
step needs of its sequences lies in arrays, by row of the cache: it has no loop over them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import nbkv

Array = npt.NDArray[Any]
Tokens = npt.NDArray[np.int32]
ROW_MASK: Final = 0xFFFFFFFF  # a handle's lower half is its sequence's row
#: Of each row: 0 <= num_computed < num_known <= num_most, in tokens, prompt included.
ROW_DTYPE: Final = np.dtype(
    [
        ("num_computed", "i8"),  # committed: keys and values are there
        ("num_known", "i8"),  # the prompt, and what was sampled
        ("num_most", "i8"),  # num_known ends here at the latest
        ("num_forks", "i8"),  # samples to fork off as soon as the prompt is computed
        ("stop_token", "i8"),  # sampling it ends the sequence; -1: none does
        ("seed", "u8"),  # decides the noise of `sample`
        ("temperature", "f8"),  # 0: always the likeliest token
    ]
)
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, as are the factors of `mix`


@dataclass(eq=False)
class Request:
    """What a client asks for, and what has come of it."""

    prompt: Tokens
    num_outputs: int  # tokens of each sample at most
    num_samples: int = 1
    temperature: float = 0.0
    seed: int = 0  # sample i has the noise of seed + i
    stop_token: int = -1
    num_hit_tokens: int = 0  # of the prompt, found in the cache when it was first admitted
    outputs: dict[int, Tokens] = field(default_factory=dict)  # by sample, once it is finished


@dataclass(eq=False)
class Sequence:
    """One sample of a request, or the whole of it before its prompt is computed."""

    request: Request
    seq_id: int
    tokens: Tokens  # to be admitted with: the prompt, and what it had said when preempted
    sample: int = 0
    num_forks: int = 0
    arrival: int | None = None  # its place in the order, once it has been preempted


def sample(logits: Array, rows: Array) -> Array:
    """Pick the next token of each row, the likeliest or by temperature (the Gumbel trick).

    The noise follows from seed and position alone, so that a sample is the same in any batch,
    and after a preemption.
    """
    hot = np.flatnonzero(rows["temperature"] > 0)
    if hot.size:
        words = mix(rows["seed"][hot] * _STEP + rows["num_known"][hot].astype(np.uint64))
        words = mix(words[:, None] + np.arange(logits.shape[1], dtype=np.uint64) * _STEP)
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        logits = logits.astype(np.float64)
        logits[hot] -= rows["temperature"][hot, None] * np.log(-np.log(uniform))
    return np.asarray(logits.argmax(axis=1))


def mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scatter 64-bit words evenly: the finalizer of splitmix64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Scheduler:
    """Runs requests, as many at once as the cache has room for sequences and blocks.

    ``model(tokens, plan)`` carries out ``plan.copies``, writes keys and values of the tokens to
    ``plan.slot_mapping``, attends, and returns the logits after each entry's last token: shape
    (num_entries, vocabulary). ``sampler(logits, rows)`` picks tokens, for rows of ROW_DTYPE.
    Nobody else uses the cache; its ``watermark`` is what admission leaves to those that run.
    """

    def __init__(
        self,
        cache: nbkv.PagedKVCache,
        model: Callable[[Tokens, nbkv.StepPlan], Array],
        max_tokens: int = 2048,
        sampler: Callable[[Array, Array], Array] = sample,
    ) -> None:
        config = cache.config
        if max_tokens < config.max_sequences:
            raise ValueError(f"max_tokens is {max_tokens}; {config.max_sequences} may decode")
        self.cache, self.model, self.sampler, self.max_tokens = cache, model, sampler, max_tokens
        self.buffers = nbkv.StepBuffers.for_cache(cache, max_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running = np.empty(0, np.int64)  # handles, in order of admission
        self.rows = np.zeros(config.max_sequences, ROW_DTYPE)
        # One more than has slots: the last token is not computed. Unwritten pages cost nothing.
        width = min(config.num_blocks, config.table_width) * config.block_size + 1
        self.text = np.empty((config.max_sequences, width), np.int32)
        self.sequences: dict[int, Sequence] = {}  # by row: who had it last
        self.seq_ids = count()

    def add(self, request: Request) -> None:
        """Queue a request; ValueError if it could not run even alone."""
        prompt, forks = np.asarray(request.prompt, np.int32), request.num_samples - 1
        num_tokens = len(prompt) + request.num_outputs
        if not len(prompt) or request.num_outputs < 1 or not 0 <= forks < len(self.rows):
            raise ValueError(f"a prompt, an output and 1 to {len(self.rows)} samples are needed")
        if num_tokens > self.text.shape[1]:
            raise ValueError(f"a request of {num_tokens} tokens; {self.text.shape[1]} fit")
        self.waiting.append(Sequence(request, next(self.seq_ids), prompt, num_forks=forks))

    def abort(self, request: Request) -> None:
        """End a request, wherever it is; what running samples have said becomes their output."""
        self.waiting = deque(s for s in self.waiting if s.request is not request)
        rows = (self.running & ROW_MASK).tolist()
        self._end([row for row in rows if self.sequences[row].request is request])

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.waiting and not self.running.size

    def step(self) -> list[Request]:
        """Compute one batch; return the requests of which a sample has finished."""
        self._admit()
        if not self.running.size:
            return []
        plan = self._plan()
        rows, counts = (plan.entries[name].astype(np.int64) for name in ("row", "count"))
        # Entry after entry: where each begins in its text, less where it does in the batch.
        shifts = plan.entries["start"] - (counts.cumsum() - counts)
        places = np.arange(plan.num_tokens) + np.repeat(shifts, counts)
        tokens = self.text[np.repeat(rows, counts), places]
        logits = self.model(tokens, plan)
        # Now, not with the next plan: admission finds these tokens, and forks cover them.
        self.cache.commit(plan, tokens=tokens)
        self.rows["num_computed"][rows] += counts
        return self._take(rows, logits)

    def _admit(self) -> None:
        """Let waiting sequences run, first come first served, while there is room for them."""
        own = self.rows[self.running & ROW_MASK] if self.waiting else self.rows[:0]
        backlog = int((own["num_known"] - own["num_computed"]).sum())
        free_rows = len(self.rows) - len(own) - int(own["num_forks"].sum())
        # Who could not begin in this step waits: it may find more of its prompt in the next.
        while self.waiting and backlog < self.max_tokens:
            waiting = self.waiting[0]
            tokens, free_rows = waiting.tokens, free_rows - 1 - waiting.num_forks
            if free_rows < 0:
                break
            try:
                # The last token is computed, for its logits. All of it has blocks from now on:
                # only decoding can run out. Alone it may have all: none would become free.
                handle, num_hit = self.cache.admit(
                    waiting.seq_id, tokens, max_hit_tokens=len(tokens) - 1, arrival=waiting.arrival,
                    reserve_tokens=len(tokens), must_fit=self.running.size > 0,
                )  # fmt: skip
            except nbkv.OutOfBlocksError:
                break
            if waiting.arrival is None:
                waiting.request.num_hit_tokens = num_hit
            self._start(self.waiting.popleft(), handle, num_hit)
            backlog += len(tokens) - num_hit

    def _start(self, sequence: Sequence, handle: int, num_computed: int) -> None:
        request, num_known, row = sequence.request, len(sequence.tokens), handle & ROW_MASK
        most, seed = len(request.prompt) + request.num_outputs, request.seed + sequence.sample
        own = num_computed, num_known, most, sequence.num_forks
        self.rows[row] = (*own, request.stop_token, seed % 2**64, request.temperature)
        self.text[row, :num_known] = sequence.tokens
        self.sequences[row] = sequence
        self.running = np.append(self.running, handle)

    def _plan(self) -> nbkv.StepPlan:
        """Plan one token for each that decodes, and chunks of prompts in the room left."""
        own = self.rows[self.running & ROW_MASK]
        wanted = own["num_known"] - own["num_computed"]
        decodes = wanted == 1
        chunks = np.where(decodes, 0, wanted)
        room = self.max_tokens - np.count_nonzero(decodes) - (chunks.cumsum() - chunks)
        counts = decodes + np.minimum(chunks, room.clip(0))
        plan = self.cache.plan(
            self.running[counts > 0], counts[counts > 0].astype(np.int32), out=self.buffers,
            on_exhaustion="preempt", victims=self.running[counts == 0],
        )  # fmt: skip
        if plan.preempted.size:
            self._requeue(plan.preempted)
        return plan

    def _requeue(self, preempted: Array) -> None:
        """Put preempted sequences back to the front, the earliest of them first."""
        for entry in preempted[preempted["arrival"].argsort()[::-1]]:
            row = int(entry["handle"]) & ROW_MASK
            self.waiting.appendleft(self.sequences[row])
            self.waiting[0].tokens = self.text[row, : self.rows["num_known"][row]].copy()
            self.waiting[0].arrival = int(entry["arrival"])
        self.running = self.running[~np.isin(self.running, preempted["handle"])]

    def _take(self, rows: Array, logits: Array) -> list[Request]:
        """Sample for those whose known tokens are all computed, and end those that are done."""
        places = np.flatnonzero(self.rows["num_computed"][rows] == self.rows["num_known"][rows])
        rows = rows[places]
        if self.rows["num_forks"][rows].any():
            rows, places = self._fork(rows, places)
        sampled = self.sampler(logits[places], self.rows[rows])
        self.text[rows, self.rows["num_known"][rows]] = sampled
        self.rows["num_known"][rows] += 1
        own = self.rows[rows]
        done = rows[(own["num_known"] == own["num_most"]) | (sampled == own["stop_token"])]
        return self._end(done.tolist()) if done.size else []

    def _fork(self, rows: Array, places: Array) -> tuple[Array, Array]:
        """Open the samples of requests whose prompt is computed; they share its logits."""
        children, origins = [], []
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            parent = self.sequences[row]
            for number in range(1, 1 + parent.num_forks):
                child = Sequence(parent.request, next(self.seq_ids), parent.tokens, number)
                self.cache.fork(parent.seq_id, child.seq_id)
                self._start(child, self.cache.handle(child.seq_id), len(parent.tokens))
                children.append(int(self.running[-1]) & ROW_MASK)
                origins.append(place)
            parent.num_forks = self.rows["num_forks"][row] = 0
        return np.append(rows, children), np.append(places, origins)

    def _end(self, rows: list[int]) -> list[Request]:
        """Let sequences go, whose blocks stay cached, and hand their outputs over."""
        gone = np.isin(self.running & ROW_MASK, rows)
        self.cache.finish(self.running[gone])
        self.running = self.running[~gone]
        for row in rows:
            request, text = self.sequences[row].request, self.text[row]
            said = text[len(request.prompt) : self.rows["num_known"][row]].copy()
            request.outputs[self.sequences[row].sample] = said
        return [self.sequences[row].request for row in rows]
