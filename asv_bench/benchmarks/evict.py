"""Evicting cached blocks, which memory holds in no order, to allocate them."""

from nbkv.bench.blocks import LARGE, Evicting


class Evict:
    params = (["lru", "fifo", "frequency"], [2**14, LARGE])
    param_names = ("policy", "blocks")
    timeout = 300

    def setup(self, policy, num_blocks):
        self.evicting = Evicting(num_blocks, policy)

    def track_evict_and_allocate(self, policy, num_blocks):
        return self.evicting.nanoseconds_a_block(2)

    track_evict_and_allocate.unit = "ns/block"
