"""Where the public reference data lies, and one seed for everything random."""

import os
import random
import sys
from pathlib import Path

import hypothesis
import pytest
from hypothesis import core

sys.path.insert(0, str(Path(__file__).parent))

SEED = int(os.environ.get("NBKV_TEST_SEED", random.SystemRandom().randrange(2**31)))


def pytest_configure(config: pytest.Config) -> None:
    """Give hypothesis the seed that the header prints."""
    if core.global_force_seed is None:
        core.global_force_seed = SEED
    hypothesis.settings.register_profile("nbkv", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("nbkv")


def pytest_report_header() -> str:
    """Say how to run the same examples again."""
    return f"nbkv: NBKV_TEST_SEED={core.global_force_seed}"


@pytest.fixture
def rng() -> random.Random:
    """Return a generator that starts from the printed seed."""
    return random.Random(SEED)
