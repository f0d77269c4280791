"""A tiny transformer in numpy: `model(tokens, plan) -> logits`, keys and values in a HostPool."""

import numpy as np

from nbkv import attention


class Transformer:
    """Decoder layers with grouped heads, weights by chance, of the shape that a cache's has.

    Called by a scheduler it computes chunks of prompts and single tokens in one batch. `dense`
    computes a whole text without a cache: what the same tokens must give.
    """

    def __init__(self, cache, seed=0, vocabulary=97):
        config, rng = cache.config, np.random.default_rng(seed)
        self.cache, self.pool = cache, cache.pool
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        width, kv_width = 2 * self.kv_heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "q": (width, width), "k": (width, kv_width), "v": (width, kv_width),
            "out": (width, width), "up": (width, 2 * width), "down": (2 * width, width),
        }  # fmt: skip
        self.layers = [
            {name: random_matrix(rng, shape) for name, shape in shapes.items()}
            for _ in range(config.num_layers)
        ]
        self.embedding = rng.standard_normal((vocabulary, width)).astype(np.float32)
        self.head = 2 * random_matrix(rng, (width, vocabulary))

    def __call__(self, tokens, plan):
        """Compute a plan's new tokens; return the logits after each entry's last one."""
        self.cache.execute(plan)  # copies first: who shared a block gets one to write to
        counts = plan.entries["count"]
        ends = np.cumsum(counts)
        batch = Batch(plan, self.cache.tables, ends - counts, ends)
        positions = np.arange(len(tokens)) + np.repeat(plan.seq_lens - ends, counts)
        hidden = self.run(tokens, positions, lambda *qkv: self.attend_paged(batch, *qkv))
        return hidden[ends - 1] @ self.head

    def dense(self, tokens):
        """Compute a text from its beginning; return the logits after every token."""
        positions = np.arange(len(tokens))
        return self.run(tokens, positions, lambda layer, q, k, v: causal(q, k, v)) @ self.head

    def run(self, tokens, positions, attend):
        hidden = self.embedding[tokens] + waves(positions, self.embedding.shape[1])
        for number, weights in enumerate(self.layers):
            x = normalized(hidden)
            q, k, v = ((x @ weights[name]).reshape(len(x), -1, self.head_dim) for name in "qkv")
            hidden = hidden + attend(number, q, k, v).reshape(hidden.shape) @ weights["out"]
            x = normalized(hidden)
            hidden = hidden + np.maximum(x @ weights["up"], 0) @ weights["down"]
        return normalized(hidden)

    def attend_paged(self, batch, layer, q, k, v):
        """Write keys and values to their slots, then attend: decode rows at once, chunks each."""
        self.pool.append(layer, k, v, batch.slots)
        out, single = np.empty_like(q), batch.decodes
        if single.size:
            places = batch.starts[single]
            out[places] = attention.decode(
                q[places], self.pool, batch.tables[single], batch.seq_lens[single], layer=layer
            )
        for entry in batch.chunks:
            place = slice(batch.starts[entry], batch.ends[entry])
            keys, values = self.pool.gather(layer, batch.tables[entry], batch.seq_lens[entry])
            out[place] = causal(q[place], keys, values)
        return out


class Batch:
    """What attention needs of a plan, the same for every layer."""

    def __init__(self, plan, tables, starts, ends):
        self.slots, self.seq_lens = plan.slot_mapping, plan.seq_lens
        self.starts, self.ends = starts, ends
        self.decodes = np.flatnonzero(ends - starts == 1)
        self.chunks = np.flatnonzero(ends - starts > 1)
        self.tables = tables[plan.entries["row"]]


def causal(q, keys, values):
    """Attend with the last tokens of a text over all of it: query i sees what is not after it."""
    group = q.shape[1] // keys.shape[1]
    keys, values = (np.repeat(x, group, axis=1) for x in (keys, values))
    scores = np.einsum("qhd,khd->hqk", q, keys) * np.float32(q.shape[2] ** -0.5)
    after = np.arange(len(keys)) > np.arange(len(keys) - len(q), len(keys))[:, None]
    scores = np.exp(np.where(after, -np.inf, scores - scores.max(axis=2, keepdims=True)))
    return np.einsum("hqk,khd->qhd", scores / scores.sum(axis=2, keepdims=True), values)


def random_matrix(rng, shape):
    return (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)


def normalized(x):
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(1e-6))


def waves(positions, width):
    angles = positions[:, None] / 1000 ** (np.arange(0, width, 2) / width)
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)
