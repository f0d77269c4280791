"""The counters of a cache, as a frozen snapshot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has counted since its creation.

    Attributes
    ----------
    total_allocations : int
        Blocks handed out, copies excluded.
    total_deallocations : int
        Table entries given back by ``free_sequence`` and ``truncate``.
    cache_hits, cache_misses : int
        ``lookup_prefix`` and ``add_sequence`` with hashes count one of the two;
        ``share_prefix``, ``fork`` and ``attach_prefix`` count a hit.
    evictions : int
        Cached blocks given up.
    cow_copies : int
        Blocks copied before a write.
    """

    total_allocations: int
    total_deallocations: int
    cache_hits: int
    cache_misses: int
    evictions: int
    cow_copies: int

    @property
    def hit_rate(self) -> float:
        """Hits over hits and misses, 0.0 when there were none."""
        total = self.cache_hits + self.cache_misses
        return self.cache_hits / total if total else 0.0
