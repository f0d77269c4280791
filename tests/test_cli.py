"""The ``nbkv`` command, as a user runs it and as `main` answers."""

import builtins
import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from support import INTERPRETED

import nbkv
from nbkv import cli
from nbkv.bench import suite
from nbkv.bench.timing import Measurement, best_of
from nbkv.commands import bench as bench_command
from nbkv.commands import common, compiling
from nbkv.commands.inspect import describe
from nbkv.replay import chat_tokens

ROWS = [
    {"input_length": 8, "hash_ids": [1, 2], "block_size": 4, "timestamp": 0, "output_length": 1},
    {"input_length": 12, "hash_ids": [1, 2, 3], "block_size": 4},
    {"input_length": 5, "hash_ids": [1, 9], "block_size": 4},
]
RUN_FIELDS = [
    "policy",
    "capacity",
    "running",
    "hit_blocks",
    "hit_tokens",
    "inserts",
    "evictions",
    "overflow_requests",
    "overflow_blocks",
    "hit_ratio_tokens",
    "hit_ratio_blocks",
    "engine_seconds",
    "block_refs_per_second",
]


TOKEN_ROWS = [
    {"session": "a", "prefix_of_prev": 0, "suffix_tokens": [1, 2, 3], "output_tokens": [4]},
    {"session": "a", "prefix_of_prev": 3, "suffix_tokens": [4, 5, 6]},
]


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "tokens.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TOKEN_ROWS))
    return str(path)


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def usage_error(capsys, *arguments: str) -> str:
    """Run arguments that argparse refuses; return what it says."""
    with pytest.raises(SystemExit) as refusal:
        cli.main(list(arguments))
    assert refusal.value.code == 2
    return capsys.readouterr().err


