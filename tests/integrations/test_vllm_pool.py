"""Our block pool beside a double of vLLM's; vLLM itself is not needed."""

import hashlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
from invariants import assert_intact
from vllm_double import PlainPool

import nbkv
from nbkv.integrations import vllm as adapter
from nbkv.integrations.vllm import BlockPool


def digest(*content):
    return hashlib.sha256(repr(content).encode()).digest()


def request_of(tokens, block_size=4):
    ends = range(block_size, len(tokens) + 1, block_size)
    return SimpleNamespace(block_hashes=[digest(tuple(tokens[:end])) for end in ends])


class Pair:
    """The same calls to both pools; hits, counts and holders must agree, ids need not."""

    def __init__(self, num_blocks):
        self.ours, self.plain = BlockPool(num_blocks, True, 4), PlainPool(num_blocks)
        self.alive = []
        self.num_hits = 0

    def start(self, tokens, group):
        request = request_of(tokens)
        hits, plain_hits = [], []
        for block_hash in request.block_hashes:
            found, plain = (
                self.ours.get_cached_block(block_hash, [group]),
                self.plain.find(block_hash, [group]),
            )
            assert (found is None) == (plain is None)
            if found is None:
                break
            assert found[0].ref_cnt == plain[0].ref_cnt
            hits += found
            plain_hits += plain
        self.num_hits += len(hits)
        missing = -(-len(tokens) // 4) - len(hits)
        num_revived = sum(block.ref_cnt == 0 for block in hits)
        if missing + num_revived > self.ours.get_num_free_blocks():
            return
        self.ours.touch(hits)
        self.plain.touch(plain_hits)
        hits += self.ours.get_new_blocks(missing)
        plain_hits += self.plain.take(missing)
        done, full = len(hits) - missing, len(tokens) // 4
        self.ours.cache_full_blocks(request, hits, done, full, 4, group)
        self.plain.cache(request.block_hashes, plain_hits, done, full, group)
        self.alive.append((hits, plain_hits))

    def end(self, at):
        hits, plain = self.alive.pop(at)
        self.ours.free_blocks(reversed(hits))
        self.plain.free(list(reversed(plain)))

    def forget_free(self, block_hash):
        """Evict one block that nobody holds."""
        found, plain = self.ours.get_cached_block(block_hash, [0]), self.plain.find(block_hash, [0])
        if found and found[0].ref_cnt == 0:
            self.ours.evict_blocks({found[0].block_id})
            self.plain.forget(plain[0])

    def check(self):
        assert self.ours.get_num_free_blocks() == len(self.plain.line)
        assert self.ours.free_block_queue.num_free_blocks == len(self.plain.line)
        keys = [block.key[0] if block.key else None for block in self.plain.line]
        line = self.ours.free_block_queue.get_all_free_blocks()
        ours = [block.block_hash[:-4] if block.block_hash else None for block in line]
        assert [key for key in ours if key] == [key for key in keys if key]
        for hits, plain in self.alive:
            assert [b.ref_cnt for b in hits] == [b.ref_cnt for b in plain]
            assert len({b.block_id for b in hits}) == len(hits)


@pytest.mark.parametrize("num_blocks", [12, 30, 200])
def test_hits_counts_and_eviction_order_are_those_of_vllm(rng, num_blocks):
    pair = Pair(num_blocks)
    shared = [[rng.randrange(9) for _ in range(rng.randrange(1, 20))] for _ in range(3)]
    for _ in range(300):
        tokens = list(rng.choice(shared)) + [rng.randrange(2) for _ in range(rng.randrange(1, 9))]
        action = rng.random()
        if action < 0.55:
            pair.start(tokens, rng.choice([0, 0, 1]))
        elif action < 0.95 and pair.alive:
            pair.end(rng.randrange(len(pair.alive)))
        elif action < 0.98:
            pair.forget_free(rng.choice(request_of(tokens).block_hashes or [b"none" * 8]))
        else:
            assert pair.ours.reset_prefix_cache() == pair.plain.reset()
        pair.check()
    assert pair.num_hits > 20
    while pair.alive:
        pair.end(0)
    assert pair.ours.get_num_free_blocks() == num_blocks - 1
    assert pair.ours.get_usage() == 0.0
    assert_intact(pair.ours._blocks.cache)


def test_equal_blocks_are_hit_oldest_first():
    pair = Pair(8)
    pool, request = pair.ours, request_of([1, 2, 3, 4])
    first, second = pool.get_new_blocks(1), pool.get_new_blocks(1)
    for blocks in (first, second):
        pool.cache_full_blocks(request, blocks, 0, 1, 4, 0)
    assert pool.get_cached_block(request.block_hashes[0], [0]) == first
    pool.free_blocks(first)
    pool.free_blocks(second)
    pool.get_new_blocks(6)
    assert pool.get_cached_block(request.block_hashes[0], [0]) == second


def test_blocks_are_the_same_objects_for_ever():
    pool = BlockPool(4, True, 4)
    (block,) = pool.get_new_blocks(1)
    assert block is pool.blocks[block.block_id]
    assert (block.ref_cnt, block.block_hash, block.block_hash_num_tokens) == (1, None, None)
    assert pool.is_block_writable(block)
    request = request_of([1, 2, 3, 4])
    pool.cache_full_blocks(request, [block], 0, 1, 4, 2)
    assert block.block_hash == request.block_hashes[0] + b"\0\0\0\2"
    assert block.block_hash_num_tokens == 4
    block.ref_cnt += 1
    assert block.ref_cnt == 2
    block.ref_cnt -= 1
    assert not pool.is_block_writable(block)
    pool.free_blocks([block])
    assert pool.get_cached_block(request.block_hashes[0], [2])[0] is block
    assert pool.get_cached_block(request.block_hashes[0], [2, 0]) is None
    assert "block_id=1, ref_cnt=0" in repr(block)


def test_the_null_block_is_passed_over():
    pool = BlockPool(3, True, 4)
    null = pool.null_block
    assert (null.block_id, null.is_null) == (0, True)
    (block,) = pool.get_new_blocks(1)
    pool.touch([null, block])
    pool.cache_full_blocks(request_of([1] * 8), [null, block], 0, 2, 4, 0)
    assert null.block_hash is None
    assert block.block_hash_num_tokens == 8
    pool.free_blocks([null, block, null, block])
    assert (null.ref_cnt, block.ref_cnt) == (1, 0)
    assert not pool.is_block_writable(null)


def test_a_masked_block_is_not_cached():
    pool = BlockPool(4, True, 4)
    blocks, request = pool.get_new_blocks(3), request_of([1] * 12)
    pool.cache_full_blocks(request, blocks, 0, 3, 4, 0, block_mask=[True, False, True])
    assert [block.block_hash_num_tokens for block in blocks] == [4, None, 12]
    pool.cache_full_blocks(request, blocks, 3, 3, 4, 0)


def test_what_vllm_does_in_silence_raises_and_changes_nothing():
    pool = BlockPool(6, True, 4)
    blocks, request = pool.get_new_blocks(2), request_of([1] * 8)
    pool.cache_full_blocks(request, blocks, 0, 2, 4, 0)
    pool.free_blocks(reversed(blocks))
    before = pool._blocks.cache.state_bytes().tobytes()
    with pytest.raises(nbkv.BlockError):
        pool.free_blocks(reversed(blocks))
    with pytest.raises(nbkv.BlockError, match="is cached already"):
        pool.cache_full_blocks(request, blocks, 0, 2, 4, 0)
    with pytest.raises(nbkv.BlockError):
        pool.touch([pool.blocks[5]])
    with pytest.raises(nbkv.ArgumentError, match="block_ids has 6; allowed: 0 to 5"):
        pool.evict_blocks({1, 6})
    with pytest.raises(nbkv.OutOfBlocksError):
        pool.get_new_blocks(6)
    assert pool._blocks.cache.state_bytes().tobytes() == before
    assert pool.get_num_free_blocks() == 5


def test_evicting_a_held_block_hides_it_and_it_can_be_cached_again():
    pool = BlockPool(4, True, 4)
    blocks, request = pool.get_new_blocks(1), request_of([1] * 4)
    pool.cache_full_blocks(request, blocks, 0, 1, 4, 0)
    pool.evict_blocks({1})
    assert blocks[0].block_hash is None
    assert pool.get_cached_block(request.block_hashes[0], [0]) is None
    assert pool.get_num_free_blocks() == 2
    pool.cache_full_blocks(request, blocks, 0, 1, 4, 0)
    assert pool.get_cached_block(request.block_hashes[0], [0]) == blocks
    pool.free_blocks(blocks)
    assert pool.get_new_blocks(3)[-1] is blocks[0]
    assert pool.get_cached_block(request.block_hashes[0], [0]) is None


def test_blocks_of_other_pools_go_back_to_them():
    pool, other = BlockPool(4, True, 4), BlockPool(4, True, 4)
    pool.free_blocks([*pool.get_new_blocks(1), *other.get_new_blocks(2)])
    assert (pool.get_num_free_blocks(), other.get_num_free_blocks()) == (3, 3)


def test_the_line_of_free_blocks_is_walked_from_any_of_them():
    pool = BlockPool(5, True, 4)
    blocks = pool.get_new_blocks(2)
    pool.cache_full_blocks(request_of([1] * 8), blocks, 0, 2, 4, 0)
    pool.free_blocks(reversed(blocks))
    queue = pool.free_block_queue
    line = list(queue.iter_blocks_after(None))
    assert [block.block_id for block in line] == [3, 4, 2, 1]
    assert list(queue.iter_blocks_after(line[1])) == line[2:]
    assert list(queue.iter_blocks_after(pool.null_block)) == []
    assert [pool.get_new_blocks(1)[0] for _ in line] == line


def test_metrics_hear_of_each_block():
    heard = []

    class Collector:
        def __getattr__(self, name):
            return lambda *blocks: heard.append((name, *(b.block_id for b in blocks)))

    pool = BlockPool(3, True, 4, metrics_collector=Collector())
    pool.touch(pool.get_new_blocks(1))
    pool.evict_blocks([1])
    pool.free_blocks([pool.blocks[1]] * 2)
    pool.reset_prefix_cache()
    assert heard == [
        ("on_block_evicted", 1),
        ("on_block_allocated", 1),
        ("on_block_accessed", 1),
        ("on_block_evicted", 1),
        ("reset",),
    ]


@pytest.mark.parametrize("call", ["cache_partial_block", "move_block_hashes", "unpin_blocks"])
def test_calls_of_hybrid_models_are_refused_by_name(call):
    arguments = () if call == "cache_partial_block" else (None, None)
    with pytest.raises(NotImplementedError, match=call):
        getattr(BlockPool(2, True, 4), call)(*arguments)


@pytest.fixture
def fake_vllm(monkeypatch):
    package, seam = ModuleType("vllm"), ModuleType("vllm.v1.core.kv_cache_coordinator")
    package.__version__, seam.BlockPool = "0.32.1", object()
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, seam.__name__, seam)
    return package, seam


