"""Every number that nbkv promises, by subject, with its target."""

from collections.abc import Callable, Iterator

from nbkv.bench import batching, blocks, decoding, emitting, hashing, pools, processes, stepping
from nbkv.bench.timing import Measurement
from nbkv.config import EvictionPolicy
from nbkv.replay.reading import AnyTrace
from nbkv.replay.runs import replay_trace, warm_up
from nbkv.replay.token_replay import TokenReplay
from nbkv.replay.token_traces import TokenTrace
from nbkv.replay.workload import chat_tokens, chat_workload

ROUNDS = 15
COLD_ROUNDS = 4
STEADY_STEPS = 100_000  # of the p99, alone and beside a busy thread
REPLAY_SHARE = 10  # percent of the distinct blocks


def _append(_: AnyTrace) -> Iterator[Measurement]:
    for num_sequences in (1_024, 16_384):
        batch = decoding.Decoding(num_sequences)
        for cold, limit in ((False, 10.0), (True, 60.0)):
            value = batch.nanoseconds_a_sequence(COLD_ROUNDS if cold else ROUNDS, cold)
            name = f"append_tokens, {num_sequences:,} handles, {'cold' if cold else 'hot'}"
            yield Measurement("append", name, "ns/sequence", value, limit)
        del batch
        value = decoding.Decoding(num_sequences, by_seq_id=True).nanoseconds_a_sequence(ROUNDS)
        name = f"append_tokens, {num_sequences:,} seq_ids, hot"
        yield Measurement("append", name, "ns/sequence", value, 20.0)
    value = decoding.append_token_nanoseconds(ROUNDS)
    yield Measurement("append", "append_token from Python", "ns/call", value, 450.0)
    value = min(decoding.busy_thread_ratio(100) for _ in range(5))
    yield Measurement("append", "p99 beside a busy thread / p50 alone", "times", value, 3.0)


def _allocate(_: AnyTrace) -> Iterator[Measurement]:
    allocate, free = blocks.prompt_nanoseconds(20 * ROUNDS)
    yield Measurement("allocate", "allocate_blocks_for_tokens(2048)", "ns/block", allocate, 6.0)
    yield Measurement("allocate", "free_sequence of 128 blocks", "ns/block", free, 5.0)
    value = blocks.long_free_microseconds(20 * ROUNDS)
    yield Measurement("allocate", "free_sequence of 6,250 blocks", "us", value, 150.0)


def _evict(_: AnyTrace) -> Iterator[Measurement]:
    value = blocks.Evicting(2**14, "lru", scattered=False).nanoseconds_a_block(3 * ROUNDS)
    yield Measurement("evict", "evict and allocate, lru, 16 k blocks", "ns/block", value, 20.0)
    for policy, limit in (("lru", 60.0), ("fifo", 250.0), ("frequency", 250.0)):
        value = blocks.Evicting(blocks.LARGE, policy, scattered=True).nanoseconds_a_block(
            COLD_ROUNDS
        )
        name = f"evict and allocate, {policy}, 1 M blocks in random order"
        yield Measurement("evict", name, "ns/block", value, limit)


def _hash(_: AnyTrace) -> Iterator[Measurement]:
    value = hashing.nanoseconds_a_token(20 * ROUNDS)
    yield Measurement("hash", "hash_tokens, 100,000 tokens, block_size 16", "ns/token", value, 1.0)


def _steps(_: AnyTrace) -> Iterator[Measurement]:
    for num_sequences in (1_024, 16_384):
        for kind, limit in (("open", 10.0), ("opening", 15.0), ("cold", 60.0)):
            rounds = COLD_ROUNDS if kind == "cold" else ROUNDS
            value = stepping.plan_nanoseconds(num_sequences, kind, rounds)
            text = {"open": "no new blocks", "opening": "one in 16 opens one"}.get(kind, kind)
            name = f"plan, decode, {num_sequences:,} handles, {text}"
            yield Measurement("steps", name, "ns/sequence", value, limit)
        value = stepping.step_nanoseconds(num_sequences, ROUNDS)
        limit_hot = 30.0 if num_sequences == 1_024 else None
        name = f"step with tokens, {num_sequences:,} handles"
        yield Measurement("steps", name, "ns/sequence", value, limit_hot)
    median, alone, beside = stepping.crowded_ratios(STEADY_STEPS)
    yield Measurement("steps", "step, 1,024 handles, 99 % occupied, p50", "us", median)
    yield Measurement("steps", "p99 / p50, 99 % occupied", "times", alone, 3.0)
    yield Measurement("steps", "p99 beside a busy thread / p50 alone", "times", beside, 3.0)


