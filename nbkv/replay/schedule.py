"""What a scheduler made of a trace, in numbers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nbkv.replay.arrivals import Arrivals
from nbkv.replay.simulation import Setting, Simulation
from nbkv.replay.token_traces import TokenTraceBuilder

NUM_SPANS = 200
#: Of the timeline's columns.
SPAN_FIELDS = ("seconds", "held_blocks", "cached_blocks", "running", "waiting")


@dataclass(frozen=True)
class Spread:
    """Mean, median and 99th percentile; None where nothing was measured."""

    mean: float | None
    p50: float | None
    p99: float | None


def spread(values: ArrayLike, factor: float = 1.0) -> Spread:
    """Sum up values; percentiles are values that occurred."""
    found = np.asarray(values)
    if not found.size:
        return Spread(None, None, None)
    middle, high = np.percentile(found, (50, 99), method="inverted_cdf")
    mean, p50, p99 = (round(factor * float(v), 6) for v in (found.mean(), middle, high))
    return Spread(mean, p50, p99)


@dataclass(frozen=True)
class ScheduleRun:
    """What came of one setting; the fields are the JSON report's.

    Times are those of the simulated clock, in seconds, but ``scheduler_us``: microseconds of
    this machine's that the scheduler took for each step. ``hit_tokens`` counts prompts when they
    were admitted first, not again after a preemption. ``timeline`` averages equal spans of time.
    """

    setting: Setting
    requests: int
    refused_requests: int
    prompt_tokens: int
    output_tokens: int
    hit_tokens: int
    computed_tokens: int
    hit_ratio: float
    preemptions: int
    evictions: int
    steps: int
    seconds: float
    output_tokens_per_second: float
    first_token_seconds: Spread
    inter_token_seconds: Spread
    request_seconds: Spread
    scheduler_us: Spread
    held_mean: float
    held_peak: float
    timeline: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, those of the setting among them."""
        fields = asdict(self)
        setting: dict[str, Any] = fields.pop("setting")
        return setting | fields


def simulate(
    arrivals: Arrivals,
    block_size: int,
    setting: Setting,
    progress: Callable[[int], None] | None = None,
) -> ScheduleRun:
    """Let a scheduler with a new cache serve a trace on a simulated clock.

    Parameters
    ----------
    arrivals : Arrivals
        Of which at least one fits into the pool.
    block_size : int
    setting : Setting
    progress : callable, optional
        Called as ``progress(num_requests)`` when so many more are done.

    Returns
    -------
    ScheduleRun
    """
    simulation = Simulation(arrivals, block_size, setting)
    simulation.drive(progress)
    return _sum_up(simulation)


def _sum_up(simulation: Simulation) -> ScheduleRun:
    arrivals, setting, served = simulation.arrivals, simulation.setting, ~simulation.refused
    prompt_tokens = int(arrivals.prompt_lengths[served].sum())
    output_tokens = int(arrivals.output_lengths[served].sum())
    hit_tokens = int(simulation.hit_tokens.sum())
    came = arrivals.seconds[served]
    # From a clock that began with the first arrival, refused or not.
    timeline = simulation.timeline(NUM_SPANS)
    return ScheduleRun(
        setting=setting,
        requests=int(served.sum()),
        refused_requests=len(arrivals) - int(served.sum()),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        hit_tokens=hit_tokens,
        computed_tokens=simulation.num_computed_tokens,
        hit_ratio=round(hit_tokens / prompt_tokens, 6),
        preemptions=int(simulation.cache.header["preemptions"][0]),
        evictions=simulation.cache.stats.evictions,
        steps=len(simulation.cpu_seconds),
        seconds=round(simulation.clock, 6),
        output_tokens_per_second=round(output_tokens / simulation.clock, 3),
        first_token_seconds=spread(simulation.first_token[served] - came),
        inter_token_seconds=spread(simulation.gaps),
        request_seconds=spread(simulation.finished[served] - came),
        scheduler_us=spread(simulation.cpu_seconds, 1e6),
        held_mean=round(float(timeline[:, 1].mean()) / setting.capacity, 6),
        held_peak=round(simulation.peak_held_blocks / setting.capacity, 6),
        timeline=timeline.round(6).tolist(),
    )


def warm_up(policy: str) -> None:
    """Load or compile what a schedule calls, so that no step pays for it."""
    builder = TokenTraceBuilder("warm-up")
    for number in range(3):
        builder.add(np.arange(6, dtype=np.int32), None, float(number), 12)
    simulate(Arrivals(builder.build()), 2, Setting(policy, capacity=10, running=3))
