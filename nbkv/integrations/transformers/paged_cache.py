"""`PagedCache`: a transformers Cache whose keys and values lie in the blocks of a pool."""

import weakref
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from transformers.cache_utils import Cache, CacheLayerMixin

from nbkv._arguments import check_count, refuse
from nbkv.cache import PagedKVCache
from nbkv.errors import ArgumentError
from nbkv.hashing import Salt
from nbkv.integrations.transformers.forwards import Forwards, Tensor
from nbkv.integrations.transformers.prompts import read_ids, read_pads
from nbkv.integrations.transformers.publishing import publish_rows
from nbkv.integrations.transformers.reuse import Admitted, admit_prompts
from nbkv.integrations.transformers.rows import Ints, Rows
from nbkv.integrations.transformers.shapes import check_cache

_NO_LIMIT: Final = 2**62


class PagedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of a `PagedCache`: what a model's attention sees of it."""

    is_croppable = True
    is_sliding = False

    def __init__(self, forwards: Forwards, layer: int) -> None:
        super().__init__()
        self._forwards = forwards
        self._layer = layer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the pool's memory is there from the start."""
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens; return those of all tokens."""
        self.is_initialized = True
        return self._forwards.update(self._layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of keys that queries see, and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many tokens each row has, padding included."""
        return self._forwards.num_columns(self._layer)

    def get_max_length(self) -> int:
        """Return -1: blocks are shared by all, no row has a length of its own."""
        return -1


class PagedCache(Cache):  # type: ignore[misc]
    """Keys and values of `generate` in the blocks of a pool, shared and found by prefix.

    Give it to `generate`, or to the model, as ``past_key_values``: it is used as a
    `DynamicCache` is, and gives the same tokens. `admit` before that looks a batch of prompts
    up, so that only what is not cached is computed; `publish` after it lets later prompts go
    on from what was generated.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The model's.
    cache : nbkv.PagedKVCache
        With a `nbkv.HostPool`, of the model's shape (`model_shape`). Others may use it too,
        one forward pass at a time.

    Attributes
    ----------
    cache : nbkv.PagedKVCache

    Raises
    ------
    TypeError, ArgumentError

    Notes
    -----
    Blocks are held until `release`, the end of a ``with`` block, or until the object is gone.
    What was indexed stays cached, for this object and for any other of the same cache.
    """

    def __init__(self, config: Any, cache: PagedKVCache) -> None:
        self._set_up(config, Rows(check_cache(config, cache)))

    def _set_up(self, config: Any, rows: Rows) -> None:
        self.config, self.cache, self._rows = config, rows.cache, rows
        self._forwards = Forwards(rows)
        layers = range(self.cache.config.num_layers)
        super().__init__(layers=[PagedLayer(self._forwards, layer) for layer in layers])
        weakref.finalize(self, rows.release).atexit = False

    def admit(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        salt: Salt | None = None,
        max_hit_tokens: int | None = None,
    ) -> Admitted:
        """Begin a batch of prompts: what of them is there need not be computed again.

        Call `generate` with the same prompts next: it passes the model what is behind
        `get_seq_length`. A batch admitted or generated before ends here.

        Parameters
        ----------
        input_ids : torch.Tensor, or what numpy takes, shape (num_rows, num_columns)
        attention_mask : torch.Tensor, or what numpy takes, optional
            As the tokenizer made it: 0 for padding, which is on the left.
        salt : nbkv.Salt, optional
            Prompts of other tenants and adapters are not hit.
        max_hit_tokens : int, optional
            Most tokens of each prompt to reuse. 0 for assisted decoding, which computes a
            prompt from its first token, whatever is cached.

        Returns
        -------
        Admitted
            Tokens of the prompts, and how many of them are there.

        Raises
        ------
        TypeError, ArgumentError
            Nothing has changed then.
        CapacityError
            Too many sequences are alive; nothing is held then.
        """
        ids = read_ids("input_ids", input_ids)
        pads = read_pads(attention_mask, ids.shape)
        most = _NO_LIMIT if max_hit_tokens is None else max_hit_tokens
        limit = check_count("max_hit_tokens", most)
        self._forwards.begin_batch()
        admitted = admit_prompts(self._rows, ids, pads, salt, limit)
        self._forwards.num_reused = self._rows.num_columns
        return admitted

    def publish(self, sequences: Any) -> None:
        """Tell what was generated, so that later prompts that begin with it can hit it.

        Parameters
        ----------
        sequences : torch.Tensor, or what numpy takes, shape (num_rows, num_columns)
            What `generate` returned for the batch that was admitted.

        Raises
        ------
        TypeError, ArgumentError
            They do not belong to the rows of this cache, as after beam search, whose outputs
            do not. Nothing has changed then.
        OutOfBlocksError, CapacityError
            Telling takes as many blocks as a row has generated. Rows before are published.
        """
        rows = self._forwards.settle()
        ids = read_ids("sequences", sequences)
        if rows.are_permuted:
            raise ArgumentError("rows have changed places (beam search): outputs are not theirs")
        if not rows.num_known or rows.num_known > rows.num_columns:
            raise ArgumentError("there is nothing to publish: no admitted prompt was computed")
        if ids.shape[0] != len(rows.seq_ids) or ids.shape[1] < rows.num_columns:
            least = f"({len(rows.seq_ids)}, {rows.num_columns} or more)"
            refuse("sequences' shape", ids.shape, least)
        publish_rows(rows, ids[:, : rows.num_columns])

    def release(self) -> None:
        """End the batch: what is indexed stays cached, all other blocks are free again."""
        self._forwards.begin_batch()
        self._rows.release()

    def reset(self) -> None:
        """Do what `release` does, by the name that transformers has for it."""
        self.release()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens of every row: drafts that were rejected.

        Parameters
        ----------
        tokens_to_remove : int
            0 or negative, as transformers has it.

        Raises
        ------
        ValueError
        """
        if tokens_to_remove > 0:
            refuse("tokens_to_remove", tokens_to_remove, "0 or negative")
        self._forwards.check_idle()
        if tokens_to_remove:
            self._rows.crop(max(0, self._rows.num_columns + tokens_to_remove))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on as another one of the batch: a step of beam search.

        Nothing is copied but, with the next token, partial last blocks that are shared.
        """
        self._select(np.asarray(beam_idx.cpu(), np.int64))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, as indexing a tensor with them does."""
        rows = np.arange(len(self._forwards.settle().seq_ids))
        self._select(rows[np.asarray(indices.cpu())])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Put each row `repeats` times in its place; they share their blocks."""
        rows = self._forwards.settle()
        if rows.seq_ids:
            rows.expand(check_count("repeats", repeats))

    def _select(self, sources: Ints) -> None:
        rows = self._forwards.settle()
        if rows.seq_ids:
            rows.select(sources)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PagedCache":
        """Fork all rows: the copy goes on by itself, over the same blocks."""
        copy = PagedCache.__new__(PagedCache)
        copy._set_up(self.config, self._forwards.settle().copy())
        copy._forwards.num_reused = self._forwards.num_reused
        return copy

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release."""
        self.release()