def _prefix(_: AnyTrace) -> Iterator[Measurement]:
    prompts = stepping.Prompts()
    for num_tokens, limit in ((2_048, 1.6), (4_096, 2.9)):
        value = prompts.match(num_tokens, 200 * ROUNDS) * 1e6
        name = f"match_prefix, {num_tokens:,} cached tokens, hot"
        yield Measurement("prefix", name, "us", value, limit)
    value = prompts.match(2_048, 200 * ROUNDS, cached=False) * 1e6
    yield Measurement("prefix", "match_prefix, a miss at the first block", "us", value, 0.5)
    value = prompts.match(100_000, COLD_ROUNDS, cold=True) * 1e3
    yield Measurement("prefix", "match_prefix, 100,000 cached tokens, cold", "ms", value, 0.6)
    few_blocks = stepping.Prompts(num_blocks=1_024, longest=2_048)
    planning, committing = few_blocks.prefill(2_048, 20 * ROUNDS)
    blocks_of = 2_048 // stepping.BLOCK_SIZE
    value = planning / blocks_of * 1e9
    yield Measurement("prefix", "admit and plan 2,048 new tokens", "ns/block", value, 15.0)
    value = committing / blocks_of * 1e9
    yield Measurement("prefix", "commit 2,048 new tokens", "ns/block", value, 40.0)
    value = prompts.whole_prefill(100_000, ROUNDS) * 1e3
    yield Measurement("prefix", "admit, plan, commit 100,000 new tokens", "ms", value, 1.0)


def _page_tables(_: AnyTrace) -> Iterator[Measurement]:
    batch = emitting.Emitting()
    size = f"{emitting.NUM_SEQUENCES} x {emitting.PAGES_EACH} pages"
    for cold, limit in ((False, 12.0), (True, None)):
        rounds = COLD_ROUNDS if cold else 100 * ROUNDS
        value = batch.microseconds(batch.csr_step, rounds, cold)
        name = f"csr_step, {size}, {'cold' if cold else 'hot'}"
        yield Measurement("page_tables", name, "us", value, limit)
    by_seq_id = emitting.Emitting(by_seq_id=True)
    value = by_seq_id.microseconds(by_seq_id.csr_step, 100 * ROUNDS)
    yield Measurement("page_tables", f"csr_step, {size}, seq_ids, hot", "us", value)
    for call in (batch.block_tables, batch.tensorrt_llm, batch.hf_indices):
        value = batch.microseconds(call, 20 * ROUNDS)
        yield Measurement("page_tables", f"{call.__name__}, {size}, hot", "us", value)


