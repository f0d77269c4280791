"""Auditing and copying a cache of 1,048,576 blocks."""

from nbkv.bench.blocks import LARGE, Evicting
from nbkv.bench.integrity import filled_by_tokens


class Reliability:
    timeout = 600

    def setup(self):
        self.cache = filled_by_tokens(LARGE)
        self.taken = self.cache.snapshot()
        self.cache.check_integrity()

    def time_check_integrity(self):
        self.cache.check_integrity()

    def time_snapshot(self):
        self.cache.snapshot(self.taken)

    def time_restore(self):
        self.cache.restore(self.taken, check=False)

    def track_snapshot_size(self):
        return len(self.taken) / LARGE

    track_snapshot_size.unit = "bytes/block"


class Scattered:
    timeout = 600

    def setup(self):
        self.cache = Evicting(LARGE, "lru", scattered=True).cache
        self.cache.check_integrity()

    def time_check_integrity(self):
        self.cache.check_integrity()
