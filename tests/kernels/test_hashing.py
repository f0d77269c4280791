"""Chain hashes of blocks: known values, a plain model, and no collisions among near inputs."""

import random

import hashing_model as model
import numpy as np
import pytest
from support import INTERPRETED

from nbkv._intrinsics import borrow, multiply_high
from nbkv._jit import kernel
from nbkv.kernels import hashing

ROW_FIELDS = ("seed", "parent_low", "parent_high", "extra")
WORDS = [0, 1, 2, 3, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]


@kernel
def hash_rows(rows, tokens, counts, out):
    width = tokens.size // counts.size
    for i in range(counts.size):
        low, high = hashing.hash_block(
            rows[i, 0], rows[i, 1], rows[i, 2], borrow(tokens), i * width, counts[i], rows[i, 3]
        )
        out[i, 0] = low
        out[i, 1] = high


@kernel
def root_rows(rows, out):
    for i in range(out.shape[0]):
        low, high = hashing.root_hash(rows[i, 0], rows[i, 1], rows[i, 2])
        out[i, 0] = low
        out[i, 1] = high


@kernel
def extra_of(starts, ends, digests, block_start, block_size, out):
    out[0] = hashing.extra_of_block(starts, ends, digests, starts.size, block_start, block_size)


@kernel
def salted(rows, out):
    for i in range(out.size):
        out[i] = hashing.salt_extra(rows[i, 0], rows[i, 1], rows[i, 2])


@kernel
def multiply_rows(rows, out):
    for i in range(out.size):
        out[i] = multiply_high(rows[i, 0], rows[i, 1])


def hash_all(rows: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
    out = np.zeros((len(counts), 2), np.uint64)
    hash_rows(rows.astype(np.uint64), tokens.astype(np.int32).ravel(), counts, out)
    return out


def hash_one(
    tokens: list[int], parent: tuple[int, int] = (0, 0), seed: int = 0, extra: int = 0
) -> tuple[int, int]:
    rows = np.array([[seed % 2**64, *parent, extra]], np.uint64)
    return tuple(hash_all(rows, np.array(tokens), np.array([len(tokens)])).tolist()[0])


def root(seed: int = 0, salt: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    out = np.zeros((1, 2), np.uint64)
    root_rows(np.array([[seed, *salt]], np.uint64), out)
    return tuple(out.tolist()[0])


def extra_at(keys: list[tuple[int, int, int]], start: int, size: int) -> int:
    starts, ends, digests = zip(*keys, strict=True) if keys else ((), (), ())
    out = np.zeros(1, np.uint64)
    extra_of(
        *(np.array(starts, np.int32), np.array(ends, np.int32), np.array(digests, np.uint64)),
        *(start, size, out),
    )
    return int(out[0])


def salt_of(salt: tuple[int, int], extra: int) -> int:
    out = np.zeros(1, np.uint64)
    salted(np.array([[*salt, extra]], np.uint64), out)
    return int(out[0])


def random_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(-(2**31), 2**31) for _ in range(count)]


# These are stored by whoever keeps hashes: they change with the format only.
@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        ([1], {}, (0x2A7C76F340AEAF81, 0x8F867583BAE526E8)),
        ([1, 2], {}, (0xFBF6E2B3BB307354, 0x6D94ED1088824108)),
        ([1, 2, 3], {}, (0x4328C3B7C03BFCAF, 0x5076E341F334B3C1)),
        ([1, 2, 3, 4], {}, (0x938AA82BB967DA76, 0xE4FC6CF32760AF94)),
        (list(range(16)), {}, (0xBC7F46F44B366953, 0x399D6BBCBCA9C8DD)),
        (list(range(16)), {"seed": 42}, (0x657DF63BD75BC01E, 0x7B38BC1365D573AA)),
        (list(range(16)), {"extra": 42}, (0xA7FAD995285E4869, 0xDAEAB21A27E4CC3B)),
        (list(range(16)), {"parent": (42, 43)}, (0x62D80CB42D9B4F7A, 0x67598A4528F59E1B)),
        ([-1, 2**31 - 1, -(2**31), 0, -7], {}, (0x8AE05CFDE906BFAF, 0x7F7F374B507410B6)),
        (list(range(128, 0, -1)), {"seed": 2**64 - 1}, (0x8585907E3218FF86, 0x282A236D17591033)),
    ],
)
def test_blocks_hash_to_known_values(tokens: list[int], options: dict, expected: tuple) -> None:
    assert hash_one(tokens, **options) == expected


