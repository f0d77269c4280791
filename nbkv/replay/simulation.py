"""A scheduler at work on a trace, with a model that only takes time.

The scheduler is the one of `nbkv.replay.scheduler`, as any program would run it. Its model
moves a clock forward instead of computing, so what comes out depends on the trace and the
settings alone, but for the time that the scheduler itself took.
"""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbkv.cache import PagedKVCache
from nbkv.config import CacheConfig
from nbkv.plan import StepPlan
from nbkv.replay.arrivals import Arrivals
from nbkv.replay.scheduler import Request, Scheduler

Array = NDArray[Any]
PROGRESS_STEPS = 256


@dataclass(frozen=True)
class Setting:
    """What a schedule is simulated with.

    Parameters
    ----------
    policy : str
        ``"lru"``, ``"fifo"`` or ``"frequency"``.
    capacity : int
        Blocks of the cache.
    running : int
        Sequences in a batch at most.
    max_tokens : int
        New tokens of a step at most, at least `running`.
    watermark : int
        Blocks that admission leaves usable.
    step_seconds : float
        What every step takes.
    prefill_rate, decode_rate : float
        Tokens a second, on top: of entries with several new tokens, and of those with one.
    """

    policy: str
    capacity: int
    running: int = 256
    max_tokens: int = 2048
    watermark: int = 0
    step_seconds: float = 0.008
    prefill_rate: float = 25_000.0
    decode_rate: float = 12_500.0

    def duration(self, counts: NDArray[np.int32]) -> float:
        """Return the seconds of a step whose entries have these numbers of new tokens."""
        num_decodes = np.count_nonzero(counts == 1)
        num_chunked = int(counts.sum()) - num_decodes
        return self.step_seconds + num_chunked / self.prefill_rate + num_decodes / self.decode_rate


class Simulation:
    """One run of a schedule, and everything that was seen of it.

    Parameters
    ----------
    arrivals : Arrivals
    block_size : int
    setting : Setting

    Attributes
    ----------
    first_token, finished : float64, (len(arrivals),)
        When each request got its first token, and its last; NaN if it was refused.
    hit_tokens : int64, (len(arrivals),)
        Of each prompt, found in the cache when it was first admitted.
    refused : bool, (len(arrivals),)
        Longer than the pool.
    """

    def __init__(self, arrivals: Arrivals, block_size: int, setting: Setting) -> None:
        self.arrivals, self.setting = arrivals, setting
        lengths = arrivals.prompt_lengths + arrivals.output_lengths
        # The last token that is sampled is never computed: it needs no slot.
        self.refused = lengths - 1 > setting.capacity * block_size
        longest = int(lengths[~self.refused].max(initial=1))
        self.cache = PagedKVCache(
            CacheConfig(
                block_size=block_size,
                num_blocks=setting.capacity,
                num_layers=1,
                num_kv_heads=1,
                head_dim=1,
                eviction_policy=setting.policy,
                max_sequences=setting.running,
                max_blocks_per_sequence=-(-longest // block_size),
                watermark=setting.watermark,
            )
        )
        self.scheduler = Scheduler(self.cache, self._compute, setting.max_tokens, self._answer)
        self.clock = 0.0
        self.num_computed_tokens = 0
        self.first_token, self.finished, self._last_token = np.full((3, len(arrivals)), np.nan)
        self.hit_tokens = np.zeros(len(arrivals), np.int64)
        self.gaps = array("d")  # seconds between a sequence's tokens
        # Of each step, or idle time: its end, then blocks held and cached, running and waiting.
        self._moments = array("d")
        self.cpu_seconds = array("d")
        self._elsewhere = 0.0  # seconds in the callbacks of the step under way
        self._no_logits = np.empty(setting.running, np.float32)

    def drive(self, progress: Callable[[int], None] | None = None) -> None:
        """Let all requests arrive and finish; ``progress(num_finished)`` hears of them."""
        arrivals, scheduler, seconds = self.arrivals, self.scheduler, self.arrivals.seconds
        number = num_steps = num_ended = 0
        while number < len(arrivals) or not scheduler.is_idle:
            while number < len(arrivals) and seconds[number] <= self.clock:
                num_ended += self._arrive(number)
                number += 1
            if not scheduler.is_idle:
                num_ended += self._step()
            elif number < len(arrivals):
                self.clock = float(seconds[number])
                self._note_moment(0)
            num_steps += 1
            if progress is not None and num_steps % PROGRESS_STEPS == 0:
                progress(num_ended)
                num_ended = 0
        if progress is not None:
            progress(num_ended)

    def _arrive(self, number: int) -> bool:
        """Queue a request; tell whether it was refused."""
        if not self.refused[number]:
            num_outputs = int(self.arrivals.output_lengths[number])
            self.scheduler.add(Request(self.arrivals.prompt(number), num_outputs, seed=number))
        return bool(self.refused[number])

    def _step(self) -> int:
        """Run a step on the clock; return how many requests it finished."""
        self._elsewhere = 0.0
        began = time.thread_time()
        requests = self.scheduler.step()
        self.cpu_seconds.append(time.thread_time() - began - self._elsewhere)
        for request in requests:
            self.finished[request.seed] = self.clock
            self.hit_tokens[request.seed] = request.num_hit_tokens
        return len(requests)

    def _compute(self, tokens: NDArray[np.int32], plan: StepPlan) -> Array:
        """Take the model's place: time passes."""
        began = time.thread_time()
        self.clock += self.setting.duration(plan.entries["count"])
        self.num_computed_tokens += plan.num_tokens
        self._note_moment(plan.num_entries)
        self._elsewhere += time.thread_time() - began
        return self._no_logits[: plan.num_entries]

    def _answer(self, _: Array, rows: Array) -> Array:
        """Take the sampler's place: say what the trace says, and note when it was said."""
        began = time.thread_time()
        # A request's seed is its number here.
        numbers, positions = rows["seed"].astype(np.int64), rows["num_known"]
        is_first = positions == self.arrivals.prompt_lengths[numbers]
        self.first_token[numbers[is_first]] = self.clock
        self.gaps.frombytes((self.clock - self._last_token[numbers[~is_first]]).tobytes())
        self._last_token[numbers] = self.clock
        tokens = self.arrivals.answer(numbers, positions)
        self._elsewhere += time.thread_time() - began
        return tokens

    def _note_moment(self, num_planned: int) -> None:
        cache, waiting = self.cache, len(self.scheduler.waiting)
        moment = self.clock, cache.num_held_blocks, cache.num_cached_blocks, num_planned, waiting
        self._moments.extend(moment)

    def timeline(self, num_bins: int) -> NDArray[np.float64]:
        """Average over equal spans of time.

        Returns
        -------
        float64, (num_bins, 5)
            A span's end in seconds; blocks held and cached, sequences in the batch and
            waiting ones, each weighted by the time that it was so.
        """
        moments = np.array(self._moments).reshape(-1, 5)
        ends, values = moments[:, 0], moments[:, 1:]
        sums = np.cumsum(values * np.diff(ends, prepend=0.0)[:, None], axis=0)
        edges = np.linspace(0, ends[-1], num_bins + 1)
        known = np.concatenate(([0.0], ends))
        totals = [np.interp(edges, known, np.concatenate(([0.0], total))) for total in sums.T]
        means = np.diff(totals, axis=1).T / (edges[1:] - edges[:-1])[:, None]
        return np.column_stack((edges[1:], means))

    @property
    def peak_held_blocks(self) -> int:
        """Most blocks that sequences held at once."""
        return int(np.array(self._moments).reshape(-1, 5)[:, 1].max())
