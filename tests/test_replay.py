"""The replay: what it reads, what it generates, and that its integers are the right ones."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from replay_model import simulate
from support import INTERPRETED, need

from nbkv.replay import Trace, TraceError, chat_workload, read_trace, replay_trace
from nbkv.replay.traces import TraceBuilder

POLICIES = ("lru", "fifo", "frequency")
REFERENCE = {"lru": "lru", "fifo": "fifo_leaf", "frequency": "lfu_leaf"}
COMPARED = ("hit_tokens", "hit_blocks", "inserts", "evictions")
GOOD = {
    "timestamp": 0,
    "input_length": 10,
    "output_length": 1,
    "hash_ids": [1, 2, 3],
    "block_size": 4,
}


def write(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


def random_trace(rng: random.Random, num_requests: int = 120, block_size: int = 4) -> Trace:
    """Prompts that branch off each other at random blocks, one name a content."""
    builder = TraceBuilder("random", block_size)
    prompts: list[list[int]] = []
    fresh = 0
    for _ in range(num_requests):
        old = rng.choice(prompts) if prompts and rng.random() < 0.8 else []
        kept = old[: rng.randint(0, len(old))]
        num_new = rng.randint(0 if kept else 1, 6)
        prompt = kept + list(range(fresh, fresh + num_new))
        fresh += num_new
        prompts.append(prompt)
        weights = [rng.randint(1, block_size) for _ in prompt]
        builder.add(np.array(prompt, np.uint64), np.array(weights, np.int64))
    return builder.build()


class TestReading:
    def test_read_trace_spreads_input_length_over_the_blocks(self, tmp_path):
        trace = read_trace(write(tmp_path / "t.jsonl", GOOD, GOOD | {"hash_ids": [1, 2, 3, 9]}))
        assert trace.name == "t"
        assert trace.block_size == 4
        assert [row.tolist() for row in trace.rows()] == [[1, 2, 3], [1, 2, 3, 9]]
        # The prompt ends in the third block; a fourth one carries a token at least.
        assert trace.weights.tolist() == [4, 4, 2, 4, 4, 2, 1]
        assert (trace.num_requests, trace.total_blocks, trace.total_tokens) == (2, 7, 21)
        assert (trace.num_unique, trace.longest, trace.ceiling_tokens) == (4, 4, 10)

    def test_read_trace_takes_block_tokens_and_the_default_block_size(self, tmp_path):
        row = {"hash_ids": [5, 6], "block_tokens": [512, 7]}
        trace = read_trace(write(tmp_path / "t.jsonl", row))
        assert trace.block_size == 512
        assert trace.weights.tolist() == [512, 7]

    def test_read_trace_tells_gzip_by_content(self, tmp_path):
        path = tmp_path / "odd.name"
        path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
        assert read_trace(path).rows()[0].tolist() == [1, 2, 3]

    def test_read_trace_keeps_hashes_of_64_bits(self, tmp_path):
        trace = read_trace(write(tmp_path / "t.jsonl", GOOD | {"hash_ids": [2**64 - 1, 0]}))
        assert trace.hashes.tolist() == [2**64 - 1, 0]

    def test_read_trace_counts_rows_without_hash_ids(self, tmp_path):
        without = {"timestamp": 0, "input_length": 3}
        lines = (without, GOOD, GOOD | {"hash_ids": []}, "", GOOD | {"hash_ids": None})
        trace = read_trace(write(tmp_path / "t.jsonl", *lines))
        assert (trace.num_requests, trace.num_skipped) == (1, 3)

    def test_read_trace_refuses_a_file_with_nothing_to_replay(self, tmp_path):
        with pytest.raises(TraceError, match=r"no row with hash_ids.*1 rows"):
            read_trace(write(tmp_path / "t.jsonl", GOOD | {"hash_ids": []}))
        with pytest.raises(TraceError, match="no row with hash_ids"):
            read_trace(write(tmp_path / "empty.jsonl", ""))

    @pytest.mark.parametrize(
        ("line", "field"),
        [
            ("{not json", "not valid JSON"),
            ("[1, 2]", "expected a JSON object"),
            ('{"hash_ids": [1], "input_length": ' + "9" * 5000 + "}", "not valid JSON"),
            ("[" * 100_000, "not valid JSON"),
            (GOOD | {"hash_ids": "abc"}, "hash_ids: expected a list"),
            (GOOD | {"hash_ids": 0}, "hash_ids: expected a list"),
            (GOOD | {"hash_ids": [1, -2]}, r"hash_ids\[1\]: expected an integer .* got -2"),
            (GOOD | {"hash_ids": [2**64]}, r"hash_ids\[0\]"),
            (GOOD | {"hash_ids": [1, 2.5]}, r"hash_ids\[1\]"),
            (GOOD | {"hash_ids": [1, True]}, r"hash_ids\[1\]"),
            (GOOD | {"hash_ids": [[1]]}, r"hash_ids\[0\]"),
            ({"hash_ids": [1], "block_size": 4}, "input_length: missing"),
            (GOOD | {"input_length": None}, "input_length"),
            (GOOD | {"input_length": -1}, "input_length"),
            (GOOD | {"input_length": "10"}, "input_length"),
            (GOOD | {"output_length": 1.5}, "output_length"),
            (GOOD | {"timestamp": "now"}, "timestamp"),
            (GOOD | {"block_size": 0}, "block_size"),
            (GOOD | {"block_size": 8}, "block_size: 8 differs from 4"),
            (GOOD | {"block_size": 40_000}, "block_size"),
            (GOOD | {"block_tokens": [4]}, "block_tokens: has 1 entries for 3"),
            (GOOD | {"block_tokens": [4, 5, 1]}, r"block_tokens\[1\]"),
            (GOOD | {"block_tokens": [4, 4, 0]}, r"block_tokens\[2\]"),
            (GOOD | {"block_tokens": 12}, "block_tokens: expected a list"),
        ],
    )
    def test_read_trace_names_line_and_field_of_a_malformed_line(self, tmp_path, line, field):
        path = write(tmp_path / "t.jsonl", GOOD, "", line)
        with pytest.raises(TraceError, match=f"t.jsonl, line 3: {field}"):
            read_trace(path)

    def test_read_trace_names_the_line_of_bytes_that_are_no_text(self, tmp_path):
        path = tmp_path / "t.jsonl"
        path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
        with pytest.raises(TraceError, match="line 2: not valid JSON"):
            read_trace(path)

    def test_read_trace_refuses_what_is_no_file(self, tmp_path):
        for path in (tmp_path / "missing.jsonl", tmp_path):
            with pytest.raises(TraceError, match="cannot be read"):
                read_trace(path)

    def test_read_trace_refuses_a_gzip_file_cut_short(self, tmp_path):
        path = tmp_path / "t.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join([json.dumps(GOOD)] * 50).encode())[:-20])
        with pytest.raises(TraceError, match="cannot be read after line"):
            read_trace(path)

    def test_head_takes_the_first_requests(self):
        trace = chat_workload(30)
        head = trace.head(10)
        assert head.num_requests == 10
        assert head.hashes.tolist() == trace.hashes[: trace.starts[10]].tolist()
        assert trace.head(99).num_requests == 30


class TestWorkload:
    def test_chat_workload_repeats_itself_for_a_seed_only(self):
        first, again, other = chat_workload(50, 3), chat_workload(50, 3), chat_workload(50, 4)
        assert first.hashes.tolist() == again.hashes.tolist()
        assert first.weights.tolist() == again.weights.tolist()
        assert first.hashes.tolist() != other.hashes.tolist()

    def test_chat_workload_gives_prefix_unique_ids_and_one_fill_each(self):
        trace = chat_workload(200)
        parents: dict[int, int] = {}
        fills: dict[int, int] = {}
        for row, start in zip(trace.rows(), trace.starts, strict=False):
            for j, block in enumerate(row.tolist()):
                assert parents.setdefault(block, int(row[j - 1]) if j else -1) == (
                    row[j - 1] if j else -1
                )
                assert (
                    fills.setdefault(block, int(trace.weights[start + j]))
                    == trace.weights[start + j]
                )

    def test_chat_workload_shares_prompts_and_histories(self):
        trace = chat_workload()
        assert trace.num_requests == 2_000
        assert 0.5 < trace.ceiling_tokens / trace.total_tokens < 0.95
        roots = {int(row[0]) for row in trace.rows()}
        assert 2 <= len(roots) <= 12


class TestReplay:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("running", [1, 2, 5])
    def test_replay_equals_the_model_on_random_prompts(self, rng, policy, running):
        for _ in range(2 if INTERPRETED else 8):
            trace = random_trace(rng)
            for capacity in (1, 3, 7, 20, trace.num_unique):
                run = replay_trace(trace, policy, capacity, running)
                assert run.as_dict() == run.as_dict() | simulate(trace, policy, capacity, running)

    def test_replay_cuts_a_request_that_does_not_fit(self):
        hashes = np.arange(8, dtype=np.uint64)
        trace = Trace("cut", 2, hashes, np.full(8, 2, np.int64), np.array([0, 3, 8], np.int64))
        run = replay_trace(trace, "lru", capacity=4, running=2)
        # Request 0 holds 3 of the 4 blocks; request 1 gets the last one and lacks 4.
        assert (run.inserts, run.evictions) == (4, 0)
        assert (run.overflow_requests, run.overflow_blocks) == (1, 4)

    def test_replay_keeps_going_when_not_one_block_fits(self):
        hashes = np.array([1, 2, 3, 3], np.uint64)
        trace = Trace("full", 2, hashes, np.full(4, 2, np.int64), np.array([0, 2, 3, 4], np.int64))
        run = replay_trace(trace, "lru", capacity=2, running=2)
        assert (run.inserts, run.hit_blocks) == (3, 0)
        assert (run.overflow_requests, run.overflow_blocks) == (1, 1)

    def test_replay_with_room_for_all_reaches_the_ceiling(self):
        trace = chat_workload(100)
        run = replay_trace(trace, "lru", trace.num_unique)
        assert run.hit_tokens == trace.ceiling_tokens
        assert run.hit_blocks == trace.total_blocks - trace.num_unique
        assert run.evictions == 0
        assert run.hit_ratio_tokens == round(trace.ceiling_tokens / trace.total_tokens, 6)

    def test_replay_tells_progress_of_every_request(self):
        trace = chat_workload(40)
        seen: list[int] = []
        replay_trace(trace, "lru", 100, progress=seen.append)
        assert sum(seen) == 40

    @pytest.mark.skipif(INTERPRETED, reason="a million references take an hour interpreted")
    @pytest.mark.parametrize("name", ["mooncake_conversation", "weka_a"])
    def test_replay_of_a_public_trace_gives_the_reference_integers(self, name):
        trace = read_trace(need("traces", f"{name}.jsonl.gz"))
        text = need("traces", "ref", "ref_prefix.json").read_text()
        settings = json.loads(text)["traces"][name]["policies"]
        num_compared = 0
        for policy in POLICIES:
            for running in (1, 8):
                for capacity, wanted in settings[f"{REFERENCE[policy]}_w{running}"].items():
                    run = replay_trace(trace, policy, int(capacity), running).as_dict()
                    # Even where requests were cut: the reference stops at the same block.
                    fields = (*COMPARED, "overflow_requests", "overflow_blocks")
                    if wanted["overflow_requests"]:
                        fields = ("overflow_requests",)
                    assert {f: run[f] for f in fields} == {f: wanted[f] for f in fields}
                    num_compared += 1
        assert num_compared >= 30

    @pytest.mark.parametrize("name", ["mooncake_conversation", "weka_a"])
    def test_replay_of_a_trace_head_equals_the_model(self, name):
        trace = read_trace(need("traces", f"{name}.jsonl.gz")).head(25)
        for policy in POLICIES:
            run = replay_trace(trace, policy, trace.num_unique // 3, 2)
            wanted = simulate(trace, policy, trace.num_unique // 3, 2)
            assert run.as_dict() == run.as_dict() | wanted
