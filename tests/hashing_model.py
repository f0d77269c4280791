"""The chain hash in plain Python integers, written from its description, not from its code."""

MASK = 2**64 - 1


def _fraction_of_pi(num_words: int) -> list[int]:
    """Compute 64-bit words of pi by Machin's formula: 16 arctan(1/5) - 4 arctan(1/239)."""
    one = 1 << 64 * num_words + 64

    def arctan(divisor: int) -> int:
        total, power, i = 0, one // divisor, 1
        while power:
            total += power // i if i % 4 == 1 else -(power // i)
            power //= divisor * divisor
            i += 2
        return total

    fraction = (16 * arctan(5) - 4 * arctan(239)) % one >> 64
    return [fraction >> 64 * i & MASK for i in reversed(range(num_words))]


PI = _fraction_of_pi(22)


def fold(a: int, b: int) -> int:
    return (a * b & MASK) ^ (a * b >> 64)


def mix(a: int, b: int) -> int:
    return (fold(a, b) + a + b) & MASK


def finish(a: int, b: int, keys: tuple[int, int]) -> tuple[int, int]:
    low, high = (a * b & MASK) ^ b, (a * b >> 64) ^ a
    turned = (high << 32 | high >> 32) & MASK
    return (
        mix(low ^ keys[0] ^ PI[12], high ^ keys[1]),
        mix(low ^ keys[1] ^ PI[13], turned ^ keys[0]),
    )


def keys_of(seed: int) -> tuple[int, int]:
    return mix(seed % 2**64 ^ PI[0], PI[2]), mix(seed % 2**64 ^ PI[1], PI[3])


def hash_block(
    seed: int, parent: tuple[int, int], tokens: list[int], extra: int = 0
) -> tuple[int, int]:
    keys = keys_of(seed)
    tag = len(tokens) | (bool(extra) << 32)
    low, high = (keys[0] + tag * PI[4]) & MASK, (keys[1] + tag * PI[6]) & MASK
    if extra:
        low, high = mix(extra ^ keys[0] ^ PI[8], low), mix(extra ^ keys[1] ^ PI[9], high)
    words = [token % 2**32 for token in tokens] + [0] * (-len(tokens) % 4)
    for i in range(0, len(words), 4):
        first, second = words[i] | words[i + 1] << 32, words[i + 2] | words[i + 3] << 32
        met_low, met_high = second ^ low, first ^ high
        low = (fold(first ^ keys[0] ^ PI[5], met_low) + met_low) & MASK
        high = (fold(second ^ keys[1] ^ PI[7], met_high) + met_high) & MASK
    low ^= keys[0] ^ PI[10] ^ parent[0]
    high ^= keys[1] ^ PI[11] ^ parent[1]
    return finish(low, high, keys)


def root_hash(seed: int, salt: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    keys = keys_of(seed)
    low, high = mix(keys[0] ^ PI[14], salt[0] ^ PI[15]), mix(keys[1] ^ PI[15], salt[1] ^ PI[14])
    return finish(low, high, (keys[0] ^ PI[14], keys[1] ^ PI[15]))


def extra_of_block(keys: list[tuple[int, int, int]], start: int, size: int) -> int:
    acc = count = 0
    for first, end, digest in keys:
        if first < start + size and end > start:
            place = (first - start) % 2**32 << 32 | min(end - start, size)
            acc = mix(mix(acc ^ PI[16], place), digest ^ PI[17])
            count += 1
    return (mix(acc, count ^ PI[18]) or 1) if count else 0


def salt_extra(salt: tuple[int, int], extra: int) -> int:
    if salt == (0, 0):
        return extra
    return mix(mix(salt[0] ^ PI[19], salt[1] ^ PI[20]), extra ^ PI[21]) or 1


def hash_chain(
    tokens: list[int],
    size: int,
    salt: tuple[int, int] = (0, 0),
    extras: list[tuple[int, int, int]] = (),
    seed: int = 0,
) -> list[tuple[int, int]]:
    chain = []
    above = root_hash(seed, salt)
    for start in range(0, len(tokens) // size * size, size):
        extra = extra_of_block(extras, start, size)
        if start == 0:
            extra = salt_extra(salt, extra)
        above = hash_block(seed, above, tokens[start : start + size], extra)
        chain.append(above)
    return chain