class TestReplay:
    def test_replay_prints_json_of_the_documented_shape(self, trace_file, capsys):
        assert cli.main(["replay", trace_file, "--json", "--capacity", "50%,3"]) == 0
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        runs = report.pop("runs")
        assert report == {
            "trace": "three",
            "requests": 3,
            "total_blocks": 7,
            "total_tokens": 25,
            "unique_blocks": 4,
        }
        assert all(list(run) == RUN_FIELDS for run in runs)
        policies = ["lru", "lru", "fifo", "fifo", "frequency", "frequency"]
        assert [run["policy"] for run in runs] == policies
        assert [run["capacity"] for run in runs] == [2, 3] * 3
        # Of 3 blocks: request 1 finds blocks 1 and 2, request 2 block 1 and evicts block 3.
        assert {name: runs[1][name] for name in RUN_FIELDS[3:9]} == {
            "hit_blocks": 3,
            "hit_tokens": 12,
            "inserts": 4,
            "evictions": 1,
            "overflow_requests": 0,
            "overflow_blocks": 0,
        }
        assert captured.err == ""

    def test_replay_prints_a_table_and_the_ceiling(self, trace_file, capsys):
        assert cli.main(["replay", trace_file, "--policy", "lru", "--capacity", "4"]) == 0
        out = capsys.readouterr().out
        assert "three: 3 requests, 25 tokens in 7 blocks of 4, 4 of them distinct" in out
        row = next(line for line in out.splitlines() if line.startswith("│ lru"))
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert cells[:8] == ["lru", "4", "100.0%", "48.00%", "42.86%", "4", "0", "0"]
        assert "infinite cache would have hit 48.0% of the tokens" in out

    def test_replay_without_a_trace_runs_the_built_in_workload(self, capsys):
        arguments = ["replay", "--json", "--requests", "20", "--policy", "lru", "--capacity", "25%"]
        assert cli.main(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["trace"], report["requests"], len(report["runs"])) == ("chat-0", 20, 1)
        assert cli.main([*arguments, "--seed", "7"]) == 0
        assert json.loads(capsys.readouterr().out)["trace"] == "chat-7"

    def test_replay_of_token_ids_prints_json_of_the_documented_shape(self, token_file, capsys):
        arguments = ["replay", token_file, "--json", "--policy", "lru", "--block-size", "2"]
        assert cli.main([*arguments, "--capacity", "50%,unlimited,1"]) == 0
        report = json.loads(capsys.readouterr().out)
        runs = report.pop("runs")
        assert report == {
            "trace": "tokens",
            "requests": 2,
            "total_blocks": 5,
            "total_tokens": 9,
            "unique_blocks": 3,
            "block_size": 2,
            "outputs": False,
        }
        assert all(list(run) == [*RUN_FIELDS, "tokens_per_second"] for run in runs)
        assert [run["capacity"] for run in runs] == [1, 3 + 1 + 3, 1]
        assert [run["hit_tokens"] for run in runs] == [2, 2, 2]
        assert [run["overflow_blocks"] for run in runs] == [3, 0, 3]

    def test_replay_of_token_ids_takes_outputs_and_prints_a_table(self, token_file, capsys):
        arguments = ["replay", token_file, "--policy", "lru", "--block-size", "2", "--outputs"]
        assert cli.main([*arguments, "--capacity", "unlimited"]) == 0
        out = capsys.readouterr().out
        assert "3 distinct full ones, outputs counted" in out
        assert "M tokens/s" in out
        assert "44.44%" in out  # 4 of 9 tokens: the second prompt repeats the first one's output

    def test_replay_of_token_ids_saves_a_plot_even_without_a_full_block(self, token_file, tmp_path):
        picture = tmp_path / "hits.png"
        assert cli.main(["replay", token_file, "--capacity", "1,2", "--plot", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_replay_of_a_malformed_token_line_ends_with_code_2(self, tmp_path, capsys):
        path = tmp_path / "bad.jsonl"
        bad = TOKEN_ROWS[1] | {"suffix_tokens": [5, "6"]}
        path.write_text(json.dumps(TOKEN_ROWS[0]) + "\n" + json.dumps(bad) + "\n")
        assert cli.main(["replay", str(path)]) == 2
        captured = capsys.readouterr()
        assert "line 2: suffix_tokens[1]: expected an integer" in captured.err
        assert captured.out == ""

    def test_replay_of_requests_without_a_token_ends_with_code_2(self, tmp_path, capsys):
        path = tmp_path / "late.jsonl"
        empty = TOKEN_ROWS[0] | {"suffix_tokens": []}
        path.write_text(json.dumps(empty) + "\n" + json.dumps(TOKEN_ROWS[0]) + "\n")
        assert cli.main(["replay", str(path), "--requests", "1"]) == 2
        assert "--requests 1: not one token" in capsys.readouterr().err

    @pytest.mark.parametrize("option", [["--block-size", "8"], ["--outputs"]])
    def test_replay_of_blocks_refuses_options_of_token_ids(self, trace_file, option, capsys):
        for source in ([trace_file], []):
            assert cli.main(["replay", *source, *option]) == 2
            assert f"{option[0]}: only traces of token ids" in capsys.readouterr().err

    def test_replay_of_blocks_takes_an_unlimited_capacity(self, trace_file, capsys):
        assert cli.main(["replay", trace_file, "--json", "--capacity", "unlimited"]) == 0
        assert {r["capacity"] for r in json.loads(capsys.readouterr().out)["runs"]} == {4}

    def test_replay_defaults_to_all_policies_and_five_capacities(self, capsys):
        assert cli.main(["replay", "--json", "--requests", "15"]) == 0
        report = json.loads(capsys.readouterr().out)
        shares = [report["unique_blocks"] * percent // 100 for percent in (1, 5, 10, 25, 50)]
        assert [run["capacity"] for run in report["runs"]] == [max(1, b) for b in shares] * 3

    def test_replay_saves_a_plot(self, trace_file, tmp_path, capsys):
        picture = tmp_path / "hits.png"
        assert cli.main(["replay", trace_file, "--capacity", "1,2,4", "--plot", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_replay_says_how_many_rows_it_skipped(self, tmp_path, capsys):
        path = tmp_path / "some.jsonl"
        path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"input_length": 3}) + "\n")
        assert cli.main(["replay", str(path), "--capacity", "2"]) == 0
        assert "1 row without hash_ids skipped." in capsys.readouterr().out
        assert cli.main(["replay", str(path), "--capacity", "2", "--json"]) == 0
        captured = capsys.readouterr()
        assert "1 row without hash_ids skipped." in captured.err
        assert json.loads(captured.out)["requests"] == 1

    def test_replay_says_that_requests_were_cut(self, trace_file, capsys):
        assert cli.main(["replay", trace_file, "--policy", "lru", "--capacity", "1"]) == 0
        assert "did not fit" in capsys.readouterr().out

    def test_replay_of_a_malformed_line_ends_with_code_2(self, tmp_path, capsys):
        path = tmp_path / "bad.jsonl"
        path.write_text(
            json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | {"hash_ids": [-1]}) + "\n"
        )
        assert cli.main(["replay", str(path)]) == 2
        captured = capsys.readouterr()
        assert "line 2: hash_ids[0]: expected an integer" in captured.err
        assert captured.out == ""

    def test_replay_of_a_missing_file_ends_with_code_2(self, capsys):
        assert cli.main(["replay", "no/such.jsonl"]) == 2
        assert "no/such.jsonl: cannot be read" in capsys.readouterr().err

    def test_replay_of_a_cache_too_large_for_memory_ends_with_code_2(self, trace_file, capsys):
        arguments = ["replay", trace_file, "--capacity", "4", "--running", "1000000000"]
        code = cli.main(arguments)
        error = capsys.readouterr().err
        assert (code, "Traceback" in error) in ((0, False), (2, False))

    def test_replay_into_a_missing_folder_ends_with_code_2(self, trace_file, tmp_path, capsys):
        picture = tmp_path / "none" / "hits.png"
        assert cli.main(["replay", trace_file, "--plot", str(picture)]) == 2
        assert "there is no folder" in capsys.readouterr().err

    def test_replay_into_an_unknown_format_ends_with_code_2(self, trace_file, tmp_path, capsys):
        picture = str(tmp_path / "hits.xyz")
        assert cli.main(["replay", trace_file, "--capacity", "2", "--plot", picture]) == 2
        assert "hits.xyz" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--policy", "mru", "unknown policy 'mru'; choose from lru, fifo, frequency"),
            ("--policy", "", "unknown policy ''"),
            ("--capacity", "0", "'0' is not a whole number from 1"),
            ("--capacity", "-5", ""),
            ("--capacity", "0%", "'0%' is not a percentage"),
            ("--capacity", "1e3%", "not a percentage"),
            ("--capacity", "nan%", "not a percentage"),
            ("--capacity", "10%,,5%", "''"),
            ("--capacity", "ten", "'ten' is not a whole number"),
            ("--capacity", "99999999999", "not a whole number"),
            ("--running", "0", "'0' is not a whole number"),
            ("--running", "1.5", "'1.5' is not a whole number"),
            ("--capacity", "Unlimited", "'Unlimited' is not"),
            ("--block-size", "0", "'0' is not a whole number"),
            ("--block-size", "32768", "'32768' is not a whole number up to 32,767"),
            ("--seed", "x", "'x' is not a whole number"),
            ("--requests", "0", "'0' is not a whole number"),
        ],
    )
    def test_replay_refuses_bad_option_values(self, capsys, option, value, words):
        error = usage_error(capsys, "replay", option, value)
        assert option in error
        assert words in error

    def test_capacity_shares_are_exact_and_at_least_one_block(self):
        trace = nbkv_trace_of(100)
        for percent in range(1, 101):
            assert common.num_capacity_blocks(common.capacity(f"{percent}%"), trace) == percent
        assert common.num_capacity_blocks(common.capacity("12.5 %"), trace) == 12
        assert common.num_capacity_blocks(common.capacity("0.1%"), trace) == 1
        assert common.num_capacity_blocks(common.capacity("250%"), trace) == 250


