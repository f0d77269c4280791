"""Schedules on a simulated clock: times worked out by hand, and what must hold of any."""

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from invariants import assert_intact
from support import INTERPRETED, need

from nbkv.replay import TraceError, chat_workload, read_trace
from nbkv.replay.arrivals import Arrivals
from nbkv.replay.schedule import simulate, spread
from nbkv.replay.scheduler import Request, Scheduler
from nbkv.replay.simulation import Setting, Simulation
from nbkv.replay.token_traces import TokenTrace, TokenTraceBuilder
from nbkv.replay.traces import Trace, TraceBuilder

#: A step takes 1 s, a token of a chunk 0.1 s, a decoding sequence 0.5 s.
SLOW = Setting("lru", 100, running=4, max_tokens=10, step_seconds=1, prefill_rate=10, decode_rate=2)


def token_trace(*rows: tuple[float, list[int], list[int]], block_size: int = 2) -> TokenTrace:
    """Rows of arrival in seconds, prompt and answer."""
    builder = TokenTraceBuilder("by hand")
    for arrival, prompt, answer in rows:
        builder.add(np.array(prompt, np.int32), np.array(answer, np.int32), 1000 * arrival)
    return builder.build().replayed(block_size, outputs=True)


def simulated(trace: Trace | TokenTrace, setting: Setting, load: float = 1.0) -> Simulation:
    simulation = Simulation(Arrivals(trace, load), trace.block_size, setting)
    simulation.drive()
    return simulation


def random_trace(rng: random.Random, number: int) -> Trace:
    builder = TraceBuilder("by chance", 4)
    now = 0.0
    for request in range(number):
        now += rng.expovariate(0.002)
        shared, own = rng.randint(0, 5), rng.randint(0, 4)
        hashes = [*range(shared), *range(1000 + 10 * request, 1000 + 10 * request + own)] or [7]
        weights = [4] * (len(hashes) - 1) + [rng.randint(1, 4)]
        builder.add(
            np.array(hashes, np.uint64), np.array(weights, np.int64), now, rng.randint(0, 9)
        )
    return builder.build()


class TestByHand:
    def test_one_request_takes_its_chunks_and_its_decodes(self):
        # 12 tokens: 10 in one step (2 s), 2 in the next (1.2 s); then 2 decodes of 1.5 s.
        simulation = simulated(token_trace((5, [*range(12)], [50, 51, 52])), SLOW)
        assert simulation.first_token.tolist() == pytest.approx([3.2])
        assert list(simulation.gaps) == pytest.approx([1.5, 1.5])
        assert simulation.finished.tolist() == pytest.approx([6.2])
        assert simulation.num_computed_tokens == 12 + 2
        assert len(simulation.cpu_seconds) == 4

    def test_a_later_request_hits_waits_and_decodes_in_one_batch(self):
        trace = token_trace((0, [1, 2, 3, 4, 5], [9, 9, 9]), (1, [1, 2, 3, 4, 6, 7, 8], [9, 9]))
        simulation = simulated(trace, SLOW)
        # 0.0: 5 tokens, 1.5 s. 1.5: one decodes, the other computes 3 of 7 tokens: 1.8 s.
        # 3.3: both decode, 2 s: both end.
        assert simulation.first_token.tolist() == pytest.approx([1.5, 3.3])
        assert list(simulation.gaps) == pytest.approx([1.8, 2.0, 2.0])
        assert simulation.finished.tolist() == pytest.approx([5.3, 5.3])
        assert simulation.hit_tokens.tolist() == [0, 4]
        run = simulate(Arrivals(trace), 2, SLOW)
        assert run.first_token_seconds.mean == pytest.approx((1.5 + 2.3) / 2)
        assert (run.first_token_seconds.p50, run.first_token_seconds.p99) == (1.5, 2.3)
        assert run.request_seconds.p99 == 5.3
        assert (run.prompt_tokens, run.output_tokens, run.hit_tokens) == (12, 5, 4)
        assert run.hit_ratio == pytest.approx(4 / 12)
        assert (run.seconds, run.steps, run.preemptions) == (5.3, 3, 0)

    def test_the_clock_leaps_over_idle_time(self):
        simulation = simulated(token_trace((0, [1], [2]), (100, [3], [4])), SLOW)
        # A prompt of one token costs as a decoding sequence does.
        assert simulation.first_token.tolist() == pytest.approx([1.5, 101.5])
        assert simulated(token_trace((0, [1], [2]), (100, [3], [4])), SLOW, load=4).clock == 26.5

    def test_the_timeline_weighs_by_time(self):
        # Held: 3 blocks of 5 tokens for 1.5 s, nothing for 8.5 s, 1 block for 1.5 s.
        simulation = simulated(token_trace((0, [1, 2, 3, 4, 5], [9]), (10, [7], [9])), SLOW)
        (span,) = simulation.timeline(1).tolist()
        assert span[0] == 11.5
        assert span[1] == pytest.approx((3 * 1.5 + 1 * 1.5) / 11.5)
        assert span[2] == pytest.approx(2 * 10 / 11.5)  # two full blocks, cached until the end
        assert span[3] == pytest.approx(3 / 11.5)
        fine = simulation.timeline(23)  # of half a second each
        assert fine[:, 1].tolist() == pytest.approx([3] * 3 + [0] * 17 + [1] * 3)
        assert simulation.peak_held_blocks == 3

    def test_a_preempted_request_s_gap_counts_all_of_its_wait(self):
        trace = token_trace((0, [1, 2, 3], [8] * 6), (0, [4, 5, 6], [9] * 6))
        setting = replace(SLOW, capacity=4, running=2)
        simulation = simulated(trace, setting)
        assert int(simulation.cache.header["preemptions"][0]) == 1
        # 0.0: both, 1.6 s. 1.6: both decode, 2 s. 3.6: each needs a third block, so the second
        # goes, and the first decodes alone, 4 times 1.5 s, into the second's blocks too.
        # 9.6: the second's 5 tokens, 1.5 s, and 3 decodes.
        assert simulation.finished.tolist() == pytest.approx([9.6, 15.6])
        assert sorted(simulation.gaps) == pytest.approx([1.5] * 7 + [2.0] * 2 + [11.1 - 3.6])
        assert simulation.num_computed_tokens == 3 + 5 + 3 + 1 + 5 + 3


