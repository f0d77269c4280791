"""Keys and values on the CPU, beside memcpy of as many bytes."""

from nbkv.bench.pools import NUM_LAYERS, Moving, decode_microseconds, share_of

ROUNDS = 40


class Blocks:
    params = ([1, 8, 64], [1, 2])
    param_names = ("blocks", "threads")

    def setup(self, num_blocks, num_threads):
        self.moving = Moving(num_threads=num_threads)
        self.copy = self.moving.copy_blocks(num_blocks)
        self.copy()

    def time_copy_blocks(self, num_blocks, num_threads):
        self.copy()

    def track_copy_blocks(self, num_blocks, num_threads):
        return share_of(self.moving.same_blocks(num_blocks), self.copy, ROUNDS)

    track_copy_blocks.unit = "of memcpy"


class Tokens:
    params = (
        ["float16", "fp8", "int8"],
        ["block_major", "layer_major"],
        ["NHD", "HND"],
    )
    param_names = ("dtype", "layout", "order")

    def setup(self, dtype, layout, order):
        self.moving = Moving(dtype, layout, order)
        self.append = self.moving.append(self.moving.slots)
        self.one = self.moving.same_bytes(1)
        self.every = self.moving.same_bytes(NUM_LAYERS)

    def time_append(self, dtype, layout, order):
        self.append()

    def time_gather(self, dtype, layout, order):
        self.moving.gather()

    def track_append(self, dtype, layout, order):
        return share_of(self.one, self.append, ROUNDS)

    def track_gather(self, dtype, layout, order):
        return share_of(self.one, self.moving.gather, ROUNDS)

    def track_append_all(self, dtype, layout, order):
        return share_of(self.every, self.moving.append_all, ROUNDS)

    def track_gather_all(self, dtype, layout, order):
        return share_of(self.every, self.moving.gather_all, ROUNDS)

    track_append.unit = track_gather.unit = "of memcpy"
    track_append_all.unit = track_gather_all.unit = "of memcpy"


def track_decode():
    return decode_microseconds(ROUNDS)


track_decode.unit = "us"