def nbkv_trace_of(num_unique: int) -> "nbkv.replay.Trace":
    from nbkv.replay import Trace

    hashes = np.arange(num_unique, dtype=np.uint64)
    starts = np.array([0, num_unique], np.int64)
    return Trace("flat", 4, hashes, np.full(num_unique, 4, np.int64), starts)


class TestExtras:
    @pytest.fixture
    def missing(self, monkeypatch):
        """Make an import fail as if the package were not installed."""

        def hide(package: str) -> None:
            real = builtins.__import__

            def refuse(name, *rest):
                if name.split(".")[0] == package:
                    raise ModuleNotFoundError(f"No module named {package!r}", name=package)
                return real(name, *rest)

            for name in [n for n in sys.modules if n.split(".")[0] == package]:
                monkeypatch.delitem(sys.modules, name)
            monkeypatch.setitem(sys.modules, package, None)
            monkeypatch.setattr(builtins, "__import__", refuse)

        return hide

    def test_replay_without_rich_tells_how_to_install_it(self, trace_file, missing, capsys):
        missing("rich")
        assert cli.main(["replay", trace_file]) == 1
        captured = capsys.readouterr()
        assert "needs rich" in captured.err
        assert "pip install 'nbkv[cli]'" in captured.err
        assert captured.out == ""

    def test_replay_without_matplotlib_tells_how_to_install_it(self, trace_file, missing, capsys):
        missing("matplotlib")
        assert cli.main(["replay", trace_file, "--plot", "hits.png"]) == 1
        assert "--plot needs matplotlib" in capsys.readouterr().err

    def test_replay_prints_json_without_rich(self, trace_file, missing, capsys):
        missing("rich")
        assert cli.main(["replay", trace_file, "--json", "--capacity", "2"]) == 0
        assert json.loads(capsys.readouterr().out)["requests"] == 3

    def test_importing_nbkv_imports_no_extra(self):
        script = (
            "import sys, nbkv, nbkv.cli, nbkv.replay, nbkv.bench;"
            "print([n for n in ('rich', 'matplotlib', 'asv') if n in sys.modules])"
        )
        assert run_python("-c", script).stdout.strip() == "[]"


