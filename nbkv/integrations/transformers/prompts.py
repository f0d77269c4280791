"""Token ids and attention masks of transformers, as arrays that are checked."""

from typing import Any

import numpy as np

from nbkv._arguments import refuse
from nbkv.integrations.transformers.rows import Ints, Tokens
from nbkv.layout import INT32

_INT32 = np.iinfo(INT32)


def read_ids(name: str, value: Any) -> Tokens:
    """Read token ids, one row a sequence.

    Parameters
    ----------
    name : str
        What to call them in an error.
    value : torch.Tensor, or what numpy takes

    Returns
    -------
    int32 array, shape (num_rows, num_columns)
        Their own, neither of them 0.

    Raises
    ------
    TypeError, ArgumentError
    """
    ids = _read(name, value)
    if 0 in ids.shape:
        refuse(f"{name}'s shape", ids.shape, "at least one row and one column")
    if ids.min() < _INT32.min or ids.max() > _INT32.max:
        refuse(name, f"{ids.min()} to {ids.max()}", "within int32")
    return ids.astype(INT32)


def read_pads(mask: Any, shape: tuple[int, ...]) -> Ints:
    """Read from an attention mask how many columns of padding are in front of each row.

    Parameters
    ----------
    mask : torch.Tensor, or what numpy takes, or None
    shape : tuple of int
        Of the token ids.

    Returns
    -------
    int64 array, shape (num_rows,)

    Raises
    ------
    TypeError, ArgumentError
        Anything else is masked than the beginning, or a whole row is.
    """
    if mask is None:
        return np.zeros(shape[0], np.int64)
    seen = _read("attention_mask", mask)
    if seen.shape != shape:
        refuse("attention_mask's shape", seen.shape, f"that of input_ids, {shape}")
    pads: Ints = (seen == 0).sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(((seen != 0) != (np.arange(shape[1]) >= pads[:, None])).any(axis=1))
    if wrong.size:
        refuse(f"attention_mask[{wrong[0]}]", "0 behind a token", "0 for padding on the left")
    if pads.max() == shape[1]:
        refuse(f"attention_mask[{pads.argmax()}]", "0 everywhere", "1 for at least one token")
    return pads


def _read(name: str, value: Any) -> "np.ndarray[Any, Any]":
    array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    if array.dtype.kind not in "iub":
        raise TypeError(f"{name} is of {array.dtype}; it must be of integers")
    if array.ndim != 2:
        refuse(f"{name}'s shape", array.shape, "(num_rows, num_columns)")
    return array
