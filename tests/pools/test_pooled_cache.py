"""A cache with a pool: what is decided is what is moved, and attention sees each history."""

import random

import numpy as np
import pytest
from pool_support import LAYOUTS, QUANTISED, make_config, make_pool, numbers
from test_attention import dense

import nbkv
from nbkv import attention, page_tables

LAYERS, HEADS, DIM = 2, 2, 8


def make_pair(
    dtype: str = "float32", place=("block_major", "NHD"), **options
) -> tuple[nbkv.PagedKVCache, nbkv.HostPool]:
    shape = {"num_layers": LAYERS, "num_kv_heads": HEADS, "head_dim": DIM, "dtype": dtype}
    config = nbkv.CacheConfig(4, **({"num_blocks": 24} | shape | options))
    pool = make_pool(config, place)
    return nbkv.PagedKVCache(config, pool=pool), pool


def vectors(rng: random.Random, num_tokens: int, dtype: str = "float32") -> np.ndarray:
    """Make keys and values at once: (2, layers, tokens, heads, dim)."""
    values = numbers(rng, (2, LAYERS, num_tokens, HEADS, DIM))
    return values.astype(np.float16) if dtype == "float16" else values


class Histories:
    """What each sequence's tokens were: keys and values in arrays of their own."""

    def __init__(self, cache: nbkv.PagedKVCache, tolerance: float) -> None:
        self.cache, self.tolerance = cache, tolerance
        self.known: dict[int, np.ndarray] = {}

    def append(self, seq_id: int, more: np.ndarray) -> None:
        old = self.known.get(seq_id)
        self.known[seq_id] = more if old is None else np.concatenate([old, more], axis=2)

    def assert_attended(self, rng: random.Random) -> None:
        """Compare attention over the pool with dense attention over the histories."""
        ids = [i for i, history in self.known.items() if history.shape[2]]
        if not ids:
            return
        query = numbers(rng, (len(ids), 2 * HEADS, DIM))
        names = np.array(ids, np.uint64)
        table = np.empty((len(ids), self.cache.config.table_width), np.int32)
        page_tables.block_tables(self.cache, names, table)
        lengths = np.array([self.known[i].shape[2] for i in ids], np.int32)
        assert [self.cache.num_cached_tokens(i) for i in ids] == lengths.tolist()
        for layer in range(LAYERS):
            got = attention.decode(query, self.cache.pool, table, lengths, layer=layer)
            for i, seq_id in enumerate(ids):
                keys, values = self.known[seq_id][:, layer]
                want = dense(query[i], keys, values)
                bound = self.tolerance * max(1, np.abs(values).max())
                np.testing.assert_allclose(got[i], want, rtol=self.tolerance, atol=bound)


def drive(rng: random.Random, cache: nbkv.PagedKVCache, histories: Histories, steps: int) -> None:
    """Append, fork, truncate and free at random; a full cache makes room by itself."""
    dtype, next_id = cache.config.dtype, 3
    # What must not depend on chance: a fork of a partly filled block.
    cache.add_sequence(1)
    new = vectors(rng, 6, dtype)
    cache.append(np.array([1], np.uint64), new[0], new[1], 6)
    cache.fork(1, 2)
    more = vectors(rng, 2, dtype)
    cache.append(np.array([2, 1], np.uint64), more[0], more[1])
    histories.known |= {1: new, 2: new}
    histories.append(2, more[:, :, :1])
    histories.append(1, more[:, :, 1:])
    for _ in range(steps):
        alive = list(histories.known)
        choice = rng.random()
        if (choice < 0.15 and len(alive) < 7) or not alive:
            cache.add_sequence(next_id)
            histories.known[next_id] = vectors(rng, 0, dtype)
            next_id += 1
        elif choice < 0.3 and len(alive) < 7:
            source = rng.choice(alive)
            cache.fork(source, next_id)
            histories.known[next_id] = histories.known[source]
            next_id += 1
        elif choice < 0.4:
            seq_id = rng.choice(alive)
            kept = rng.randint(0, histories.known[seq_id].shape[2])
            cache.truncate(seq_id, kept)
            histories.known[seq_id] = histories.known[seq_id][:, :, :kept]
        elif choice < 0.45:
            seq_id = rng.choice(alive)
            cache.free_sequence(seq_id)
            del histories.known[seq_id]
        else:
            batch = rng.sample(alive, rng.randint(1, len(alive)))
            counts = [rng.choice([0, 1, 1, 3, 6]) for _ in batch]
            new = vectors(rng, sum(counts), dtype)
            names, numbers_of = np.array(batch, np.uint64), np.array(counts, np.int32)
            before = cache.pool.data.tobytes()
            try:
                cache.append(names, new[0], new[1], numbers_of)
            except nbkv.OutOfBlocksError:
                assert cache.pool.data.tobytes() == before
                seq_id = rng.choice(alive)
                cache.free_sequence(seq_id)
                del histories.known[seq_id]
                continue
            edges = np.cumsum([0, *counts])
            for i, seq_id in enumerate(batch):
                histories.append(seq_id, new[:, :, edges[i] : edges[i + 1]])
        histories.assert_attended(rng)


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float16", 2e-6)])
def test_decoding_reproduces_dense_attention_for_forks_and_truncations(
    rng, place, dtype, tolerance
) -> None:
    cache, _ = make_pair(dtype, place)
    histories = Histories(cache, tolerance)
    drive(rng, cache, histories, 60)
    assert cache.stats.cow_copies > 0


