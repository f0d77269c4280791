"""The seed's recorded operations: every one before its first defect comes out the same."""

import gzip
import json
from typing import Any

import pytest
from invariants import assert_intact
from naive import NaiveCache, Refused
from support import DATA, INTERPRETED, need, stats_list

import nbkv

VECTORS = "seed", "vectors", "vectors.jsonl.gz"
NUM_VECTORS = 100
NUM_CHECKED = 13_393
# What the seed calls these, in words that do not vary, and what they are here.
KINDS = {
    "source has only": "PrefixError",
    "not found": "UnknownSequenceError",
    "available for eviction": "OutOfBlocksError",
}


def load_vectors() -> list[dict[str, Any]]:
    """Read all vectors; without the data there is nothing to run."""
    if not DATA.joinpath(*VECTORS).exists():
        return []
    with gzip.open(DATA.joinpath(*VECTORS), "rt") as lines:
        return [json.loads(line) for line in lines]


LOADED = load_vectors()


class NaiveSide:
    """Runs vector operations on the model."""

    def __init__(self, config: dict[str, Any]) -> None:
        c = dict(config)
        per_token = 2 * c["num_layers"] * c["num_heads"] * c["head_dim"] * 2
        self.cache = NaiveCache(
            c["block_size"],
            c["num_blocks"],
            c["policy"],
            bytes_per_block=per_token * c["block_size"],
        )

    @property
    def num_free(self) -> int:
        return len(self.cache.free)

    @property
    def stats(self) -> list[int]:
        return self.cache.stats

    def ask(self, name: str, args: list[Any]) -> Any:
        if name == "num_free_blocks":
            return len(self.cache.free)
        if name == "total_blocks":
            return self.cache.num_blocks
        answer = getattr(self.cache, name)
        return answer(*args) if callable(answer) else answer

    def check(self) -> None:
        pass


class EngineSide(NaiveSide):
    """Runs vector operations on the engine."""

    def __init__(self, config: dict[str, Any]) -> None:
        c = dict(config)
        self.cache = nbkv.PagedKVCache(
            nbkv.CacheConfig(
                c["block_size"],
                c["num_blocks"],
                c["num_layers"],
                c["num_heads"],
                c["head_dim"],
                eviction_policy=c["policy"],
            )
        )

    @property
    def num_free(self) -> int:
        return self.cache.num_free_blocks

    @property
    def stats(self) -> list[int]:
        return stats_list(self.cache)

    def ask(self, name: str, args: list[Any]) -> Any:
        if name == "stats":
            return self.stats
        owner = self.cache.stats if name == "hit_rate" else self.cache
        answer = getattr(owner, name)
        answer = answer(*args) if callable(answer) else answer
        return answer.tolist() if hasattr(answer, "tolist") else answer

    def check(self) -> None:
        assert_intact(self.cache)


def run_one(side: NaiveSide, op: list[Any], record: dict[str, Any], tables: dict[int, Any]) -> None:
    """Run one operation and compare everything that the record says."""
    name, args = op[0].replace("get_block_table", "block_table"), op[1:]
    if name != "dump":
        try:
            answer, kind = side.ask(name, args), None
        except (Refused, nbkv.KVCacheError) as error:
            answer, kind = None, getattr(error, "kind", type(error).__name__)
        if "e" in record:
            assert kind == next(v for k, v in KINDS.items() if k in record["e"])
        else:
            assert (answer, kind) == (record["r"], None)
    for seq_id, table in record.get("d", {}).items():
        tables[int(seq_id)] = table
    assert side.num_free == record["free"]
    assert side.stats == record["st"]
    for seq_id, num_tokens in record.get("nt", {}).items():
        assert side.ask("num_cached_tokens", [int(seq_id)]) == num_tokens
        assert side.ask("block_table", [int(seq_id)]) == tables.get(int(seq_id))


def run_vector(vector: dict[str, Any], side_of: type[NaiveSide]) -> None:
    """Run a vector up to its first defect."""
    side = side_of(vector["ops"][0][1])
    tables: dict[int, Any] = {}
    until = vector["check_until"]
    for i, op in enumerate(vector["ops"][:until]):
        if op[0] == "new":
            assert i == 0
            continue
        try:
            run_one(side, op, vector["out"][i], tables)
        except AssertionError as error:
            error.add_note(f"{vector['id']} operation {i}: {op} -> {vector['out'][i]}")
            raise
        if i % 10 == 0 or not INTERPRETED:
            side.check()
    for seq_id, table in tables.items():
        assert side.ask("block_table", [seq_id]) == table
    side.check()


@pytest.mark.parametrize("side_of", [NaiveSide, EngineSide], ids=["naive", "engine"])
@pytest.mark.parametrize("index", range(NUM_VECTORS))
def test_engine_and_model_do_what_the_seed_did(index: int, side_of: type[NaiveSide]) -> None:
    """Ids, tables, counters and kinds of errors are the seed's."""
    need(*VECTORS)
    run_vector(LOADED[index], side_of)


def test_vectors_are_all_there() -> None:
    """The count that the vectors' page states is the count that runs here."""
    need(*VECTORS)
    assert len(LOADED) == NUM_VECTORS
    assert sum(v["check_until"] for v in LOADED) == NUM_CHECKED