class TestConservation:
    @pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
    def test_every_request_finishes_with_its_output(self, rng, policy):
        trace = random_trace(rng, 40 if INTERPRETED else 200)
        arrivals = Arrivals(trace, load=50)
        setting = Setting(policy, 13, running=6, max_tokens=16)
        ended: dict[int, np.ndarray] = {}

        class Watching(Simulation):
            def _step(self):
                step = self.scheduler.step
                self.scheduler.step = lambda: keep(step())
                try:
                    return super()._step()
                finally:
                    self.scheduler.step = step

        def keep(requests: list[Request]) -> list[Request]:
            ended.update((request.seed, request.outputs[0]) for request in requests)
            return requests

        simulation = Watching(arrivals, trace.block_size, setting)
        simulation.drive()
        assert sorted(ended) == list(range(len(arrivals)))
        for number, output in ended.items():
            assert len(output) == arrivals.output_lengths[number]
            places = arrivals.prompt_lengths[number] + np.arange(len(output))
            said = arrivals.answer(np.full(len(output), number), places)
            assert output.tolist() == said.tolist()
        assert int(simulation.cache.header["preemptions"][0]) > 0
        assert simulation.cache.num_held_blocks == 0
        assert_intact(simulation.cache)
        waited = simulation.first_token - arrivals.seconds
        assert (waited > 0).all()
        assert (simulation.finished >= simulation.first_token).all()
        assert len(simulation.gaps) == arrivals.output_lengths.sum() - len(arrivals)
        assert min(simulation.gaps) > 0

    def test_a_pool_without_bound_computes_each_token_once(self, rng):
        trace = random_trace(rng, 40 if INTERPRETED else 200)
        run = simulate(Arrivals(trace), 4, Setting("lru", 10_000, running=6, max_tokens=16))
        assert (run.preemptions, run.evictions) == (0, 0)
        # The last token of each answer is not computed.
        assert run.computed_tokens == (
            run.prompt_tokens - run.hit_tokens + run.output_tokens - run.requests
        )
        assert 0 < run.hit_tokens <= trace.ceiling_tokens

    def test_equal_arguments_give_equal_runs_but_for_the_processor_s_time(self, rng):
        trace = random_trace(rng, 50)
        setting = Setting("lru", 30, running=5, max_tokens=12, watermark=2)
        runs = [simulate(Arrivals(trace, 2.0), 4, setting) for _ in range(2)]
        first, second = (asdict(replace(run, scheduler_us=spread([]))) for run in runs)
        assert first == second
        assert all(run.scheduler_us.mean > 0 for run in runs)

    def test_a_faster_model_and_a_larger_pool_wait_less(self, rng):
        trace = random_trace(rng, 60)

        def wait(**changes: float) -> float:
            setting = replace(Setting("lru", 30, running=5, max_tokens=12), **changes)
            return simulate(Arrivals(trace, 5.0), 4, setting).first_token_seconds.mean

        assert wait(step_seconds=0.001) < wait() < wait(step_seconds=0.1)
        assert wait(capacity=1000) < wait(capacity=16)

    def test_requests_longer_than_the_pool_are_refused_and_the_others_served(self):
        trace = token_trace((0, [1] * 9, [2]), (1, [1] * 7, [2, 2]), (2, [1] * 8, [2]))
        simulation = simulated(trace, replace(SLOW, capacity=4, watermark=1))
        assert simulation.refused.tolist() == [True, False, False]
        assert np.isnan(simulation.first_token).tolist() == [True, False, False]
        run = simulate(Arrivals(trace), 2, replace(SLOW, capacity=4))
        assert (run.requests, run.refused_requests, run.prompt_tokens) == (2, 1, 15)

    def test_progress_hears_of_every_request(self, rng):
        trace, heard = random_trace(rng, 30), []
        simulate(Arrivals(trace), 4, Setting("lru", 40, running=5, max_tokens=12), heard.append)
        assert sum(heard) == 30


