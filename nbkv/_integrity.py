"""The part of the facade that looks for contradictions in the arena."""

import numpy as np
import numpy.typing as npt

from nbkv._demand import ready
from nbkv._header_audit import find_bad_header, find_bad_runtime, find_bad_unused
from nbkv._pooled import PooledCalls
from nbkv.config import CacheConfig
from nbkv.errors import IntegrityError
from nbkv.kernels import audit
from nbkv.kernels.audit_notes import WORK_ROWS
from nbkv.repairing import RepairReport, repair_arena
from nbkv.violations import INTACT, describe


def find_violation(arena: npt.NDArray[np.uint8], config: CacheConfig) -> str | None:
    """Find the first thing in an arena that contradicts another.

    Parameters
    ----------
    arena : uint8, C-contiguous, 64-byte aligned
        As long as the configuration makes it; whatever is in it.
    config : CacheConfig

    Returns
    -------
    str or None
        The violation in words.
    """
    words = find_bad_header(arena, config) or find_bad_runtime(arena, config)
    words = words or find_bad_unused(arena)
    if words is not None:
        return words
    work = np.zeros((WORK_ROWS, config.num_blocks), np.int32)
    most = max(config.name_capacity, config.leased_capacity, config.extra_capacity)
    found = np.zeros(6, np.int64)
    code = ready(audit.audit_arena)(arena, work, np.empty(most, np.uint8), found)
    return None if code == INTACT else describe(code, found)


class IntegrityCalls(PooledCalls):
    """An audit of everything, and what can be made of an arena that does not pass it."""

    def check_integrity(self) -> None:
        """Verify every equation, link, index entry and table; changes nothing.

        It may be called on an arena with whatever damage: it reads nothing outside, writes
        nothing and comes to an end. Which damage no audit can see is said in the guide to
        reliability.

        Raises
        ------
        IntegrityError
            Names the first violation.

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> _ = cache.append_token(1)
        >>> cache.check_integrity()
        >>> cache.writable_arena()[cache.header["blocks_start"][0]] = 3
        >>> cache.check_integrity()
        Traceback (most recent call last):
        nbkv.errors.IntegrityError: block 0: ref_count is 3 but 1 table entries hold it
        """
        words = self.find_violation()
        if words is not None:
            raise IntegrityError(words)

    def find_violation(self) -> str | None:
        """Return what `check_integrity` would raise, or None."""
        return find_violation(self._arena, self.config)

    def repair(self) -> RepairReport:
        """Make a damaged cache sound again, from its block tables.

        Reference counts, states, the free list, the fence, the eviction order and the indexes
        are rebuilt. A link or a key is kept where tables, tokens or an index bear it out. A
        sequence whose row or table cannot be trusted is ended, and so are all that claim one
        block in different places. An arena in order is left as it is.

        Returns
        -------
        RepairReport
            What was changed, and who was dropped.

        Raises
        ------
        IntegrityError
            It cannot be repaired, not even by giving up all that is cached; nothing has
            changed then.

        Examples
        --------
        >>> from nbkv import CacheConfig, PagedKVCache
        >>> cache = PagedKVCache(CacheConfig(4, 8, 1, 1, 64))
        >>> _ = cache.append_token(1)
        >>> cache.writable_arena()[cache.header["blocks_start"][0]] = 3
        >>> print(cache.repair())
        found: block 0: ref_count is 3 but 1 table entries hold it
        block ref_count: 1 changed, block 0 from 3 to 1
        sequence row flags: 1 changed, sequence row 0 from 1 to 0
        """
        violation = self.find_violation()
        if violation is None:
            return RepairReport()
        before = self._arena.copy()
        for keep_links in (True, False):
            self._arena[:] = before
            report = repair_arena(self._arena, self.config, violation, keep_links)
            left = self.find_violation()
            if left is None:
                return report
        self._arena[:] = before
        raise IntegrityError(f"it cannot be repaired; what is left is: {left}")
