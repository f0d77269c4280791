"""Evicting cached blocks to allocate them; 1 M of them lie in random order."""

from nbkv.bench.blocks import LARGE, Evicting


class Evict:
    params = (["lru", "fifo", "frequency"], [2**14, LARGE])
    param_names = ("policy", "blocks")
    timeout = 300

    def setup(self, policy, num_blocks):
        self.evicting = Evicting(num_blocks, policy, scattered=num_blocks == LARGE)

    def track_evict_and_allocate(self, policy, num_blocks):
        return self.evicting.nanoseconds_a_block(2)

    track_evict_and_allocate.unit = "ns/block"
