"""Mixing words by 64 x 64 -> 128 bit products whose halves are folded together.

As in mum-hash (V. Makarov, MIT) and wyhash (Wang Yi, public domain), whose products can hide
one factor when the other is 0 or all ones; here something is added that cannot be hidden.
"""

import numpy as np

from nbkv._intrinsics import multiply_high
from nbkv._jit import kernel, wrapping_kernel

# From the fraction of pi in hexadecimal, as all constants of `nbkv.kernels.hashing`.
_LAST_LOW = np.uint64(0xBA7C9045F12C7F99)
_LAST_HIGH = np.uint64(0x24A19947B3916CF7)
_HALF = np.uint64(32)


@wrapping_kernel
def fold_product(a: int, b: int) -> int:
    """Xor the halves of a product.

    Parameters
    ----------
    a, b : uint64

    Returns
    -------
    uint64
        The same for every b where a is 0, or nearly so where it is all ones.
    """
    return (a * b) ^ multiply_high(a, b)


@wrapping_kernel
def mix_words(a: int, b: int) -> int:
    """Mix two words into one, neither of which can hide the other.

    Parameters
    ----------
    a, b : uint64

    Returns
    -------
    uint64
    """
    return fold_product(a, b) + a + b


@kernel
def mix_halves(a: int, b: int, key_low: int, key_high: int) -> tuple[int, int]:
    """Mix 128 bits so that each half of the result depends on all, by two dependent products.

    Parameters
    ----------
    a, b : uint64
    key_low, key_high : uint64

    Returns
    -------
    uint64, uint64
    """
    low, high = _cross(a, b)
    turned = (high << _HALF) | (high >> _HALF)
    return (
        mix_words(low ^ key_low ^ _LAST_LOW, high ^ key_high),
        mix_words(low ^ key_high ^ _LAST_HIGH, turned ^ key_low),
    )


@wrapping_kernel
def _cross(a: int, b: int) -> tuple[int, int]:
    # Crosswise: with b == 1, a * b ^ a would be 0 whatever a is.
    return (a * b) ^ b, multiply_high(a, b) ^ a