def test_other_kernels_give_known_values() -> None:
    assert root() == (0xEA176C844BA3D014, 0x9D9E4FE296FEACCD)
    assert root(42, (1, 2)) == (0xD2EC01E98E8C65E5, 0xAE35A2105EE05AA4)
    assert extra_at([(3, 20, 42)], 0, 16) == 0x96AB2C19918514FA
    assert extra_at([(3, 20, 42), (30, 31, 43)], 16, 16) == 0xDFB2E2BA4E907F00
    assert salt_of((1, 2), 0) == 0xD2ADBA93F8A2A0E5
    assert salt_of((1, 2), 3) == 0xE2EE863A09FFD122


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 100, 128])
def test_blocks_hash_as_the_model_does(count: int, rng: random.Random) -> None:
    for _ in range(5):
        tokens = random_tokens(rng, count)
        parent = rng.choice(WORDS), rng.randrange(2**64)
        seed, extra = rng.choice(WORDS), rng.choice(WORDS)
        expected = model.hash_block(seed, parent, tokens, extra)
        assert hash_one(tokens, parent, seed, extra) == expected


def test_the_place_in_the_array_is_not_hashed(rng: random.Random) -> None:
    tokens = random_tokens(rng, 7)
    rows = np.zeros((3, 4))
    shifted = np.array([*tokens, 1, *tokens, 2, *tokens, 3])
    out = hash_all(rows, shifted, np.array([7, 7, 7]))
    assert (out == out[0]).all()
    assert tuple(out.tolist()[0]) == hash_one(tokens)


def test_roots_and_salts_are_the_models(rng: random.Random) -> None:
    for _ in range(50):
        seed, salt = rng.choice(WORDS), (rng.choice(WORDS), rng.randrange(2**64))
        extra = rng.choice(WORDS)
        assert root(seed, salt) == model.root_hash(seed, salt)
        assert salt_of(salt, extra) == model.salt_extra(salt, extra)


def test_products_keep_their_upper_half(rng: random.Random) -> None:
    pairs = [(a, b) for a in WORDS for b in WORDS]
    pairs += [(rng.randrange(2**64), rng.randrange(2**64)) for _ in range(100)]
    out = np.zeros(len(pairs), np.uint64)
    multiply_rows(np.array(pairs, np.uint64), out)
    assert out.tolist() == [a * b >> 64 for a, b in pairs]


def near_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make inputs that differ little: rows, tokens and counts of over 200,000 blocks."""
    generator = np.random.default_rng(1)
    base = generator.integers(-(2**31), 2**31, 64)
    width = 64
    rows, tokens, counts = [], [], []

    def add(changed: np.ndarray, count: int, row: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
        tokens.append(np.resize(changed[:count], width))
        counts.append(count)
        rows.append(row)

    for count in range(1, 65):  # every single bit at every count, and the tokens themselves
        add(base, count)
        for place in range(count):
            for bit in range(32):
                changed = base.copy()
                changed[place] ^= 1 << bit
                add(changed, count)
    for first in range(512):  # every two bits of a block
        for second in range(first):
            changed = base.copy()
            changed[first // 32] ^= 1 << first % 32
            changed[second // 32] ^= 1 << second % 32
            add(changed, 16)
    for bit in range(64):  # every single bit, and every two, of the other words
        for other in range(bit + 1):
            word = 1 << bit | 1 << other
            for field in range(4):
                add(base, 16, tuple(word if i == field else 0 for i in range(4)))
    zeros = np.zeros(64, np.int64)
    for count in range(1, 65):
        add(zeros, count)
    for value in range(1, 5_000):  # small tokens: alone, in both places of two, as an extra
        small = zeros.copy()
        small[0] = value
        add(small, 1)
        add(small, 2)
        add(small[::-1][62:], 2)
        add(small, 3)
        add(zeros, 16, (0, 0, 0, value << 7))
    return np.array(rows, np.uint64), np.array(tokens), np.array(counts)


def test_near_inputs_never_collide_in_either_half() -> None:
    rows, tokens, counts = near_inputs()
    assert len(counts) > 200_000
    if INTERPRETED:
        rows, tokens, counts = rows[::40], tokens[::40], counts[::40]
    hashes = hash_all(rows, tokens, counts)
    for half in hashes.T:
        assert len(np.unique(half)) == len(counts)
    assert len(np.unique(hashes)) == 2 * len(counts)  # the halves are not alike either


@pytest.mark.skipif(INTERPRETED, reason="the same numbers as compiled, at a hundredth the speed")
@pytest.mark.parametrize("count", [1, 3, 4, 16, 18])
def test_every_input_bit_changes_half_of_the_output_bits(count: int, rng: random.Random) -> None:
    generator = np.random.default_rng(rng.randrange(2**32))
    samples = 512
    rows = generator.integers(0, 2**64, (samples, 4), np.uint64)
    tokens = generator.integers(-(2**31), 2**31, (samples, count))
    counts = np.full(samples, count)
    before = hash_all(rows, tokens, counts)
    # The standard deviation of a share is 0.022.
    for field in range(4):
        for bit in range(64):
            changed = rows.copy()
            changed[:, field] ^= np.uint64(1 << bit)
            shares = changed_shares(before, hash_all(changed, tokens, counts))
            assert ((shares > 0.35) & (shares < 0.65)).all(), (ROW_FIELDS[field], bit)
    for place in range(count):
        for bit in range(32):
            changed = tokens.copy()
            changed[:, place] ^= 1 << bit
            shares = changed_shares(before, hash_all(rows, changed, counts))
            assert ((shares > 0.35) & (shares < 0.65)).all(), (place, bit)


def changed_shares(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return how often each of the 128 output bits changed."""
    bits = np.unpackbits((before ^ after).view(np.uint8), axis=1)
    return bits.mean(axis=0)


