"""The arena's size, and what creating it costs."""

from nbkv import PagedKVCache
from nbkv.bench.blocks import LARGE, metadata_bytes_a_block, small_config


class Large:
    def setup(self):
        self.config = small_config(LARGE)
        PagedKVCache(self.config)

    def time_create(self):
        PagedKVCache(self.config)

    def peakmem_create(self):
        PagedKVCache(self.config)


def track_metadata():
    return metadata_bytes_a_block()


track_metadata.unit = "bytes/block"
