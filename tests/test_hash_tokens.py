"""Hashing prompts without a cache: what enters, what does not, and the same in every process."""

import hashlib
import itertools
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path

import hashing_model as model
import numpy as np
import pytest

import nbkv
from nbkv.hashing import key_bytes, normalize_extra_keys, sha256_chain

IMAGE = (20, 40, "image")
GOLDEN = """
import nbkv
from nbkv.hashing import sha256_chain
given = (range(64), 16, nbkv.Salt("tenant", 7), [(20, 40, "image"), (40, 41, 5), (50, 90, b"x")])
print(nbkv.hash_tokens(*given, seed=3).tolist(), sha256_chain(*given)[-1].hex())
"""
GOLDEN_OUTPUT = (
    "[[4023259043704141110, 5975972021819845826], "
    "[11227388462063673639, 18080578382126411099], "
    "[10516356039441859888, 17936023968656457442], "
    "[5591931160782155225, 16649096502985135884]]"
    " b801f6456225bb893eb4fd99545d8abc374fb03786ce18b04de2bb82e8124013"
)


def chain(*args: object, **options: object) -> list[tuple[int, int]]:
    return [tuple(row) for row in nbkv.hash_tokens(*args, **options).tolist()]


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(-(2**31), 2**31) for _ in range(count)]


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "NUMBA_DISABLE_JIT": "1"}],
    ids=["compiled or not", "interpreted"],
)
def test_every_process_gives_known_values(environment: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        env=os.environ | {"PYTHONPATH": str(Path(nbkv.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == GOLDEN_OUTPUT


@pytest.mark.parametrize("block_size", [1, 3, 4, 16, 18])
def test_chains_are_the_models(block_size: int, rng: random.Random) -> None:
    for _ in range(20):
        tokens = random_tokens(rng, rng.randrange(80))
        places = sorted(rng.sample(range(100), 2 * rng.randrange(6)))
        extras = [(*places[i : i + 2], rng.randrange(2**64)) for i in range(0, len(places), 2)]
        salt, seed = rng.choice([nbkv.Salt(), nbkv.Salt(rng.random().hex())]), rng.randrange(2**64)
        expected = model.hash_chain(tokens, block_size, salt.words, extras, seed)
        assert chain(tokens, block_size, salt, extras, seed=seed) == expected


def test_a_hash_covers_all_before_it_and_nothing_after(rng: random.Random) -> None:
    tokens = random_tokens(rng, 70)
    hashes = chain(tokens, 16)
    assert len(hashes) == 4
    assert chain(tokens[:40], 16) == hashes[:2]
    for place in range(70):
        changed = tokens.copy()
        changed[place] ^= 1
        same = [new == old for new, old in zip(chain(changed, 16), hashes, strict=True)]
        assert same == [i < place // 16 for i in range(4)]


def test_equal_tokens_in_other_blocks_hash_otherwise() -> None:
    hashes = chain([7] * 64, 16)
    assert len(set(hashes)) == 4
    assert not set(hashes) & set(chain([7] * 64, 8))


@pytest.mark.parametrize("convert", [list, tuple, np.array, lambda t: np.array(t, np.int32)])
def test_tokens_come_as_any_integers(convert: object, rng: random.Random) -> None:
    tokens = random_tokens(rng, 33)
    assert chain(convert(tokens), 16) == model.hash_chain(tokens, 16)


def test_strided_and_read_only_tokens_are_the_same() -> None:
    tokens = np.arange(64, dtype=np.int32)
    expected = chain(tokens, 16)
    assert chain(np.repeat(tokens, 2)[::2], 16) == expected
    tokens.flags.writeable = False
    assert chain(tokens, 16) == expected
    assert chain(tokens.astype(np.uint8), 16) == expected
    assert chain([np.int64(token) for token in tokens], 16) == expected


def test_less_than_a_block_has_no_hash() -> None:
    for tokens in ([], [1] * 15, np.zeros(0, np.int32), np.zeros(0, np.int64)):
        assert nbkv.hash_tokens(tokens, 16).shape == (0, 2)
        assert sha256_chain(tokens, 16) == []


def test_seeds_give_unrelated_hashes() -> None:
    words = [half for seed in range(100) for row in chain(range(32), 16, seed=seed) for half in row]
    assert len(set(words)) == 400


def test_tenants_and_adapters_share_nothing() -> None:
    values = [None, 1, "1", b"1", "", b"", 0, "a", -1, 2**70, "None"]
    salts = [nbkv.Salt(t, a) for t, a in itertools.product(values, values)]
    assert len({salt.words for salt in salts}) == len(values) ** 2
    for hashes in (nbkv.hash_tokens, sha256_chain):
        rows = [bytes(row) for salt in salts for row in hashes(range(48), 16, salt)]
        assert len(set(rows)) == 3 * len(values) ** 2


def test_salts_do_not_run_together() -> None:
    assert nbkv.Salt("ab", "c").words != nbkv.Salt("a", "bc").words
    assert nbkv.Salt("ab").words != nbkv.Salt("a", "b").words


def test_no_salt_is_the_empty_salt() -> None:
    assert nbkv.Salt().words == (0, 0)
    assert chain(range(16), 16) == chain(range(16), 16, nbkv.Salt())
    assert sha256_chain(range(16), 16) == sha256_chain(range(16), 16, nbkv.Salt())


def test_salts_are_values() -> None:
    salt = nbkv.Salt("\ud800", np.int64(5))
    assert salt.words == nbkv.Salt("\ud800", 5).words
    assert pickle.loads(pickle.dumps(salt)).words == salt.words
    assert len({nbkv.Salt("a"), nbkv.Salt("a"), nbkv.Salt("b")}) == 2
    with pytest.raises(AttributeError):
        salt.tenant = "other"


@pytest.mark.parametrize("value", [1.5, True, ("a",)])
def test_other_types_are_no_salt(value: object) -> None:
    with pytest.raises(TypeError, match="tenant is"):
        nbkv.Salt(tenant=value)
    with pytest.raises(TypeError, match="adapter is"):
        nbkv.Salt(adapter=value)
    with pytest.raises(TypeError, match="salt is"):
        nbkv.hash_tokens([1], 1, value)


def test_prompts_that_differ_in_a_later_image_share_their_beginning() -> None:
    first, second = chain(range(96), 16, None, [IMAGE]), chain(range(96), 16, None, [(20, 40, "b")])
    without = chain(range(96), 16)
    assert first[0] == second[0] == without[0]
    assert not set(first[1:]) & set(second[1:])
    assert not set(first[1:]) & set(without)


def test_an_image_counts_by_its_place() -> None:
    places = [(20, 40), (20, 41), (21, 40), (16, 48)]
    ends = {chain(range(48), 16, None, [(*place, "image")])[-1] for place in places}
    assert len(ends) == 4
    two = {
        chain(range(48), 16, None, [(20, middle, "a"), (middle, 40, "b")])[-1]
        for middle in range(21, 40)
    }
    assert len(two) == 19


def test_an_image_beyond_the_prompt_counts_as_far_as_the_prompt_goes() -> None:
    assert chain(range(32), 16, None, [(20, 32, 7)]) == chain(range(32), 16, None, [(20, 99, 7)])
    assert chain(range(32), 16, None, [(32, 99, 7)]) == chain(range(32), 16)


def test_extra_keys_become_arrays() -> None:
    starts, ends, digests = normalize_extra_keys([(0, 3, 2**64 - 1), [3, 9, "a"], (9, 10, b"a")])
    assert (starts.dtype, ends.dtype, digests.dtype) == (np.int32, np.int32, np.uint64)
    assert (starts.tolist(), ends.tolist()) == ([0, 3, 9], [3, 9, 10])
    assert digests[0] == 2**64 - 1
    for digest, encoded in ((digests[1], b"s"), (digests[2], b"b")):
        encoded += struct.pack("<Q", 1) + b"a"
        word = hashlib.blake2b(encoded, digest_size=8, person=b"nbkv.extra.1").digest()
        assert int(digest) == int.from_bytes(word, "little")
    assert [len(array) for array in normalize_extra_keys(iter([]))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ((-1, 3, 1), r"start of extra_keys\[1\] is -1"),
        ((9, 9, 1), r"extra_keys\[1\] is \(9, 9, 1\)"),
        ((9, 8, 1), r"extra_keys\[1\] is \(9, 8, 1\)"),
        ((4, 8, 1), r"extra_keys\[1\] is \(4, 8, 1\).*ends at 5"),
        ((9, 2**31, 1), r"extra_keys\[1\]"),
        ((9, 10, -1), r"digest of extra_keys\[1\] is -1"),
        ((9, 10, 2**64), r"digest of extra_keys\[1\]"),
    ],
)
def test_wrong_extra_keys_are_named(key: tuple, reason: str) -> None:
    for call in (nbkv.hash_tokens, sha256_chain):
        with pytest.raises(nbkv.ArgumentError, match=reason):
            call(range(16), 16, None, [(0, 5, "fine"), key])


@pytest.mark.parametrize("key", [(9, 10), 5, "abc", (9, 10, None), (9, 10, 1.5), (9.0, 10, 1)])
def test_extra_keys_of_other_types_are_refused(key: object) -> None:
    with pytest.raises(TypeError, match=r"extra_keys\[1\]"):
        normalize_extra_keys([(0, 5, 1), key])


@pytest.mark.parametrize(
    ("tokens", "error", "reason"),
    [
        ([1, 2**31], nbkv.ArgumentError, r"tokens\[1\] is 2147483648"),
        ([1, -(2**31) - 1], nbkv.ArgumentError, r"tokens\[1\] is -2147483649"),
        ([-1, 2**63], nbkv.ArgumentError, r"tokens\[1\]"),
        ([2**100], nbkv.ArgumentError, r"tokens\[0\]"),
        (np.array([1, 2**31]), nbkv.ArgumentError, "tokens is 2147483648"),
        (np.array([-(2**40)]), nbkv.ArgumentError, "tokens is -1099511627776"),
        (np.array([2**63], np.uint64), nbkv.ArgumentError, "tokens is 9223372036854775808"),
        (np.zeros((2, 2), np.int32), nbkv.ArgumentError, "one-dimensional"),
        (np.zeros((2, 2)), nbkv.ArgumentError, "one-dimensional"),
        (np.zeros(2), TypeError, "float64"),
        (np.zeros(2, bool), TypeError, "bool"),
        ([1, 2.0], TypeError, r"tokens\[1\] is 2.0"),
        ([1, [2]], TypeError, r"tokens\[1\]"),
        ("abc", TypeError, "tokens is 'abc'"),
        (5, TypeError, "tokens is 5"),
    ],
)
def test_wrong_tokens_are_named(tokens: object, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        nbkv.hash_tokens(tokens, 1)


def test_other_wrong_arguments_are_named() -> None:
    for size in (0, 2**15):
        with pytest.raises(nbkv.ArgumentError, match=f"block_size is {size}"):
            nbkv.hash_tokens([1], size)
    for seed in (-1, 2**64):
        with pytest.raises(nbkv.ArgumentError, match=f"seed is {seed}"):
            nbkv.hash_tokens([1], 1, seed=seed)
    with pytest.raises(TypeError, match="seed"):
        nbkv.hash_tokens([1], 1, seed="1")


def test_threads_hash_at_once(rng: random.Random) -> None:
    prompts = [np.array(random_tokens(rng, 3_200), np.int32) for _ in range(8)]
    results: dict[int, list] = {}

    def work(i: int) -> None:
        for _ in range(3):
            results[i] = chain(prompts[i], 16)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, prompt in enumerate(prompts):
        assert results[i] == model.hash_chain(prompt.tolist(), 16)


def test_the_sha256_chain_is_what_the_docs_say() -> None:
    tokens = list(range(-8, 24))
    extras = [(1, 20, "image"), (20, 30, 5), (30, 40, b"\0")]
    above = hashlib.sha256(
        b"nbkv.chain.sha256.root.1" + struct.pack("<QQ", *nbkv.Salt("me").words)
    ).digest()
    words = normalize_extra_keys(extras)[2].tolist()
    assert words[1] == 5
    expected = []
    for start, parts in (
        (0, [(1, 16, words[0])]),
        (16, [(-15, 4, words[0]), (4, 14, 5), (14, 16, words[2])]),
    ):
        text = b"nbkv.chain.sha256.block.1" + above + struct.pack("<Q", 16)
        text += struct.pack("<16i", *tokens[start : start + 16]) + struct.pack("<Q", len(parts))
        for first, end, digest in parts:
            text += struct.pack("<qqQ", first, end, digest)
        above = hashlib.sha256(text).digest()
        expected.append(above)
    assert sha256_chain([*tokens, 1, 2], 16, nbkv.Salt("me"), extras) == expected


def test_sha256_chains_share_their_beginning() -> None:
    plain = sha256_chain(range(96), 16)
    changed = sha256_chain(range(96), 16, None, [IMAGE])
    assert plain[0] == changed[0]
    assert not set(plain[1:]) & set(changed[1:])
    digests = [5, "5", b"5", 2**64 - 1]
    ends = {sha256_chain(range(48), 16, None, [(20, 40, digest)])[-1] for digest in digests}
    assert len(ends) == len(digests)


def test_keys_are_sixteen_bytes() -> None:
    assert key_bytes(1, 2**63) == b"\1" + bytes(14) + b"\x80"
    assert key_bytes(*np.array([2**64 - 1, 0], np.uint64)) == b"\xff" * 8 + bytes(8)