def run_python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(nbkv.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


class TestInspect:
    def test_inspect_describes_the_end_of_a_replay(self, trace_file, capsys):
        arguments = ["inspect", trace_file, "--capacity", "8", "--running", "2"]
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        # Requests 1 and 2 are alive: blocks 1, 2, 3 and 9, block 1 shared.
        assert "8 blocks of 4 tokens: 4 (50.0%) held by sequences, 0 (0.0%) cached" in out
        assert "4 (50.0%) free" in out
        assert "2 sequences are alive" in out
        assert "The longest is number 1: 3 blocks, of which 2 were found" in out
        assert "1 held block (25.0%) is shared; the most shared has 2 holders." in out
        assert "are 100.0% full" in out

    def test_inspect_describes_a_replay_of_token_ids(self, token_file, capsys):
        arguments = ["inspect", token_file, "--block-size", "2", "--capacity", "unlimited"]
        assert cli.main([*arguments, "--running", "2"]) == 0
        out = capsys.readouterr().out
        assert "8 blocks of 2 tokens: 4 (50.0%) held by sequences" in out
        assert "The longest is number 1: 3 blocks, of which 1 were found" in out

    def test_inspect_runs_the_built_in_workload(self, capsys):
        assert cli.main(["inspect", "--requests", "20", "--policy", "fifo"]) == 0
        out = capsys.readouterr().out
        assert "chat-0: 20 requests" in out
        assert "After its last request, under fifo:" in out

    def test_inspect_refuses_two_capacities(self, capsys):
        assert "'1%,2%'" in usage_error(capsys, "inspect", "--capacity", "1%,2%")

    def test_describe_of_an_empty_cache_tells_that_nothing_is_there(self):
        cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, 6, 1, 1, 8))
        lines = describe(cache)
        assert lines[0].startswith("6 blocks of 4 tokens: 0 (0.0%) held by sequences")
        assert lines[1] == "No sequence is alive."
        assert lines[2].startswith("So far 0 blocks were allocated")

    def test_describe_tells_of_partly_filled_blocks(self):
        cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, 6, 1, 1, 8))
        cache.allocate_blocks_for_tokens(3, 5)
        fill = next(line for line in describe(cache) if "full" in line)
        assert (
            fill
            == "Held and cached blocks are 62.5% full; 50.0% of the held ones are partly filled."
        )