@pytest.mark.parametrize("dtype", QUANTISED)
def test_quantised_blocks_keep_their_scales_when_they_are_copied(rng, dtype) -> None:
    cache, pool = make_pair(dtype, num_blocks=12)
    slots: dict[int, list[int]] = {}
    new = vectors(rng, 6)
    cache.add_sequence(1)
    slots[1] = cache.append(np.array([1], np.uint64), new[0], new[1], 6).tolist()
    cache.fork(1, 2)
    more = vectors(rng, 2)
    both = np.array([1, 2], np.uint64)
    cache.append(both, more[0], more[1])
    assert len(cache.last_copies) == 1
    first, second = (cache.block_table(i) for i in (1, 2))
    assert first[0] == second[0]
    assert first[1] != second[1]
    for layer in range(LAYERS):
        one, two = (pool.gather(layer, table, 7) for table in (first, second))
        assert one[:, :6].tobytes() == two[:, :6].tobytes()
        assert one[:, 6].tobytes() != two[:, 6].tobytes()
        assert np.abs(one[:, :6] - new[:, layer]).max() < 0.1 * np.abs(new).max()


class Stepper:
    """A decode loop over plans: admits prompts with shared beginnings, and evicts."""

    def __init__(self, rng: random.Random, cache: nbkv.PagedKVCache) -> None:
        self.rng, self.cache = rng, cache
        self.histories = Histories(cache, 2e-6)
        self.tokens: dict[int, list[int]] = {}
        self.by_prefix: dict[tuple[int, ...], np.ndarray] = {}
        self.next_id = 1

    def vectors_of(self, tokens: list[int]) -> np.ndarray:
        """Give every prefix its own vectors, the same each time: only a right hit has them."""
        out = []
        for end in range(1, len(tokens) + 1):
            key = tuple(tokens[:end])
            if key not in self.by_prefix:
                self.by_prefix[key] = vectors(self.rng, 1)
            out.append(self.by_prefix[key])
        return np.concatenate(out, axis=2)

    def admit(self) -> None:
        prompt = [self.rng.randrange(2) for _ in range(self.rng.randint(1, 14))]
        _, hits = self.cache.admit(self.next_id, prompt)
        self.tokens[self.next_id] = prompt
        self.histories.known[self.next_id] = self.vectors_of(prompt)[:, :, :hits]
        self.next_id += 1

    def step(self) -> None:
        ids = list(self.tokens)
        known = self.histories.known
        for i in ids:
            if known[i].shape[2] == len(self.tokens[i]):
                self.tokens[i].append(self.rng.randrange(2))
        counts = [len(self.tokens[i]) - known[i].shape[2] for i in ids]
        names = np.array(ids, np.uint64)
        try:
            plan = self.cache.plan(names, np.array(counts, np.int32))
        except nbkv.OutOfBlocksError:
            self.end(self.rng.choice(ids))
            return
        new = [self.vectors_of(self.tokens[i])[:, :, known[i].shape[2] :] for i in ids]
        joined = np.concatenate(new, axis=2)
        self.cache.execute(plan, joined[0], joined[1])
        written = [self.tokens[i][-count:] for i, count in zip(ids, counts, strict=True)]
        self.cache.commit(plan, tokens=np.concatenate(written).astype(np.int32))
        for i, more in zip(ids, new, strict=True):
            self.histories.append(i, more)
        self.histories.assert_attended(self.rng)

    def end(self, seq_id: int) -> None:
        self.cache.finish(np.array([seq_id], np.uint64))
        del self.tokens[seq_id], self.histories.known[seq_id]


