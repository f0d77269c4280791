"""The replay of token ids: what it reads, and that its integers are the right ones."""

import gzip
import json
import random
from collections import deque
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from replay_model import simulate
from support import INTERPRETED, need

import nbkv
from nbkv.replay import Trace, TraceError, chat_tokens, chat_workload, read_trace, replay_trace
from nbkv.replay.runs import begin_replay
from nbkv.replay.token_traces import TokenTrace, TokenTraceBuilder
from nbkv.replay.traces import TraceBuilder

POLICIES = ("lru", "fifo", "frequency")
GOOD = {
    "timestamp": 0,
    "session": "a",
    "input_length": 3,
    "output_length": 2,
    "prefix_of_prev": 0,
    "suffix_tokens": [7, 8, 9],
    "output_tokens": [1, 2],
}
NEXT = GOOD | {"prefix_of_prev": 2, "suffix_tokens": [5], "output_tokens": [3, 4]}
PUBLIC = {"taubench": 133_808, "magagent": 2_359_712}


def write(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


def prompts_of(trace: TokenTrace) -> list[list[int]]:
    return [trace.tokens[a:b].tolist() for a, b in zip(trace.starts[:-1], trace.ends, strict=True)]


def random_tokens(rng: random.Random, num_requests: int = 60, block_size: int = 4) -> TokenTrace:
    """Prompts that branch off earlier sequences, outputs included, at random tokens."""
    builder = TokenTraceBuilder("random")
    seen: list[list[int]] = [[]]
    for _ in range(num_requests):
        old = rng.choice(seen)
        prompt = old[: rng.randint(0, len(old))] + rng.choices(range(3), k=rng.randint(0, 14))
        # An output that repeats: what was computed twice is exchanged.
        output = [len(prompt) % 2] * rng.randint(0, 9)
        builder.add(np.array(prompt, np.int32), np.array(output, np.int32))
        seen.append(prompt + output)
    builder.add(np.arange(9, dtype=np.int32))
    return builder.build().replayed(block_size)


def through_the_facade(trace: TokenTrace, policy: str, capacity: int, running: int):
    """Replay by the calls a scheduler makes; the integers, and the cache."""
    block_size, longest = trace.block_size, max(1, trace.longest)
    config = nbkv.CacheConfig(
        block_size,
        capacity,
        1,
        1,
        1,
        eviction_policy=policy,
        max_sequences=running,
        max_blocks_per_sequence=-(-longest // block_size),
    )
    cache = nbkv.PagedKVCache(config)
    buffers = nbkv.StepBuffers.for_cache(cache, longest)
    alive: deque[np.ndarray] = deque()
    counts = dict.fromkeys(("hit_tokens", "overflow_requests", "overflow_blocks"), 0)

    def compute(batch: np.ndarray, tokens: np.ndarray) -> int:
        try:
            plan = cache.plan(batch, len(tokens), out=buffers)
        except nbkv.OutOfBlocksError as error:
            num_tokens = cache.num_cached_tokens(seq_id)
            fitting = len(cache.block_table(seq_id)) + error.free + error.evictable
            tokens = tokens[: fitting * block_size - num_tokens]
            plan = cache.plan(batch, len(tokens), out=buffers)
        cache.commit(plan, tokens=tokens)
        return len(tokens)

    spans = zip(trace.starts[:-1], trace.ends, trace.limits, strict=True)
    for seq_id, (start, end, limit) in enumerate(spans):
        if len(alive) == running:
            cache.finish(alive.popleft())
        handle, hit = cache.admit(seq_id, trace.tokens[start:end])
        alive.append(np.array([handle]))
        counts["hit_tokens"] += hit
        done = start + hit
        done += compute(alive[-1], trace.tokens[done:end])
        if done == end < limit:
            done += compute(alive[-1], trace.tokens[end:limit])
        if done < limit:
            held = len(cache.block_table(seq_id))
            counts["overflow_requests"] += 1
            counts["overflow_blocks"] += int(-(-(limit - start) // block_size)) - held
    counts["inserts"] = cache.stats.total_allocations
    counts["evictions"] = cache.stats.evictions
    return counts, cache


def as_blocks(trace: TokenTrace) -> tuple[Trace, frozenset[int]]:
    """Name each prompt's blocks for the model; a partly filled one has a name of its own."""
    builder, names, private = TraceBuilder("blocks", trace.block_size), {}, set()
    for number, prompt in enumerate(prompts_of(trace)):
        ends = range(trace.block_size, len(prompt) + 1, trace.block_size)
        row = [names.setdefault(tuple(prompt[:end]), len(names)) for end in ends]
        if len(prompt) % trace.block_size:
            row.append(10**6 + number)
            private.add(row[-1])
        weights = np.full(len(row), trace.block_size, np.int64)
        builder.add(np.array(row, np.uint64), weights)
    return builder.build(), frozenset(private)


class TestReading:
    def test_read_trace_continues_the_previous_prompt_of_the_same_session(self, tmp_path):
        other = GOOD | {"session": 4, "suffix_tokens": [6], "input_length": 1}
        again = NEXT | {"prefix_of_prev": 3, "suffix_tokens": [], "output_tokens": None}
        trace = read_trace(write(tmp_path / "t.jsonl", GOOD, other, NEXT, "", again))
        assert isinstance(trace, TokenTrace)
        assert prompts_of(trace) == [[7, 8, 9], [6], [7, 8, 5], [7, 8, 5]]
        assert trace.tokens.tolist() == [7, 8, 9, 1, 2, 6, 1, 2, 7, 8, 5, 3, 4, 7, 8, 5]
        assert trace.tokens.dtype == np.int32
        assert (trace.name, trace.block_size, trace.outputs) == ("t", 16, False)
        assert (trace.num_requests, trace.total_tokens, trace.longest) == (4, 10, 3)
        assert trace.replayed(2, outputs=True).longest == 5

    def test_read_trace_needs_no_lengths_and_no_outputs(self, tmp_path):
        row = {"session": "a", "prefix_of_prev": 0, "suffix_tokens": [2**31 - 1]}
        path = tmp_path / "odd.name"
        path.write_bytes(gzip.compress(json.dumps(row).encode()))
        assert read_trace(path).tokens.tolist() == [2**31 - 1]

    @pytest.mark.parametrize(
        ("line", "field"),
        [
            ("{not json", "not valid JSON"),
            ("[1, 2]", "expected a JSON object"),
            (GOOD | {"suffix_tokens": "abc"}, "suffix_tokens: expected a list"),
            (GOOD | {"suffix_tokens": [1, -2, 3]}, r"suffix_tokens\[1\]: expected .* got -2"),
            (GOOD | {"suffix_tokens": [2**31, 2, 3]}, r"suffix_tokens\[0\]"),
            (GOOD | {"suffix_tokens": [1, 2.5, 3]}, r"suffix_tokens\[1\]"),
            (GOOD | {"suffix_tokens": [True, 2, 3]}, r"suffix_tokens\[0\]"),
            (GOOD | {"suffix_tokens": None}, "suffix_tokens: expected a list"),
            ({k: v for k, v in GOOD.items() if k != "suffix_tokens"}, "suffix_tokens: missing"),
            ({k: v for k, v in GOOD.items() if k != "prefix_of_prev"}, "prefix_of_prev: missing"),
            ({k: v for k, v in GOOD.items() if k != "session"}, "session: missing"),
            (GOOD | {"session": [1]}, "session: expected a string or an integer"),
            (GOOD | {"prefix_of_prev": -1}, "prefix_of_prev: expected an integer"),
            (GOOD | {"prefix_of_prev": 4}, "prefix_of_prev: 4 tokens .* which has 3"),
            (GOOD | {"session": "new", "prefix_of_prev": 1}, "prefix_of_prev: 1 .* which has 0"),
            (GOOD | {"output_tokens": [1, "2"]}, r"output_tokens\[1\]"),
            (GOOD | {"output_tokens": 3}, "output_tokens: expected a list"),
            (GOOD | {"output_length": 3}, "output_length: 3, but there are 2 tokens"),
            (GOOD | {"input_length": 4}, "input_length: 4, but there are 3 tokens"),
            (GOOD | {"input_length": "3"}, "input_length: expected an integer"),
            (GOOD | {"timestamp": "now"}, "timestamp: expected a number"),
        ],
    )
    def test_read_trace_names_line_and_field_of_a_malformed_line(self, tmp_path, line, field):
        path = write(tmp_path / "t.jsonl", GOOD, "", line)
        with pytest.raises(TraceError, match=f"t.jsonl, line 3: {field}"):
            read_trace(path)

    def test_read_trace_refuses_rows_without_one_token(self, tmp_path):
        empty = GOOD | {"suffix_tokens": [], "input_length": 0}
        with pytest.raises(TraceError, match="no row with tokens"):
            read_trace(write(tmp_path / "t.jsonl", empty, empty))

    def test_head_takes_the_first_requests(self):
        trace = chat_tokens(30)
        assert prompts_of(trace.head(10)) == prompts_of(trace)[:10]
        assert trace.head(99).num_requests == 30


class TestCounting:
    def test_a_trace_knows_what_an_infinite_cache_hits(self):
        builder = TokenTraceBuilder("three")
        for prompt, output in (([1, 2, 3], [4]), ([1, 2, 3, 4, 5, 6], []), ([1, 2, 9], [])):
            builder.add(np.array(prompt, np.int32), np.array(output, np.int32))
        trace = builder.build().replayed(2)
        # Full: (1, 2), then (1, 2) (3, 4) (5, 6), then (1, 2). With the first output (3, 4)
        # is known when the second prompt comes.
        assert (trace.total_tokens, trace.total_blocks) == (12, 7)
        assert (trace.num_unique, trace.ceiling_tokens) == (3, 4)
        answered = trace.replayed(2, outputs=True)
        assert (answered.num_unique, answered.ceiling_tokens) == (3, 6)
        assert (answered.total_tokens, answered.total_blocks) == (12, 7)

    def test_chat_tokens_share_the_full_blocks_of_chat_workload(self):
        chats, trace = chat_workload(60, 3), chat_tokens(60, 3)
        full = chats.weights == chats.block_size
        assert trace.num_unique == len(np.unique(chats.hashes[full]))
        assert trace.ceiling_tokens == 16 * (np.count_nonzero(full) - trace.num_unique)
        assert (trace.total_tokens, trace.total_blocks) == (chats.total_tokens, chats.total_blocks)
        assert 0 <= trace.tokens.min() < trace.tokens.max() < 128_000


class TestReplay:
    @pytest.mark.parametrize("outputs", [False, True])
    @pytest.mark.parametrize("running", [1, 2, 5])
    @pytest.mark.parametrize("policy", POLICIES)
    def test_the_loop_does_what_the_facade_does(self, rng, policy, running, outputs):
        for _ in range(1 if INTERPRETED else 4):
            trace = random_tokens(rng).replayed(4, outputs)
            for capacity in (1, 4, 9, 25, trace.unlimited_blocks(running)):
                replay = begin_replay(trace, policy, capacity, running)
                replay.drive()
                run = replay.result().as_dict()
                wanted, cache = through_the_facade(trace, policy, capacity, running)
                assert run == run | wanted
                start = int(cache.header["runtime_start"][0])
                end = int(cache.header["runtime_end"][0])
                for part in (slice(None, start), slice(end, None)):
                    assert np.array_equal(replay.cache.arena[part], cache.arena[part])

    @pytest.mark.parametrize("running", [1, 3])
    @pytest.mark.parametrize("policy", POLICIES)
    def test_the_integers_are_the_model_s(self, rng, policy, running):
        trace = random_tokens(rng)
        blocks, private = as_blocks(trace)
        for capacity in (3, 8, 30, trace.unlimited_blocks(running)):
            run = replay_trace(trace, policy, capacity, running).as_dict()
            assert run == run | simulate(blocks, policy, capacity, running, private)

    @pytest.mark.parametrize("outputs", [False, True])
    def test_an_unlimited_cache_evicts_nothing_and_reaches_the_ceiling(self, rng, outputs):
        trace = random_tokens(rng).replayed(4, outputs)
        for running in (1, 4):
            run = replay_trace(trace, "lru", trace.unlimited_blocks(running), running)
            assert (run.hit_tokens, run.evictions) == (trace.ceiling_tokens, 0)
            assert (run.overflow_requests, run.overflow_blocks) == (0, 0)
        assert trace.ceiling_tokens > 0

    def test_outputs_are_found_by_the_turns_after_them(self):
        builder = TokenTraceBuilder("turns")
        history = np.arange(4, dtype=np.int32)
        for turn in range(3):
            answer = np.arange(100 * turn, 100 * turn + 8, dtype=np.int32)
            builder.add(history, answer)
            history = np.concatenate((history, answer, [-1 - turn] * 4)).astype(np.int32)
        trace = builder.build().replayed(4)
        # Prompts of 4, 16 and 28 tokens: alone, each finds the one before.
        assert replay_trace(trace, "lru", 30).hit_tokens == 4 + 16
        assert replay_trace(trace.replayed(4, outputs=True), "lru", 30).hit_tokens == 12 + 24

    def test_a_prompt_longer_than_the_pool_is_cut_and_counted(self):
        builder = TokenTraceBuilder("cut")
        for length in (3, 11, 11, 0):
            builder.add(np.arange(length, dtype=np.int32))
        trace = builder.build().replayed(2)
        run = replay_trace(trace, "lru", 4)
        # 6 blocks do not fit into 4, twice; the second time all that is there is hit.
        assert (run.overflow_requests, run.overflow_blocks) == (2, 4)
        assert (run.hit_tokens, run.inserts, run.evictions) == (2 + 8, 2 + 3, 0)

    def test_tokens_that_were_cut_do_not_count_as_speed(self):
        trace = chat_tokens(20)
        run = replay_trace(trace, "lru", 1)
        assert run.overflow_requests == 20
        # A block of 16 tokens each; the seconds are rounded, and few.
        assert run.tokens_per_second * run.engine_seconds < trace.total_tokens / 10

    def test_replay_tells_progress_of_every_request(self):
        seen: list[int] = []
        replay_trace(chat_tokens(40), "lru", 100, progress=seen.append)
        assert sum(seen) == 40

    @pytest.mark.skipif(INTERPRETED, reason="three million tokens take hours interpreted")
    @pytest.mark.parametrize("running", [1, 8])
    @pytest.mark.parametrize("name", list(PUBLIC))
    def test_a_public_trace_gives_the_exact_hits(self, name, running):
        trace = read_trace(need("traces", f"tokens_{name}.jsonl.gz"))
        assert trace.ceiling_tokens == PUBLIC[name]
        for policy in POLICIES:
            run = replay_trace(trace, policy, trace.unlimited_blocks(running), running)
            assert (run.hit_tokens, run.hit_blocks) == (PUBLIC[name], PUBLIC[name] // 16)
            assert run.inserts == trace.total_blocks - run.hit_blocks
            assert (run.evictions, run.overflow_requests) == (0, 0)

    @pytest.mark.skipif(INTERPRETED, reason="three million tokens take hours interpreted")
    @pytest.mark.parametrize("name", list(PUBLIC))
    def test_a_public_trace_gives_the_model_s_integers_when_room_is_short(self, name):
        trace = read_trace(need("traces", f"tokens_{name}.jsonl.gz")).head(120)
        blocks, private = as_blocks(trace)
        before = 0
        for percent in (5, 30):
            capacity = trace.num_unique * percent // 100
            run = replay_trace(trace, "lru", capacity, 2)
            assert run.as_dict() == run.as_dict() | simulate(blocks, "lru", capacity, 2, private)
            assert before <= run.hit_tokens < trace.ceiling_tokens + 1
            before = run.hit_tokens


def test_the_loop_s_slices_are_the_prompts(rng):
    trace = random_tokens(rng)
    assert all(a <= b for a, b in pairwise(trace.starts.tolist()))
    assert all(trace.limits == trace.ends)
    assert all(trace.replayed(4, outputs=True).limits == trace.starts[1:])