class TestWarmup:
    def test_warmup_gets_every_kernel_ready(self, capsys):
        assert cli.main(["warmup"]) == 0
        from nbkv import _demand, _jit

        count = len(_jit.ENTRIES) + len(_demand.ON_DEMAND)
        assert f"{count} kernels ready" in capsys.readouterr().out

    @pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
    @pytest.mark.parametrize("error", [BrokenProcessPool("killed"), OSError("no semaphores")])
    def test_warmup_goes_on_where_there_are_no_other_processes(self, error, monkeypatch, capsys):
        class Broken:
            def __init__(self, *_, **__):
                raise error

        monkeypatch.setattr(compiling, "ProcessPoolExecutor", Broken)
        assert cli.main(["warmup", "--jobs", "2"]) == 0
        assert f"{len(compiling.name_kernels())} kernels ready" in capsys.readouterr().out

    def test_jobs_are_a_number_from_1_on(self, capsys):
        with pytest.raises(SystemExit) as done:
            cli.main(["warmup", "--jobs", "0"])
        assert done.value.code == 2
        assert "--jobs" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
    def test_warmup_into_a_folder_is_found_by_a_later_process(self, tmp_path):
        folder = tmp_path / "image"
        done = run_python("-m", "nbkv.cli", "warmup", "--into", str(folder))
        assert done.returncode == 0, done.stderr
        assert str(folder) in done.stdout
        script = (
            "import nbkv, nbkv._jit as j; nbkv.PagedKVCache(nbkv.CacheConfig(4, 6, 1, 1, 8));"
            "print(sum(sum(f.stats.cache_hits.values()) for f, _ in j.ENTRIES),"
            "sum(sum(f.stats.cache_misses.values()) for f, _ in j.ENTRIES), len(j.ENTRIES))"
        )
        later = run_python("-c", script, NBKV_CACHE_DIR=str(folder))
        hits, misses, entries = map(int, later.stdout.split())
        assert (hits, misses) == (entries, 0)

    def test_warmup_into_a_file_ends_with_code_2(self, tmp_path, capsys):
        path = tmp_path / "file"
        path.write_text("")
        assert cli.main(["warmup", "--into", str(path)]) == 2
        assert "--into" in capsys.readouterr().err