def _replay(trace: AnyTrace) -> Iterator[Measurement]:
    if isinstance(trace, TokenTrace):
        trace = chat_workload()
    for policy in EvictionPolicy:
        warm_up(trace, policy)
        capacity = max(1, trace.num_unique * REPLAY_SHARE // 100)
        runs = [replay_trace(trace, policy, capacity) for _ in range(ROUNDS)]
        value = max(run.block_refs_per_second for run in runs) / 1e6
        name = f"replay of {trace.name}, {policy}, {REPLAY_SHARE} %"
        yield Measurement("replay", name, "M refs/s", value, 5.0, at_least=True)


def _tokens_per_second(trace: TokenTrace) -> float:
    replay = TokenReplay(trace, "lru", trace.unlimited_blocks(running=1))
    replay.drive()
    return replay.result().tokens_per_second


def _tokens(trace: AnyTrace) -> Iterator[Measurement]:
    given = [trace] if isinstance(trace, TokenTrace) else []
    for tokens in (chat_tokens(), *given):
        warm_up(tokens, "lru")
        value = max(_tokens_per_second(tokens) for _ in range(2 * ROUNDS)) / 1e6
        name = f"replay of {tokens.name} by token ids, never evicting"
        yield Measurement("tokens", name, "M tokens/s", value, 100.0, at_least=True)


def _start(_: AnyTrace) -> Iterator[Measurement]:
    value = processes.import_seconds(5)
    yield Measurement("start", "import nbkv, after numpy", "s", value, 0.6)
    value = processes.first_use_seconds(5)
    yield Measurement("start", "first use, warm disk cache", "s", value, 1.0)
    value = processes.compile_seconds()
    yield Measurement("start", "everything compiled, cold", "s", value, 40.0)


def _memory(_: AnyTrace) -> Iterator[Measurement]:
    value = blocks.creation_seconds(5)
    yield Measurement("memory", "create a cache of 1,048,576 blocks", "s", value, 0.1)
    value = blocks.metadata_bytes_a_block()
    yield Measurement("memory", "metadata, block_size 16", "bytes/block", value, 210.0)


def _pools(_: AnyTrace) -> Iterator[Measurement]:
    def share(name: str, value: float, limit: float | None = None) -> Measurement:
        return Measurement("pools", name, "of memcpy", value, limit, at_least=True)

    rounds, kind = 4 * ROUNDS, "float16"
    for num_threads in (1, 2):
        moving = pools.Moving(kind, num_threads=num_threads)
        for count in (1, 8, 64):
            value = pools.share_of(moving.same_blocks(count), moving.copy_blocks(count), rounds)
            name = f"copy_blocks, {count} of 2 MiB, {num_threads} thread{'s'[: num_threads - 1]}"
            yield share(name, value, 0.85)
    for order in ("NHD", "HND"):
        moving = pools.Moving(kind, token_order=order)
        one, every = moving.same_bytes(1), moving.same_bytes(pools.NUM_LAYERS)
        calls = {
            "append, 256 tokens": (one, moving.append(moving.slots), 0.6),
            "append, 256 scattered tokens": (one, moving.append(moving.scattered), None),
            "append_all, 256 tokens": (every, moving.append_all, 0.6),
            "gather, 256 tokens": (one, moving.gather, 0.6),
            "gather, 256 tokens, all layers": (every, moving.gather_all, 0.6),
        }
        for name, (copy, call, limit) in calls.items():
            yield share(f"{name}, {order}", pools.share_of(copy, call, 2 * rounds), limit)
    for kind in ("fp8", "int8"):
        moving = pools.Moving(kind, num_threads=2)
        every = moving.same_bytes(pools.NUM_LAYERS)
        value = pools.share_of(every, moving.append_all, rounds)
        yield share(f"append_all, 256 float16 tokens to {kind}, 2 threads", value)
        value = pools.share_of(every, moving.gather_all, rounds)
        yield share(f"gather, 256 {kind} tokens as float16, 2 threads", value)
    size = f"{pools.NUM_SEQUENCES} x {pools.CONTEXT:,} tokens"
    value = pools.decode_microseconds(rounds)
    yield Measurement("pools", f"attention.decode, {size}, 32 heads over 8", "us", value)


def _transformers(_: AnyTrace) -> Iterator[Measurement]:
    for uses_block_table, form in ((False, "index"), (True, "block table")):
        for num_sequences, context, times in ((32, 512, None), (64, 2_048, None), (256, 1_024, 20)):
            sides = [
                batching.DecodingBatch(
                    num_sequences, context, uses_nbkv=uses_nbkv, uses_block_table=uses_block_table
                ).seconds_a_step(ROUNDS)
                for uses_nbkv in (False, True)
            ]
            size = f"{form}, {num_sequences} x {context:,} tokens"
            for (before, after), whose in zip(sides, ("transformers' own", "nbkv"), strict=True):
                name = f"{size}: {whose}"
                yield Measurement("transformers", name, "ms/step", (before + after) * 1e3)
            value = sum(sides[0]) / sum(sides[1])
            limit = None if uses_block_table else times
            name = f"{size}: times less"
            yield Measurement("transformers", name, "times", value, limit, at_least=True)


SUBJECTS: dict[str, Callable[[AnyTrace], Iterator[Measurement]]] = {
    "append": _append,
    "allocate": _allocate,
    "evict": _evict,
    "hash": _hash,
    "page_tables": _page_tables,
    "steps": _steps,
    "prefix": _prefix,
    "pools": _pools,
    "replay": _replay,
    "tokens": _tokens,
    "start": _start,
    "memory": _memory,
    "transformers": _transformers,
}
#: Measured when asked for only: they need libraries that nbkv does not.
OPTIONAL = ("transformers",)


def measure(subjects: list[str], trace: AnyTrace) -> Iterator[Measurement]:
    """Measure one subject after the other.

    Parameters
    ----------
    subjects : list of str
        Keys of `SUBJECTS`.
    trace : Trace
        What replays are measured on; the built-in workload where it is of the other kind.

    Yields
    ------
    Measurement
    """
    for subject in subjects:
        yield from SUBJECTS[subject](trace)
