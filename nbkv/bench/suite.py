"""Every number that nbkv promises, by subject, with its target."""

from collections.abc import Callable, Iterator

from nbkv.bench import blocks, decoding, emitting, hashing, processes
from nbkv.bench.timing import Measurement
from nbkv.config import EvictionPolicy
from nbkv.replay.replay import replay_trace, warm_up
from nbkv.replay.traces import Trace

ROUNDS = 15
COLD_ROUNDS = 4
REPLAY_SHARE = 10  # percent of the distinct blocks


def _append(_: Trace) -> Iterator[Measurement]:
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


def _allocate(_: Trace) -> Iterator[Measurement]:
    allocate, free = blocks.prompt_nanoseconds(20 * ROUNDS)
    yield Measurement("allocate", "allocate_blocks_for_tokens(2048)", "ns/block", allocate, 6.0)
    yield Measurement("allocate", "free_sequence of 128 blocks", "ns/block", free, 5.0)
    value = blocks.long_free_microseconds(20 * ROUNDS)
    yield Measurement("allocate", "free_sequence of 6,250 blocks", "us", value, 150.0)


def _evict(_: Trace) -> Iterator[Measurement]:
    value = blocks.Evicting(2**14, "lru", scattered=False).nanoseconds_a_block(3 * ROUNDS)
    yield Measurement("evict", "evict and allocate, lru, 16 k blocks", "ns/block", value, 20.0)
    for policy, limit in (("lru", 60.0), ("fifo", 250.0), ("frequency", 250.0)):
        value = blocks.Evicting(blocks.LARGE, policy, scattered=True).nanoseconds_a_block(
            COLD_ROUNDS
        )
        name = f"evict and allocate, {policy}, 1 M blocks in random order"
        yield Measurement("evict", name, "ns/block", value, limit)


def _hash(_: Trace) -> Iterator[Measurement]:
    value = hashing.nanoseconds_a_token(20 * ROUNDS)
    yield Measurement("hash", "hash_tokens, 100,000 tokens, block_size 16", "ns/token", value, 1.0)


def _page_tables(_: Trace) -> Iterator[Measurement]:
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


def _replay(trace: Trace) -> Iterator[Measurement]:
    for policy in EvictionPolicy:
        warm_up(policy)
        capacity = max(1, trace.num_unique * REPLAY_SHARE // 100)
        runs = [replay_trace(trace, policy, capacity) for _ in range(ROUNDS)]
        value = max(run.block_refs_per_second for run in runs) / 1e6
        name = f"replay of {trace.name}, {policy}, {REPLAY_SHARE} %"
        yield Measurement("replay", name, "M refs/s", value, 5.0, at_least=True)


def _start(_: Trace) -> Iterator[Measurement]:
    value = processes.import_seconds(5)
    yield Measurement("start", "import nbkv, after numpy", "s", value, 0.6)
    value = processes.first_use_seconds(5)
    yield Measurement("start", "first use, warm disk cache", "s", value, 1.0)
    value = processes.compile_seconds()
    yield Measurement("start", "everything compiled, cold", "s", value, 40.0)


def _memory(_: Trace) -> Iterator[Measurement]:
    value = blocks.creation_seconds(5)
    yield Measurement("memory", "create a cache of 1,048,576 blocks", "s", value, 0.1)
    value = blocks.metadata_bytes_a_block()
    yield Measurement("memory", "metadata, block_size 16", "bytes/block", value, 210.0)


SUBJECTS: dict[str, Callable[[Trace], Iterator[Measurement]]] = {
    "append": _append,
    "allocate": _allocate,
    "evict": _evict,
    "hash": _hash,
    "page_tables": _page_tables,
    "replay": _replay,
    "start": _start,
    "memory": _memory,
}


def measure(subjects: list[str], trace: Trace) -> Iterator[Measurement]:
    """Measure one subject after the other.

    Parameters
    ----------
    subjects : list of str
        Keys of `SUBJECTS`.
    trace : Trace
        What the replay is measured on.

    Yields
    ------
    Measurement
    """
    for subject in subjects:
        yield from SUBJECTS[subject](trace)
