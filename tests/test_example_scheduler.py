"""The scheduler of the documentation, on a tiny transformer whose keys and values are paged."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from invariants import assert_intact
from support import INTERPRETED
from test_examples import EXAMPLES, load

import nbkv
from nbkv.replay import scheduler as scheduler_module
from nbkv.replay.scheduler import ROW_DTYPE, ROW_MASK, Request, Scheduler, sample

NUM_REQUESTS = 12 if INTERPRETED else 30
VOCABULARY = 97


def make_model(num_blocks: int, watermark: int = 1, max_sequences: int = 8, **options):
    """A cache with a pool, and a transformer that computes in it."""
    config = nbkv.CacheConfig(
        4, num_blocks, 2, 1, 4, dtype="float32",
        max_sequences=max_sequences, watermark=watermark, **options,
    )  # fmt: skip
    cache = nbkv.PagedKVCache(config, pool=nbkv.HostPool(config))
    return load("numpy_model").Transformer(cache, seed=3, vocabulary=VOCABULARY)


def random_requests(rng: random.Random, number: int = NUM_REQUESTS) -> list[Request]:
    """Prompts that begin alike; one sample or three, the likeliest tokens or by temperature."""
    system = [rng.randrange(VOCABULARY) for _ in range(14)]
    return [
        Request(
            np.array(
                system[: rng.randint(1, 14)]
                + [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 20))],
                np.int32,
            ),
            rng.randint(1, 16),
            num_samples=rng.choice([1, 1, 3]),
            temperature=rng.choice([0.0, 0.0, 0.9]),
            seed=rng.randrange(2**63),
        )
        for _ in range(number)
    ]


def run(scheduler: Scheduler, requests: list[Request], rng: random.Random | None = None) -> None:
    """Let requests arrive, at once or by chance, until all have finished."""
    coming = list(requests)
    while coming or not scheduler.is_idle:
        while coming and (rng is None or rng.random() < 0.3):
            scheduler.add(coming.pop(0))
        scheduler.step()


def assert_dense(model, requests: list[Request]) -> None:
    """Each token is what the dense model says after those before, and ends where it must.

    Where two tokens are nearer to each other than floats can tell, either will do; that such
    are rare is asserted too.
    """
    near = total = 0
    for request in requests:
        assert sorted(request.outputs) == list(range(request.num_samples))
        for number, output in request.outputs.items():
            assert len(output) == request.num_outputs
            text = np.concatenate((request.prompt, output))
            logits = model.dense(text[:-1])[len(request.prompt) - 1 :]
            rows = np.zeros(len(output), ROW_DTYPE)
            rows["num_known"] = np.arange(len(request.prompt), len(text))
            rows["temperature"], rows["seed"] = request.temperature, request.seed + number
            wrong = np.flatnonzero(sample(logits, rows) != output)
            for place in wrong:
                told = logits[place : place + 1].astype(np.float64)
                told[0, output[place]] += 1e-4
                assert sample(told, rows[place : place + 1])[0] == output[place], (
                    f"token {place} of sample {number} is {output[place]}"
                )
            near, total = near + len(wrong), total + len(output)
    assert near <= 0.01 * total + 1


@pytest.mark.parametrize(("num_blocks", "scarce"), [(600, False), (40, False), (14, True)])
def test_tokens_are_those_of_dense_recomputation(rng, num_blocks: int, scarce: bool) -> None:
    model = make_model(num_blocks)
    requests = random_requests(rng)
    run(Scheduler(model.cache, model, max_tokens=20), requests, rng)
    assert_dense(model, requests)
    cache = model.cache
    assert_intact(cache)
    assert cache.num_held_blocks == 0
    assert cache.num_free_blocks + cache.num_cached_blocks == num_blocks
    assert sum(request.num_hit_tokens for request in requests) > 0
    preemptions = int(cache.header["preemptions"][0])
    assert preemptions > 0 if scarce else num_blocks == 40 or preemptions == 0


@pytest.mark.parametrize("watermark", [0, 4])
def test_tokens_do_not_depend_on_how_much_is_preempted(rng, watermark: int) -> None:
    requests = random_requests(rng, 10)
    outputs = []
    for num_blocks in (500, 14):
        model = make_model(num_blocks, watermark)
        own = [Request(r.prompt, r.num_outputs, 2, 0.9, r.seed) for r in requests]
        run(Scheduler(model.cache, model, max_tokens=8), own)
        assert_dense(model, own)
        outputs.append([np.concatenate([r.outputs[0], r.outputs[1]]).tolist() for r in own])
        preemptions = int(model.cache.header["preemptions"][0])
        # A high watermark may leave enough.
        assert preemptions == 0 if num_blocks == 500 else preemptions > 0 or watermark
    differing = sum(a != b for a, b in zip(*outputs, strict=True))
    assert differing <= 1  # a tie that floats decide


def forget_copies(model) -> Callable[[], None]:
    return lambda: setattr(model.cache, "execute", lambda plan: None)


def shift_slots(model) -> Callable[[], None]:
    append = model.pool.append

    def apply() -> None:
        model.pool.append = lambda layer, k, v, slots: append(layer, k, v, np.roll(slots, 1))

    return apply


def spoil_a_cached_block(model) -> Callable[[], None]:
    def apply() -> None:
        run(Scheduler(model.cache, model, max_tokens=20), [Request(np.arange(9), 1)])
        model.pool.data[0, 0, 1, 2] += 1

    return apply


@pytest.mark.parametrize("spoil", [forget_copies, shift_slots, spoil_a_cached_block])
def test_a_slot_that_is_wrong_changes_tokens(spoil) -> None:
    model = make_model(200)
    spoil(model)()
    requests = [Request(np.arange(9 + i), 12, num_samples=3, temperature=0.9) for i in range(3)]
    run(Scheduler(model.cache, model, max_tokens=20), requests)
    with pytest.raises(AssertionError, match="of sample"):
        assert_dense(model, requests)


class Watched:
    """A model that only counts: token n + 1 follows token n. Keeps what each step had."""

    def __init__(self, cache: nbkv.PagedKVCache) -> None:
        self.cache, self.steps = cache, []

    def __call__(self, tokens: np.ndarray, plan: nbkv.StepPlan) -> np.ndarray:
        counts = plan.entries["count"].copy()
        self.steps.append((plan.entries["row"].tolist(), counts.tolist()))
        logits = np.zeros((plan.num_entries, 1000), np.float32)
        logits[np.arange(plan.num_entries), (tokens[counts.cumsum() - 1] + 1) % 1000] = 1
        return logits


def watched(num_blocks: int, max_tokens: int, **options) -> tuple[Scheduler, Watched]:
    cache = nbkv.PagedKVCache(nbkv.CacheConfig(4, num_blocks, 1, 1, 8, **options))
    model = Watched(cache)
    return Scheduler(cache, model, max_tokens), model


def test_prompts_share_what_decoding_sequences_leave() -> None:
    scheduler, model = watched(100, 10, max_sequences=4)
    requests = [Request(np.arange(100 * i, 100 * i + n), 4) for i, n in enumerate((3, 12, 9))]
    run(scheduler, requests)
    # The third waits while the second has prompt for a whole step; the first decodes on.
    assert [counts for _, counts in model.steps] == [
        [3, 7],  # first prompt, and a chunk of the second
        [1, 5, 4],  # the third begins in what is left
        [1, 1, 5],
        [1, 1, 1],
        [1, 1],
        [1],
    ]
    assert [r.outputs[0].tolist() for r in requests] == [
        [3, 4, 5, 6],
        [112, 113, 114, 115],
        [209, 210, 211, 212],
    ]


def test_no_step_has_more_tokens_than_allowed_and_decoding_never_pauses(rng) -> None:
    scheduler, model = watched(16, 9, max_sequences=6)
    requests = random_requests(rng, 40)
    for request in requests:
        scheduler.add(request)
    while not scheduler.is_idle:
        rows = scheduler.running & ROW_MASK
        own = scheduler.rows[rows]
        decoding = set(rows[own["num_known"] - own["num_computed"] == 1].tolist())
        before = int(scheduler.cache.header["preemptions"][0])
        scheduler.step()
        if scheduler.cache.header["preemptions"][0] == before:
            assert decoding <= set(model.steps[-1][0])
    assert max(sum(counts) for _, counts in model.steps) == 9
    assert int(scheduler.cache.header["preemptions"][0]) > 0
    for request in requests:
        assert sorted(request.outputs) == list(range(request.num_samples))
        assert all(len(output) == request.num_outputs for output in request.outputs.values())


def test_admission_leaves_the_watermark_to_those_that_run() -> None:
    for watermark, together in ((0, 2), (3, 1)):
        scheduler, model = watched(6, 16, max_sequences=2, watermark=watermark)
        for start in (0, 100):
            scheduler.add(Request(np.arange(start, start + 8), 2))
        scheduler.step()
        assert len(model.steps[0][0]) == together
        run(scheduler, [])
        assert scheduler.cache.num_held_blocks == 0


def test_who_is_alone_may_have_every_block() -> None:
    scheduler, _ = watched(4, 16, max_sequences=2, watermark=4)
    request = Request(np.arange(12), 5)
    run(scheduler, [request])
    assert request.outputs[0].tolist() == [12, 13, 14, 15, 16]
    assert int(scheduler.cache.header["preemptions"][0]) == 0


def test_who_came_last_is_preempted_first_and_comes_back_before_others() -> None:
    scheduler, _ = watched(6, 32, max_sequences=4)
    first, second, third = (Request(np.arange(i, i + 8), 12) for i in (0, 100, 200))
    for request in (first, second, third):
        scheduler.add(request)
    ended = []
    while not scheduler.is_idle:
        ended += scheduler.step()
        queue = [waiting.request for waiting in scheduler.waiting]
        assert queue == [r for r in (first, second, third) if r in queue]
    assert [ended.index(r) for r in (first, second, third)] == [0, 1, 2]
    assert int(scheduler.cache.header["preemptions"][0]) >= 1
    assert second.outputs[0].tolist() == list(range(108, 120))


def test_samples_share_the_blocks_of_their_prompt() -> None:
    scheduler, _ = watched(100, 32, max_sequences=4)
    request = Request(np.arange(18), 3, num_samples=4)
    scheduler.add(request)
    scheduler.step()
    assert scheduler.running.size == 4
    assert scheduler.cache.num_held_blocks == 5
    scheduler.step()  # each writes to a block of its own behind the four full ones
    assert scheduler.cache.num_held_blocks == 4 + 4
    run(scheduler, [])
    assert [request.outputs[i].tolist() for i in range(4)] == [[18, 19, 20]] * 4


def test_samples_wait_until_there_are_rows_for_all() -> None:
    scheduler, model = watched(100, 32, max_sequences=4)
    run(scheduler, [Request(np.arange(6), 3, num_samples=3), Request(np.arange(50, 56), 3, 2)])
    assert max(len(rows) for rows, _ in model.steps) == 3
    assert model.steps[0][1] == [6]


def test_seeds_of_samples_wrap_around() -> None:
    for seed in (-1, 2**64 - 1):
        scheduler, _ = watched(100, 32, max_sequences=4)
        scheduler.add(Request(np.arange(5), 9, num_samples=2, seed=seed))
        scheduler.step()
        rows = scheduler.running & ROW_MASK
        assert scheduler.rows["seed"][rows].tolist() == [2**64 - 1, 0]


def test_a_sequence_ends_with_its_stop_token() -> None:
    scheduler, _ = watched(100, 32, max_sequences=4)
    request = Request(np.arange(5), 50, stop_token=8)
    run(scheduler, [request])
    assert request.outputs[0].tolist() == [5, 6, 7, 8]


def test_an_aborted_request_leaves_nothing_behind() -> None:
    scheduler, _ = watched(5, 32, max_sequences=3)
    one, two, three = (Request(np.arange(i, i + 8), 12) for i in (0, 100, 200))
    for request in (one, two, three):
        scheduler.add(request)
    scheduler.step()
    scheduler.abort(one)
    scheduler.abort(three)
    assert one.outputs[0].tolist() == [8]
    run(scheduler, [])
    assert not three.outputs
    assert two.outputs[0].tolist() == list(range(108, 120))
    assert scheduler.cache.num_held_blocks == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(np.arange(0), 1), "a prompt, an output"),
        (Request(np.arange(3), 0), "a prompt, an output"),
        (Request(np.arange(3), 1, num_samples=0), "1 to 4 samples"),
        (Request(np.arange(3), 1, num_samples=5), "1 to 4 samples"),
        (Request(np.arange(30), 12), "a request of 42 tokens; 41 fit"),
    ],
)
def test_what_could_not_run_even_alone_is_refused(request_: Request, words: str) -> None:
    scheduler, _ = watched(10, 32, max_sequences=4)
    with pytest.raises(ValueError, match=words):
        scheduler.add(request_)
    assert scheduler.is_idle
    assert scheduler.step() == []
    longest = Request(np.arange(30), 11)
    run(scheduler, [longest])
    assert longest.outputs[0].tolist() == list(range(30, 41))


def test_fewer_tokens_than_may_decode_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens is 3; 4 may decode"):
        watched(10, 3, max_sequences=4)


def test_samples_are_distributed_as_the_temperature_says() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    for temperature in (1.0, 0.5):
        rows = np.zeros(40_000, ROW_DTYPE)
        rows["temperature"], rows["seed"] = temperature, np.arange(len(rows)) // 4
        rows["num_known"] = np.arange(len(rows)) % 4
        drawn = np.bincount(sample(np.repeat(logits, len(rows), axis=0), rows)) / len(rows)
        wanted = np.exp(logits[0] / temperature)
        # Five standard deviations; the seeds are fixed.
        assert np.abs(drawn - wanted / wanted.sum()).max() < 5 * 0.5 / len(rows) ** 0.5
    rows["temperature"] = 0
    assert (sample(np.repeat(logits, len(rows), axis=0), rows) == 0).all()


def test_the_example_is_the_module_that_the_replay_runs() -> None:
    example = EXAMPLES / "scheduler.py"
    assert example.samefile(scheduler_module.__file__)
    assert len(example.read_text().splitlines()) < 250
    assert ROW_MASK == 2**32 - 1
