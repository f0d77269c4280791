"""Forward passes of a model through a pool: new keys and values in, all of the batch's out."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from nbkv._arguments import refuse
from nbkv.errors import KVCacheError, StepError
from nbkv.integrations.transformers.rows import Ints, Rows
from nbkv.integrations.transformers.scratch import Scratch

#: A torch.Tensor: of keys or of values, (num_rows, num_kv_heads, num_columns, head_dim).
Tensor = Any
Array = npt.NDArray[Any]

_FLOATS: Final = ("float32", "float16", "bfloat16")


@dataclass
class Forward:
    """A forward pass under way.

    Attributes
    ----------
    num_new : int
        Columns that it adds.
    repeats : int
        Rows of the model for each row that is kept: more than one while a prompt is computed
        for several outputs.
    slots : int64 array, shape (num_rows * num_new,)
    tables : list of int32 array
        Block ids of each row.
    next_layer : int
        The first that has not been updated.
    """

    num_new: int
    repeats: int
    slots: Ints
    tables: list[npt.NDArray[np.int32]]
    next_layer: int = 0


class Forwards:
    """Takes the keys and values of one layer after another and gives back the whole batch's.

    The columns of a pass are planned with its first layer and committed with its last.

    Parameters
    ----------
    rows : Rows
        Of a cache with a `HostPool`.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.pool = rows.cache.pool
        #: Columns of the prompt that were there at its admission.
        self.num_reused = 0
        #: Rows that the model has for each that is kept, until they differ.
        self.repeats = 1
        self._forward: Forward | None = None
        self._scratch = Scratch()

    def num_columns(self, layer: int) -> int:
        """Return how many columns a layer has."""
        forward = self._forward
        is_ahead = forward is not None and layer < forward.next_layer
        return self.rows.num_columns + (forward.num_new if forward and is_ahead else 0)

    def begin_batch(self) -> None:
        """Forget a pass that stopped half-way, and all that is known of the batch before."""
        self._forward, self.num_reused, self.repeats = None, 0, 1
        self.rows.abandon()

    def check_idle(self) -> None:
        """Refuse to change the batch in the middle of a pass."""
        if self._forward is not None:
            layers = f"{self._forward.next_layer} of {self.pool.config.num_layers} layers"
            raise StepError(f"a forward pass stopped after {layers}; call release() or admit()")

    def settle(self) -> Rows:
        """Return the rows between two passes, as many as the model has."""
        self.check_idle()
        if self.repeats > 1:
            self.rows.expand(self.repeats)
            self.repeats = 1
        return self.rows

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new columns; return all of them.

        Parameters
        ----------
        layer : int
        keys, values : torch.Tensor
            Of the new columns.

        Returns
        -------
        torch.Tensor, torch.Tensor
            Keys and values, contiguous.

        Raises
        ------
        StepError
            The layers of a pass do not come in order, each once.
        TypeError, ArgumentError, OutOfBlocksError, CapacityError
            With the first layer, and nothing has changed then.
        """
        if layer == 0:
            self.check_idle()
            self._forward = self._begin(keys)
        forward = self._forward
        if forward is None or layer != forward.next_layer:
            wanted = 0 if forward is None else forward.next_layer
            raise StepError(f"layer {layer} was updated; layer {wanted} is the next of this pass")
        new = as_array(keys), as_array(values)
        shape = (-1, *keys.shape[1::2])
        rows = (x[:: forward.repeats].transpose(0, 2, 1, 3).reshape(shape) for x in new)
        self.pool.append(layer, *map(np.ascontiguousarray, rows), forward.slots)
        if self.rows.num_columns:
            result = self._read(forward, layer, *new)
        else:
            result = keys.contiguous(), values.contiguous()
        forward.next_layer += 1
        if forward.next_layer == self.pool.config.num_layers:
            self.rows.commit(forward.num_new)
            self._forward = None
        return result

    def _begin(self, keys: Tensor) -> Forward:
        """Plan the columns of a pass."""
        self._check(keys)
        if self.rows.seq_ids:
            return self._plan(keys.shape[0], keys.shape[2])
        self.rows.open(keys.shape[0])
        try:
            return self._plan(keys.shape[0], keys.shape[2])
        except KVCacheError:
            self.rows.release()
            raise

    def _plan(self, batch: int, num_new: int) -> Forward:
        rows = self.rows
        num_left = rows.num_known - rows.num_columns
        if self.num_reused and 0 < num_left < num_new:
            refuse(
                "the forward pass",
                f"over {num_new} tokens",
                f"over the {num_left} of the prompt that are left (assisted decoding begins"
                " at the first token: admit with max_hit_tokens=0)",
            )
        repeats = batch // len(rows.seq_ids)
        if batch % len(rows.seq_ids) or (repeats > 1 and num_left < 0):
            refuse("the batch", f"of {batch} rows", f"of {len(rows.seq_ids)}, as before")
        if repeats > 1 and num_left < num_new:
            rows.expand(repeats)
            repeats = 1
        self.repeats = repeats
        slots = rows.plan(num_new).ravel()
        return Forward(num_new, repeats, slots, [rows.table(seq_id) for seq_id in rows.seq_ids])

    def _check(self, keys: Tensor) -> None:
        """Check what would stop a pass after it has begun."""
        config = self.pool.config
        if keys.device.type != "cpu":
            refuse("the keys' device", str(keys.device), "the CPU, where the pool is")
        name = str(keys.dtype).rpartition(".")[2]
        allowed = (config.dtype,) if config.dtype in _FLOATS else _FLOATS
        if name not in allowed:
            refuse("the keys' dtype", name, f"{' or '.join(allowed)}, since the pool is that")
        shape = (config.num_kv_heads, config.head_dim)
        if tuple(keys.shape[1::2]) != shape:
            refuse("the keys' num_kv_heads and head_dim", tuple(keys.shape[1::2]), f"{shape}")

    def _read(
        self, forward: Forward, layer: int, keys: Array, values: Array
    ) -> tuple[Tensor, Tensor]:
        """Put what the pool has in front of the new columns."""
        past, repeats = self.rows.num_columns, forward.repeats
        batch, num_heads, num_new, head_dim = keys.shape
        shape = (2, batch, num_heads, past + num_new, head_dim)
        whole = self._scratch.lend(shape, keys.dtype)
        for i, (table, pad) in enumerate(zip(forward.tables, self.rows.pads.tolist(), strict=True)):
            row = whole[:, i * repeats, :, :past]
            # Padding is masked: what is there must only be finite.
            row[:, :, :pad] = 0
            if pad < past:
                out = row[:, :, pad:].transpose(0, 2, 1, 3)
                self.pool.gather(layer, table, past - pad, out=out)
            whole[:, i * repeats + 1 : (i + 1) * repeats, :, :past] = row[:, None]
        whole[0, :, :, past:], whole[1, :, :, past:] = keys, values
        return as_tensor(whole[0]), as_tensor(whole[1])


def as_array(tensor: Tensor) -> Array:
    """View a tensor as numpy's array, bfloat16 as its words: pools take that faster.

    Parameters
    ----------
    tensor : torch.Tensor
        On the CPU.

    Returns
    -------
    numpy.ndarray
        The same memory.
    """
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:
        words: Array = plain.view(torch.int16).numpy().view(np.uint16)
        return words
    array: Array = plain.numpy()
    return array


def as_tensor(array: Array) -> Tensor:
    """View what `as_array` gives as a tensor again."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