def test_install_puts_the_pool_into_its_place_and_back(fake_vllm):
    seam = fake_vllm[1]
    theirs = seam.BlockPool
    with adapter.installed():
        assert seam.BlockPool is BlockPool
        with adapter.installed():
            assert seam.BlockPool is BlockPool
        assert seam.BlockPool is BlockPool
    assert seam.BlockPool is theirs
    adapter.uninstall()
    assert seam.BlockPool is theirs


def test_uninstall_leaves_what_somebody_else_has_put_there(fake_vllm):
    seam = fake_vllm[1]
    theirs, somebodys = seam.BlockPool, object()
    adapter.install()
    seam.BlockPool = somebodys
    with pytest.raises(RuntimeError, match=r"BlockPool .* was replaced after"):
        adapter.uninstall()
    assert seam.BlockPool is somebodys
    seam.BlockPool = BlockPool
    adapter.uninstall()
    assert seam.BlockPool is theirs


@pytest.mark.parametrize("version", ["0.33.0", "0.3.2", "1.32.0"])
def test_another_version_is_named(fake_vllm, version):
    fake_vllm[0].__version__ = version
    with pytest.raises(ImportError, match=rf"needs vLLM 0\.32, found {version}"):
        adapter.install()


def test_a_missing_vllm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"vllm==0\.32\.0"):
        adapter.install()
