"""Schedulers compiled over `nbkv.embed`, and the disk cache of a caller's own kernels."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedded_scheduler import (
    ADMITTED,
    CHECKSUM,
    FINISHED,
    HIT_TOKENS,
    PREEMPTED,
    TOKENS,
    new_work,
    run_steps,
    run_steps_by_facade,
)
from invariants import assert_intact
from support import INTERPRETED, compiled_allocations, make_cache
from test_jit import copy_package, needs_compiler

import nbkv
from nbkv import embed, statuses
from nbkv.step_layout import STEP_HEADER_DTYPE

NUM_STEPS = 100 if INTERPRETED else 1_000
BATCH, BUDGET = 6, 20

# A caller's package: a kernel that takes a kernel of nbkv's and a number from another file.
CALLER = {
    "__init__.py": "",
    "numbers.py": "OFFSET = 7\n",
    "deep/__init__.py": "",
    "deep/loop.py": """
import nbkv
from caller.numbers import OFFSET
from nbkv.kernels.index import mix_tag

@nbkv.kernel
def shifted(key):
    return mix_tag(key) * 0 + OFFSET
""",
}
RUN_CALLER = """
import numpy as np
from caller.deep.loop import shifted
print(shifted(np.uint64(1)), sum(shifted.stats.cache_hits.values()),
      sum(shifted.stats.cache_misses.values()))
