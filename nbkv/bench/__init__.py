"""The measurements behind ``nbkv bench`` and the asv benchmarks.

Each number is the best of many rounds. Hot: the round before did the same. Cold: the
caches were flushed before the call.
"""

from nbkv.bench.suite import OPTIONAL, SUBJECTS, measure
from nbkv.bench.timing import Measurement

__all__ = ["OPTIONAL", "SUBJECTS", "Measurement", "measure"]