def test_no_word_hides_what_was_read_before(rng: random.Random) -> None:
    # Words that make a factor 0, 1, -1 or a power of two in one lane or in both.
    low, high = model.keys_of(0)
    factors = [0, 1, 2**64 - 1, 2**63, 2, 3, 2**32]
    for one in factors:
        for other in factors:
            words = one ^ low ^ model.PI[5], other ^ high ^ model.PI[7]
            last = [word >> shift & 2**32 - 1 for word in words for shift in (0, 32)]
            signed = [token - 2**32 if token >= 2**31 else token for token in last]
            hashes = {hash_one([*random_tokens(rng, 12), *signed]) for _ in range(20)}
            assert len({half for both in hashes for half in both}) == 40


def test_blocks_in_another_order_end_in_another_hash(rng: random.Random) -> None:
    blocks = [random_tokens(rng, 16) for _ in range(3)]
    ends = set()
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        above = root()
        for i in order:
            above = hash_one(blocks[i], above)
        ends.add(above)
    assert len(ends) == 6


def test_count_and_extra_are_apart() -> None:
    hashes = [hash_one([1, 2] + [0] * zeros, extra=extra) for zeros in range(6) for extra in WORDS]
    assert len(set(hashes)) == 6 * len(WORDS)


def test_a_root_is_no_block(rng: random.Random) -> None:
    for word in WORDS:
        assert root(word) != root(word, (1, 0)) != root(word, (0, 1))
        assert root(word) not in ((0, 0), hash_one([0], seed=word), hash_one([0, 0, 0, 0]))


def test_extra_keys_count_where_they_overlap(rng: random.Random) -> None:
    for _ in range(200):
        places = sorted(rng.sample(range(70), 2 * rng.randrange(5)))
        keys = [(*places[i : i + 2], rng.choice(WORDS)) for i in range(0, len(places), 2)]
        start, size = 16 * rng.randrange(4), 16
        extra = extra_at(keys, start, size)
        overlap = any(first < start + size and end > start for first, end, _ in keys)
        assert (extra != 0) == overlap
        assert extra == model.extra_of_block(keys, start, size)


def test_extra_keys_differ_by_place_digest_and_number() -> None:
    differing = [
        [(0, 8, 1)],
        [(0, 8, 2)],
        [(0, 9, 1)],
        [(1, 8, 1)],
        [(-16, 8, 1)],  # the image began a block before
        [(0, 4, 1), (4, 8, 1)],
        [(0, 8, 1), (8, 9, 1)],
        [(0, 8, 1), (8, 9, 2)],
    ]
    assert len({extra_at(keys, 0, 16) for keys in differing}) == len(differing)
    # Beyond the block it does not matter how far an image reaches.
    assert extra_at([(4, 16, 1)], 0, 16) == extra_at([(4, 999, 1)], 0, 16)


def test_a_salt_changes_the_first_extra_and_nothing_does_not() -> None:
    for extra in WORDS:
        assert salt_of((0, 0), extra) == extra
    salts = [(low, high) for low in WORDS for high in WORDS if low | high]
    made = {salt_of(salt, extra) for salt in salts for extra in WORDS}
    assert len(made) == len(salts) * len(WORDS)
    assert 0 not in made