"""


def write_caller(folder: Path) -> Path:
    for name, text in CALLER.items():
        path = folder / "caller" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "caller"


def run_script(*arguments: str, cwd: Path, **environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ
        | {"NBKV_CACHE_DIR": str(cwd / "machine-code"), "PYTHONPATH": str(cwd)}
        | {"NUMBA_BOUNDSCHECK": "0"}
        | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


class TestScheduler:
    @pytest.mark.parametrize("num_blocks", [16, 90])
    @pytest.mark.parametrize("policy", ["lru", "fifo", "frequency"])
    def test_a_compiled_scheduler_does_what_the_facade_does(self, rng, policy, num_blocks):
        work = new_work(rng, num_requests=30, batch=BATCH, budget=BUDGET)
        options = {"eviction_policy": policy, "max_sequences": BATCH}
        cache, twin = (make_cache(num_blocks, 4, **options) for _ in range(2))
        buffers, twin_buffers = (nbkv.StepBuffers.for_cache(c, BUDGET) for c in (cache, twin))
        totals = run_steps_by_facade(twin, twin_buffers, work, NUM_STEPS)
        assert run_steps(cache.writable_arena(), buffers.data, work, NUM_STEPS) == 0
        assert work.totals.tolist() == totals
        assert totals[FINISHED] > NUM_STEPS // 20
        assert totals[HIT_TOKENS] > totals[ADMITTED]
        assert (totals[PREEMPTED] > 0) == (num_blocks == 16)
        assert totals[TOKENS] > NUM_STEPS
        assert totals[CHECKSUM] > 0
        # All state but the reports of the latest call is the same, byte for byte.
        start, end = (int(cache.header[f"runtime_{edge}"][0]) for edge in ("start", "end"))
        for part in (slice(None, start), slice(end, None)):
            assert np.array_equal(cache.arena[part], twin.arena[part])
        # So is the plan, but for whose it is.
        for data in (buffers.data, twin_buffers.data):
            data[: STEP_HEADER_DTYPE.itemsize].view(STEP_HEADER_DTYPE)["identity"] = 0
        assert np.array_equal(buffers.data, twin_buffers.data)
        assert_intact(cache)

    @needs_compiler
    def test_running_it_compiles_once_and_allocates_nothing(self, rng):
        work = new_work(rng, num_requests=30, batch=BATCH, budget=BUDGET)
        cache = make_cache(90, 4, max_sequences=BATCH)
        buffers = nbkv.StepBuffers.for_cache(cache, BUDGET)
        arena = cache.writable_arena()
        assert run_steps(arena, buffers.data, work, 10) == 0
        assert len(run_steps.signatures) == 1
        seen = []
        with compiled_allocations() as so_far:
            for num_steps in (0, 1, 200):
                before = so_far()
                assert run_steps(arena, buffers.data, work, num_steps) == 0
                seen.append([now - then for now, then in zip(so_far(), before, strict=True)])
        # Numba describes each array of the one call, and lets go of it again.
        assert seen == [[2 + len(work)] * 4] * 3

    def test_the_facade_goes_on_where_a_compiled_scheduler_has_stopped(self, rng):
        work = new_work(rng, num_requests=30, batch=BATCH, budget=BUDGET)
        cache = make_cache(90, 4, max_sequences=BATCH)
        buffers = nbkv.StepBuffers.for_cache(cache, BUDGET)
        assert run_steps(cache.writable_arena(), buffers.data, work, 20) == 0
        handles = work.handles[: int(work.size[0])].copy()
        before = cache.num_cached_tokens(int(work.running[0]))
        plan = cache.step(handles, 1, out=buffers)
        cache.commit(plan)
        assert cache.num_cached_tokens(int(work.running[0])) == before + 1
        cache.finish(handles)
        assert cache.num_held_blocks == 0


class TestKernels:
    def test_a_kernel_refuses_by_a_status(self):
        cache = make_cache()
        arena, prompt = cache.writable_arena(), np.arange(5, dtype=np.int32)
        handle, hit = embed.admit_plain(arena, 3, prompt, 4)
        assert (handle, hit) == (cache.handle(3), 0)
        assert embed.admit_plain(arena, 3, prompt, 4)[0] == statuses.SEQUENCE_EXISTS
        handles = np.array([handle])
        assert embed.finish_rows(arena, handles) == 0
        assert embed.finish_rows(arena, handles) == statuses.STALE_HANDLE

    @needs_compiler
    def test_an_arena_that_is_read_only_is_refused(self):
        with pytest.raises(TypeError, match="No matching definition"):
            embed.finish_rows(make_cache().arena, np.empty(0, np.int64))

    @needs_compiler
    def test_an_id_from_2_to_the_63_is_taken(self):
        cache = make_cache()
        arena = cache.writable_arena()
        handle, _ = embed.admit_plain(arena, np.uint64(2**64 - 1), np.arange(2, dtype=np.int32), 0)
        assert cache.handle(2**64 - 1) == handle

    def test_every_published_name_is_there_and_documented(self):
        page = (Path(__file__).parents[1] / "docs" / "embedding-kernels.md").read_text()
        for name in embed.__all__:
            value = getattr(embed, name)
            if callable(value):
                assert inspect.getdoc(value)
            assert f"nbkv.embed.{name}\n" in page or f"`{name}`" in page, name

    def test_the_example_of_the_documentation_runs(self):
        page = (Path(__file__).parents[1] / "docs" / "embedding-kernels.md").read_text()
        names: dict[str, object] = {}
        exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
        assert names["status"] == 0
        assert names["cache"].num_cached_tokens(1) == 100

    def test_writable_arena_is_the_cache_s_own_memory(self):
        cache = make_cache()
        assert cache.writable_arena().flags.writeable
        assert np.shares_memory(cache.writable_arena(), cache.arena)
        assert not cache.arena.flags.writeable


class TestDiskCache:
    @needs_compiler
    def test_a_caller_s_kernel_is_found_by_a_second_process(self, tmp_path):
        copy_package(tmp_path)
        write_caller(tmp_path)
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [7, 0, 1]
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [7, 1, 0]
        assert run_script("-c", RUN_CALLER, cwd=tmp_path, NUMBA_BOUNDSCHECK="1") == [7, 0, 1]

    @needs_compiler
    def test_an_edit_anywhere_in_the_caller_s_package_makes_its_code_stale(self, tmp_path):
        copy_package(tmp_path)
        caller = write_caller(tmp_path)
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [7, 0, 1]
        (caller / "numbers.py").write_text("OFFSET = 8\n")
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [8, 0, 1]
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [8, 1, 0]

    @needs_compiler
    def test_an_upgrade_of_nbkv_makes_a_caller_s_code_stale(self, tmp_path):
        copy_package(tmp_path)
        write_caller(tmp_path)
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [7, 0, 1]
        source = tmp_path / "nbkv" / "kernels" / "index.py"
        source.write_text(source.read_text() + "\n")
        assert run_script("-c", RUN_CALLER, cwd=tmp_path) == [7, 0, 1]

    @needs_compiler
    @pytest.mark.parametrize("as_module", [False, True])
    def test_a_script_s_kernel_depends_on_its_own_file_and_nbkv_only(self, tmp_path, as_module):
        copy_package(tmp_path)
        caller = write_caller(tmp_path)
        text = CALLER["deep/loop.py"] + RUN_CALLER.replace("from caller.deep.loop", "#")
        script = caller / "main.py" if as_module else tmp_path / "script.py"
        script.write_text(text)
        arguments = ["-m", "caller.main"] if as_module else [str(script)]
        assert run_script(*arguments, cwd=tmp_path) == [7, 0, 1]
        assert run_script(*arguments, cwd=tmp_path) == [7, 1, 0]
        (caller / "numbers.py").write_text("OFFSET = 8\n")
        # Run as a module of the package, it depends on the package; as a script it cannot.
        assert run_script(*arguments, cwd=tmp_path)[1:] == ([0, 1] if as_module else [1, 0])

    @needs_compiler
    def test_a_kernel_typed_at_a_prompt_runs_without_a_cache(self, tmp_path):
        copy_package(tmp_path)
        script = "import nbkv\n@nbkv.kernel()\ndef twice(n): return 2 * n\nprint(twice(4))"
        assert run_script("-c", script, cwd=tmp_path) == [8]

    def test_an_interpreted_kernel_is_the_function_itself(self):
        def twice(number):
            return 2 * number

        assert (nbkv.kernel(twice) is twice) == INTERPRETED
        assert nbkv.kernel()(twice)(4) == 8

    @needs_compiler
    def test_a_kernel_is_not_inlined_by_force(self):
        assert not run_steps.targetoptions.get("forceinline", False)
        assert run_steps.targetoptions["nopython"]
