"""``nbkv replay --schedule``, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest

from nbkv import cli
from nbkv.commands import schedule as schedule_command

ROWS = [
    {"timestamp": at, "input_length": length, "output_length": answer, "hash_ids": ids}
    | {"block_size": 4}
    for at, length, answer, ids in ((0, 8, 3, [1, 2]), (9, 12, 2, [1, 2, 3]), (9, 5, 1, [1, 9]))
]
FIELDS = [
    *("policy", "capacity", "running", "max_tokens", "watermark"),
    *("step_seconds", "prefill_rate", "decode_rate"),
    *("requests", "refused_requests", "prompt_tokens", "output_tokens", "hit_tokens"),
    *("computed_tokens", "hit_ratio", "preemptions", "evictions", "steps", "seconds"),
    *("output_tokens_per_second", "first_token_seconds", "inter_token_seconds"),
    *("request_seconds", "scheduler_us", "held_mean", "held_peak", "timeline"),
]


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def run_json(capsys, *arguments: str) -> dict:
    assert cli.main(["replay", "--schedule", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


class TestCommand:
    def test_json_has_the_documented_shape(self, trace_file, capsys):
        report = run_json(capsys, trace_file, "--capacity", "9,200%", "--policy", "lru,fifo")
        runs = report.pop("runs")
        assert report == {
            "trace": "three",
            "block_size": 4,
            "load": 1.0,
            "timeline_fields": ["seconds", "held_blocks", "cached_blocks", "running", "waiting"],
        }
        assert [list(run) for run in runs] == [FIELDS] * 4
        assert [(run["policy"], run["capacity"]) for run in runs] == [
            *(("lru", 9), ("lru", 8), ("fifo", 9), ("fifo", 8))
        ]
        assert {(run["running"], run["max_tokens"], run["watermark"]) for run in runs} == {
            (256, 2048, 1)
        }
        run = runs[0]
        assert (run["requests"], run["prompt_tokens"], run["output_tokens"]) == (3, 25, 6)
        assert run["hit_tokens"] == 8 + 4
        # One prompt of 8 tokens, alone: 8 ms and 8 tokens at 25,000 a second.
        assert run["first_token_seconds"]["p50"] >= 0.008 + 8 / 25_000
        assert set(run["scheduler_us"]) == {"mean", "p50", "p99"}
        assert np.shape(run["timeline"]) == (200, 5)
        assert run["timeline"][-1][0] == run["seconds"]

    def test_options_reach_the_schedule(self, trace_file, capsys):
        options = {
            "--capacity": "50", "--running": "2", "--max-tokens": "4", "--watermark": "10%",
            "--step-time": "1000", "--prefill-rate": "2", "--decode-rate": "0.5", "--load": "0.001",
        }  # fmt: skip
        report = run_json(capsys, trace_file, *(word for o in options.items() for word in o))
        (run,) = report["runs"]
        assert {name: run[name] for name in FIELDS[1:8]} == {
            "capacity": 50,
            "running": 2,
            "max_tokens": 4,
            "watermark": 5,
            "step_seconds": 1.0,
            "prefill_rate": 2.0,
            "decode_rate": 0.5,
        }
        # Two chunks of 4 tokens, 3 s each, then decodes at 3 s; the others come after 9 s.
        assert run["first_token_seconds"]["p50"] >= 6
        assert report["load"] == 0.001

    def test_a_table_is_printed_and_a_plot_saved(self, trace_file, tmp_path, capsys):
        picture = tmp_path / "over_time.png"
        arguments = ["replay", "--schedule", trace_file, "--capacity", "4,9", "--plot"]
        assert cli.main([*arguments, str(picture)]) == 0
        out = capsys.readouterr().out
        assert "lru, 4 blocks" in out
        assert "lru, 9 blocks" in out
        for words in ("time to first token", "time between tokens", "preemptions", "blocks held"):
            assert words in out
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_without_a_trace_the_built_in_workload_is_scheduled(self, capsys):
        report = run_json(capsys, "--requests", "5", "--seed", "3", "--capacity", "2000")
        assert report["trace"] == "chat-3"
        assert report["runs"][0]["requests"] == 5

    def test_requests_that_are_refused_are_counted(self, trace_file, capsys):
        assert cli.main(["replay", "--schedule", trace_file, "--capacity", "2,9"]) == 0
        out = capsys.readouterr().out
        assert "2 requests longer than the smallest pool, refused there." in out
        assert cli.main(["replay", "--schedule", trace_file, "--capacity", "3", "--json"]) == 0
        assert "1 request longer than" in capsys.readouterr().err

    def test_token_traces_are_answered_with_their_outputs(self, tmp_path, capsys):
        rows = [
            {"timestamp": 0, "session": "a", "prefix_of_prev": 0, "suffix_tokens": [1, 2, 3],
             "output_tokens": [4, 9]},
            {"timestamp": 5000, "session": "a", "prefix_of_prev": 3, "suffix_tokens": [4, 5, 6],
             "output_length": 3},
        ]  # fmt: skip
        path = tmp_path / "tokens.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = run_json(capsys, str(path), "--block-size", "2", "--capacity", "20")
        (run,) = report["runs"]
        assert (run["prompt_tokens"], run["output_tokens"]) == (9, 5)
        assert run["hit_tokens"] == 4  # the second prompt repeats the first one's output

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--capacity", "1"], "the shortest request has 6 tokens, and 5 fit into 1 x 4"),
            (["--max-tokens", "8"], "--max-tokens 8: fewer than --running 256"),
            (
                ["--watermark", "10", "--capacity", "9"],
                "--watermark 10: more than the 9 blocks there are",
            ),
            (["--plot", "no/such/folder.png"], "there is no folder"),
            (["--block-size", "8"], "--block-size: only traces of token ids take it"),
        ],
    )
    def test_settings_that_cannot_be_end_with_code_2(self, trace_file, arguments, words, capsys):
        assert cli.main(["replay", "--schedule", trace_file, *arguments]) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""

    @pytest.mark.parametrize("option", [option.name for option in schedule_command.OPTIONS])
    def test_options_of_a_schedule_are_refused_without_one(self, trace_file, option, capsys):
        assert cli.main(["replay", trace_file, option, "3"]) == 2
        assert f"{option}: only --schedule takes it" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--max-tokens", "0", "'0' is not a whole number"),
            ("--watermark", "101%", "'101%' is not a count or a percentage up to 100%"),
            ("--watermark", "unlimited", "'unlimited' is not a count"),
            ("--watermark", "-1", ""),
            ("--step-time", "nan", "'nan' is not a number, written like 12.5"),
            ("--step-time", "1e3", "'1e3' is not a number"),
            ("--prefill-rate", "0", "'0' is not a number above 0"),
            ("--decode-rate", "fast", "'fast' is not a number"),
            ("--load", "0.0", "'0.0' is not a number above 0"),
        ],
    )
    def test_bad_option_values_are_refused(self, option, value, words, capsys):
        with pytest.raises(SystemExit) as refusal:
            cli.main(["replay", "--schedule", option, value])
        assert refusal.value.code == 2
        error = capsys.readouterr().err
        assert option in error
        assert words in error

    def test_a_trace_without_timestamps_ends_with_code_2(self, tmp_path, capsys):
        path = tmp_path / "timeless.jsonl"
        path.write_text(json.dumps(ROWS[0] | {"timestamp": None}) + "\n")
        assert cli.main(["replay", "--schedule", str(path), "--capacity", "9"]) == 2
        assert "request 1 of 1 has no timestamp" in capsys.readouterr().err

    def test_a_step_may_take_no_time_of_its_own(self, trace_file, capsys):
        report = run_json(capsys, trace_file, "--step-time", "0", "--capacity", "9")
        assert report["runs"][0]["seconds"] > 0


def test_a_run_without_a_second_token_has_no_gaps(capsys, tmp_path):
    path = tmp_path / "short.jsonl"
    path.write_text(json.dumps(ROWS[2]) + "\n")
    report = run_json(capsys, str(path), "--capacity", "9")
    assert report["runs"][0]["inter_token_seconds"] == {"mean": None, "p50": None, "p99": None}
    assert cli.main(["replay", "--schedule", str(path), "--capacity", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    between = next(i for i, line in enumerate(lines) if "time between tokens" in line)
    assert [line.split()[-2] for line in lines[between + 1 : between + 4]] == ["-"] * 3