@pytest.mark.parametrize("partial_reuse", [False, True])
def test_plans_executed_reproduce_dense_attention_with_hits_and_evictions(
    rng, partial_reuse
) -> None:
    cache, _ = make_pair(num_blocks=16, partial_reuse=partial_reuse)
    stepper = Stepper(rng, cache)
    for _ in range(60):
        if len(stepper.tokens) < 4:
            stepper.admit()
        stepper.step()
        if stepper.tokens and rng.random() < 0.3:
            stepper.end(rng.choice(list(stepper.tokens)))
    assert cache.stats.evictions > 0
    assert cache.stats.cache_hits > 0


def test_execute_without_keys_makes_the_copies_only(rng) -> None:
    cache, pool = make_pair(partial_reuse=True)
    new = vectors(rng, 8)
    prompt = list(range(8))
    cache.admit(1, prompt)
    plan = cache.plan(np.array([1], np.uint64), 8)
    cache.execute(plan, new[0], new[1])
    cache.commit(plan, tokens=prompt)
    cache.admit(2, [0, 1, 2, 3, 4, 5, 99])
    plan = cache.plan(np.array([2], np.uint64), 1)
    assert len(plan.copies) == 1
    _, source, target, kept = plan.copies[0].tolist()
    before = pool.data.copy()
    cache.execute(plan)
    before[target, :, :, :kept] = before[source, :, :, :kept]
    assert pool.data.tobytes() == before.tobytes()
    # Layer by layer, as a model writes.
    more = vectors(rng, 1)
    for layer in range(LAYERS):
        pool.append(layer, more[0, layer], more[1, layer], plan.slot_mapping)
    table = cache.block_table(2)
    got = pool.gather(None, table, 7).swapaxes(0, 1)
    assert got.tobytes() == np.concatenate([new[:, :, :6], more], axis=2).tobytes()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, p, v: c.append(p, v[0], v[1], 2), nbkv.ArgumentError, "keys is 'of 3 tokens'"),
        (lambda c, p, v: c.append(p, v[0], None), TypeError, "values is a NoneType"),
        (lambda c, p, v: c.append(p, v[0, :1], v[1]), nbkv.ArgumentError, "keys's shape"),
        (
            lambda c, p, v: c.append(np.array([1, 9, 2], np.uint64), v[0], v[1]),
            nbkv.UnknownSequenceError,
            "9",
        ),
        (
            lambda c, p, v: c.append(p, *vectors(random.Random(1), 300), 100),
            nbkv.OutOfBlocksError,
            "needed",
        ),
        (lambda c, p, v: c.execute(3), TypeError, "plan is 3; it must be a nbkv.StepPlan"),
    ],
)
def test_a_refused_append_changes_neither_cache_nor_pool(rng, call, error, message) -> None:
    cache, pool = make_pair()
    for i in (1, 2, 3):
        cache.add_sequence(i)
    names = np.array([1, 2, 3], np.uint64)
    given = vectors(rng, 3)
    cache.append(names, given[0], given[1])
    cache.fork(1, 4)
    before = cache.state_bytes().tobytes(), pool.data.tobytes(), pool.fill_ratio
    with pytest.raises(error, match=message):
        call(cache, names, given)
    assert (cache.state_bytes().tobytes(), pool.data.tobytes(), pool.fill_ratio) == before


def test_a_plan_that_cannot_be_executed_leaves_the_pool(rng) -> None:
    cache, pool = make_pair()
    other, _ = make_pair()
    for each in (cache, other):
        each.admit(1, [1, 2, 3])
    name, new = np.array([1], np.uint64), vectors(rng, 3)
    plan = cache.plan(name, 3)
    with pytest.raises(nbkv.StepError, match="it must be a plan of this cache"):
        cache.execute(other.plan(name, 3), new[0], new[1])
    with pytest.raises(nbkv.ArgumentError, match="keys is 'of 2 tokens'; it must be of 3"):
        cache.execute(plan, new[0][:, :2], new[1][:, :2])
    with pytest.raises(nbkv.ArgumentError, match="keys is None; it must be given with values"):
        cache.execute(plan, None, new[1])
    assert not pool.data.any()
    cache.execute(plan, new[0], new[1])
    assert pool.data.any()


def test_a_cache_takes_a_pool_of_its_own_shape_or_none() -> None:
    config = make_config()
    cache = nbkv.PagedKVCache(config)
    assert cache.pool is None
    with pytest.raises(nbkv.ArgumentError, match="pool is None; it must be given when"):
        cache.append(np.array([1], np.uint64), None, None)
    with pytest.raises(TypeError, match="pool is 3; it must be a"):
        nbkv.PagedKVCache(config, pool=3)
    for change in ({"num_blocks": 8}, {"dtype": "float16"}, {"kv_factor": 1}):
        name = next(iter(change))
        with pytest.raises(nbkv.ArgumentError, match=f"pool's {name} is"):
            nbkv.PagedKVCache(config, pool=nbkv.HostPool(make_config(**change)))