class TestBench:
    RESULTS = (
        Measurement("append", "steps", "ns", 5.0, 10.0),
        Measurement("append", "calls", "ns", 12.5, 10.0),
        Measurement("replay", "refs", "M/s", 12.5, 10.0, at_least=True),
        Measurement("replay", "no target", "s", 1.0),
    )

    def test_measurement_meets_its_target_or_not(self):
        assert [result.met for result in self.RESULTS] == [True, False, True, None]

    def test_bench_prints_target_and_measured(self, monkeypatch, capsys):
        monkeypatch.setattr(bench_command, "measure", lambda names, trace: iter(self.RESULTS))
        assert cli.main(["bench", "--only", "append", "--requests", "5"]) == 0
        lines = capsys.readouterr().out.splitlines()
        cells = [
            [c.strip() for c in line.strip("│").split("│")] for line in lines if line[:1] == "│"
        ]
        assert cells == [
            ["steps", "<= 10", "5", "ns", "met"],
            ["calls", "<= 10", "12.5", "ns", "missed"],
            ["refs", ">= 10", "12.5", "M/s", "met"],
            ["no target", "", "1", "s", ""],
        ]

    def test_bench_prints_json(self, capsys):
        assert cli.main(["bench", "--only", "memory", "--json", "--requests", "5"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["subject"] for row in rows] == ["memory", "memory"]
        assert {row["met"] for row in rows} <= {True, False}

    def test_bench_measures_tokens_on_the_built_in_workload_and_on_the_file(
        self, token_file, monkeypatch, capsys
    ):
        monkeypatch.setattr(suite, "ROUNDS", 1)
        monkeypatch.setattr(suite, "chat_tokens", lambda: chat_tokens(5))
        assert cli.main(["bench", "--only", "tokens", "--json", token_file]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["name"].split()[2] for row in rows] == ["chat-0", "tokens"]
        assert {(row["unit"], row["limit"], row["at_least"]) for row in rows} == {
            ("M tokens/s", 100.0, True)
        }

    def test_bench_refuses_an_unknown_subject(self, capsys):
        assert "unknown subject 'speed'" in usage_error(capsys, "bench", "--only", "speed")

    def test_bench_measures_what_needs_other_libraries_only_when_asked(self, monkeypatch, capsys):
        asked = []
        monkeypatch.setattr(
            bench_command, "measure", lambda names, trace: asked.extend(names) or iter(())
        )
        assert cli.main(["bench", "--json", "--requests", "5"]) == 0
        assert asked == [name for name in suite.SUBJECTS if name not in suite.OPTIONAL]
        monkeypatch.setitem(sys.modules, "nbkv.integrations.transformers", None)
        assert cli.main(["bench", "--only", "transformers", "--json"]) == 1
        assert "nbkv.integrations.transformers" in capsys.readouterr().err

    def test_best_of_takes_the_shortest_round(self):
        seconds = iter([3.0, 1.0, 2.0])
        assert best_of(3, lambda: next(seconds)) == 1.0

    def test_metadata_stays_within_its_bound(self):
        from nbkv.bench.blocks import metadata_bytes_a_block

        assert 150 < metadata_bytes_a_block() <= 210

    def test_decoding_steps_and_rewinds(self):
        from nbkv.bench import decoding

        batch = decoding.Decoding(3)
        assert len(batch.step_seconds()) == decoding.STEPS
        seq_id = int(batch.seq_ids[2])
        assert batch.cache.num_cached_tokens(seq_id) == decoding.CONTEXT
        batch.step()
        assert batch.cache.num_cached_tokens(seq_id) == decoding.CONTEXT + 1

    def test_emitting_fills_its_arrays(self):
        from nbkv.bench import emitting

        batch = emitting.Emitting(by_seq_id=True)
        for call in (batch.csr_step, batch.block_tables, batch.tensorrt_llm, batch.hf_indices):
            assert 0 < batch.microseconds(call, 1) < float("inf")
        assert batch.indptr[-1] == batch.indices.size == batch.table.size
        assert (batch.table.ravel() == batch.indices).all()
        assert (batch.slots == batch.reads.reshape(emitting.NUM_SEQUENCES, -1)[:, -1]).all()

    @pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
    def test_evicting_takes_cached_blocks_only(self, policy):
        from nbkv.bench.blocks import TAKEN_AT_ONCE, Evicting

        evicting = Evicting(2 * TAKEN_AT_ONCE, policy, scattered=True)
        assert evicting.cache.num_cached_blocks == 2 * TAKEN_AT_ONCE
        before = evicting.cache.stats.evictions
        evicting.take(1)
        assert evicting.cache.stats.evictions - before == TAKEN_AT_ONCE
        evicting.fill()
        assert evicting.cache.num_cached_blocks == 2 * TAKEN_AT_ONCE


class TestMain:
    def test_version_is_the_package_s(self, capsys):
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"nbkv {nbkv.__version__}\n"

    def test_no_command_prints_help_and_ends_with_code_2(self, capsys):
        assert cli.main([]) == 2
        assert "replay" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["replay", "bench", "warmup", "inspect"])
    def test_help_of_every_command_prints(self, command, capsys):
        with pytest.raises(SystemExit) as done:
            cli.main([command, "--help"])
        assert done.value.code == 0
        assert command in capsys.readouterr().out

    def test_interruption_ends_with_code_130(self, monkeypatch, capsys):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(common, "load_trace", interrupt)
        assert cli.main(["replay", "--json"]) == 130
        assert "Traceback" not in capsys.readouterr().err

    def test_a_reader_that_leaves_early_causes_no_traceback(self, trace_file):
        script = f"{sys.executable} -m nbkv.cli replay {trace_file} --capacity 2 | head -c 1"
        environment = os.environ | {"PYTHONPATH": str(Path(nbkv.__file__).parents[1])}
        done = subprocess.run(
            script, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