class TestArrivals:
    def test_requests_come_in_the_order_of_their_timestamps(self):
        trace = token_trace((9, [1, 2], [3]), (4, [5], [6, 7]), (9, [8], []))
        arrivals = Arrivals(trace, load=2.0)
        assert arrivals.seconds.tolist() == [0, 2.5, 2.5]
        assert [arrivals.prompt(i).tolist() for i in range(3)] == [[5], [1, 2], [8]]
        assert arrivals.output_lengths.tolist() == [2, 1, 1]  # who asks gets at least one
        assert arrivals.answer(np.array([0, 0, 1]), np.array([1, 2, 2])).tolist() == [6, 7, 3]

    def test_prompts_of_block_hashes_share_what_their_hashes_do(self):
        builder = TraceBuilder("blocks", 4)
        for hashes, weights in (([1, 2], [4, 3]), ([1, 5], [4, 3])):
            builder.add(np.array(hashes, np.uint64), np.array(weights, np.int64), 0.0, 2)
        arrivals = Arrivals(builder.build())
        one, other = arrivals.prompt(0), arrivals.prompt(1)
        assert (one.dtype, len(one), len(other)) == (np.int32, 7, 7)
        assert (one == other).tolist() == [True] * 4 + [False] * 3
        said = arrivals.answer(np.array([0, 1, 0]), np.array([7, 7, 8]))
        assert len({*said.tolist()}) == 3

    def test_requests_without_a_prompt_are_left_out(self):
        arrivals = Arrivals(token_trace((0, [], [1]), (5, [2], [3])))
        assert (len(arrivals), arrivals.num_empty) == (1, 1)
        assert arrivals.seconds.tolist() == [0]

    @pytest.mark.parametrize("field", ["timestamp", "output_length"])
    def test_what_a_schedule_needs_of_every_request_is_asked_for(self, tmp_path, field):
        rows = [
            {"timestamp": i, "output_length": 1, "input_length": 2, "hash_ids": [i]}
            for i in range(3)
        ]
        del rows[1][field]
        path = tmp_path / "some.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(TraceError, match=f"some: request 2 of 3 has no {field}"):
            Arrivals(read_trace(path))

    def test_a_trace_made_without_timing_is_refused(self):
        trace = Trace(
            "bare", 4, np.arange(1, dtype=np.uint64), np.array([4]), np.array([0, 1], np.int64)
        )
        with pytest.raises(TraceError, match="bare: made without timing"):
            Arrivals(trace)

    def test_the_first_requests_keep_their_timing(self):
        trace = chat_workload(30)
        assert (np.diff(trace.timing.timestamps) >= 0).all()
        assert (trace.timing.output_lengths > 0).all()
        arrivals = Arrivals(trace.head(10))
        assert len(arrivals) == 10
        assert arrivals.output_lengths.tolist() == trace.timing.output_lengths[:10].tolist()


def test_a_setting_s_step_costs_chunks_and_decodes_apart():
    assert SLOW.duration(np.array([1, 1, 5], np.int32)) == 1 + 0.5 + 2 / 2
    assert SLOW.duration(np.array([], np.int32)) == 1


def test_percentiles_are_values_that_occurred():
    found = spread([3.0, 1.0, 2.0, 100.0], 10)
    assert (found.mean, found.p50, found.p99) == (265.0, 20.0, 1000.0)
    assert spread([]) == spread(np.empty(0))
    assert spread([]).p99 is None


def test_a_scheduler_of_a_trace_is_the_documentation_s():
    assert Simulation.__init__.__globals__["Scheduler"] is Scheduler


@pytest.mark.slow
def test_the_mooncake_trace_is_served_whole():
    path = need("traces", "mooncake_conversation.jsonl.gz")
    trace = read_trace(path).head(30 if INTERPRETED else 600)
    run = simulate(Arrivals(trace), 512, Setting("lru", 700, running=64, watermark=7))
    assert run.requests + run.refused_requests == trace.num_requests
    assert run.refused_requests == 0
    assert run.prompt_tokens == trace.total_tokens
    assert run.held_peak <= 1
