"""Which blocks may be named: the leading full ones of one living sequence."""

import pytest
from support import make_cache

import nbkv


def test_any_living_sequence_may_be_the_owner() -> None:
    cache = make_cache(8)
    for seq_id in (1, 2, 3):
        cache.allocate_blocks_for_tokens(seq_id, 4)
    cache.register_prefix(7, [4, 5])
    cache.register_prefix(8, [2])
    assert cache.lookup_prefix(7).tolist() == [4, 5]


@pytest.mark.parametrize("block_ids", [[1], [0, 2], [1, 0], [0, 0], [0, 1, 2], [2, 3], [7]])
def test_other_blocks_may_not(block_ids: list[int]) -> None:
    cache = make_cache(8)
    cache.allocate_blocks_for_tokens(1, 4)
    cache.allocate_blocks_for_tokens(2, 3)
    with pytest.raises(nbkv.PrefixError, match="block_ids"):
        cache.register_prefix(7, block_ids)


def test_a_name_outlives_its_owner_and_stays_a_no_op() -> None:
    cache = make_cache(8)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.free_sequence(1)
    before = cache.state_bytes()
    cache.register_prefix(7, [0, 1])
    assert (cache.state_bytes() == before).all()
    for other in ([0], [0, 1, 2], [1, 0]):
        with pytest.raises(nbkv.PrefixError, match="prefix_hash is 7"):
            cache.register_prefix(7, other)


def test_a_name_longer_than_a_table_may_be_cannot_come_to_be() -> None:
    cache = make_cache(8, max_blocks_per_sequence=2)
    cache.register_prefix(7, cache.allocate_blocks_for_tokens(1, 4))
    cache.attach_prefix(7, 2)
    assert cache.num_cached_tokens(2) == 4
    with pytest.raises(nbkv.CapacityError, match="max_blocks_per_sequence"):
        cache.append_token(2)
