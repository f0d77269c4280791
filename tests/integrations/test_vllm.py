"""vLLM's manager of blocks on our pool, beside the same on its own. Opt-in: -m vllm."""

import pytest
from invariants import assert_intact
from vllm_pair import import_vllm, make_managers, make_request

import nbkv

pytestmark = [pytest.mark.vllm]


@pytest.fixture(scope="module")
def vllm():
    return import_vllm()


class Schedule:
    """The same requests in both managers; what they answer must agree, ids need not."""

    def __init__(self, vllm, rng, num_blocks, block_size, window):
        self.vllm, self.rng, self.block_size = vllm, rng, block_size
        self.managers = make_managers(vllm, num_blocks, block_size=block_size, window=window)
        self.alive = []
        self.count = self.num_hits = self.num_refused = 0
        self.shared = [[rng.randrange(9) for _ in range(rng.randrange(2, 60))] for _ in range(4)]

    def both(self, call):
        theirs, ours = (call(manager, i) for i, manager in enumerate(self.managers))
        assert theirs == ours
        return ours

    def start(self):
        tail = [self.rng.randrange(2) for _ in range(self.rng.randrange(1, 20))]
        tokens = self.rng.choice(self.shared) + tail
        name = f"request {self.count}"
        self.count += 1
        pair = [make_request(self.vllm, name, tokens, self.block_size) for _ in self.managers]
        chunk = self.rng.randrange(1, len(tokens) + 1)

        def admit(manager, i):
            blocks, num_hit, _ = manager.get_computed_blocks(pair[i])
            new = min(chunk, len(tokens) - num_hit)
            if manager.allocate_slots(pair[i], new, num_hit, blocks) is None:
                return None
            pair[i].num_computed_tokens = num_hit + new
            return num_hit, new

        answer = self.both(admit)
        if answer is None:
            self.num_refused += 1
        else:
            self.num_hits += answer[0]
            self.alive.append(pair)

    def go_on(self, at):
        pair = self.alive[at]
        prompt_left = pair[0].num_tokens - pair[0].num_computed_tokens
        token, count = self.rng.randrange(3), max(1, prompt_left)

        def decode(manager, i):
            if not prompt_left:
                pair[i].append_output_token_ids(token)
            blocks = manager.allocate_slots(pair[i], count)
            if blocks is None:
                return None
            pair[i].num_computed_tokens += count
            manager.cache_blocks(pair[i], pair[i].num_computed_tokens)
            return [len(group) for group in blocks.blocks]

        if self.both(decode) is None:
            self.num_refused += 1
            self.end(at)

    def end(self, at):
        pair = self.alive.pop(at)
        self.both(lambda manager, i: manager.free(pair[i]))

    def check(self):
        self.both(lambda manager, i: manager.block_pool.get_num_free_blocks())
        self.both(lambda manager, i: round(manager.usage, 9))
        for pair in self.alive:
            tables = [m.get_block_ids(pair[0].request_id) for m in self.managers]
            assert [len(group) for group in tables[0]] == [len(group) for group in tables[1]]
            for theirs, ours in zip(*tables, strict=True):
                holes = [i for i, block in enumerate(theirs) if block == 0]
                assert [i for i, block in enumerate(ours) if block == 0] == holes
                live = [block for block in ours if block]
                assert len(set(live)) == len(live)
        self.check_sharing()

    def check_sharing(self):
        """Two requests share a block in one manager where, and only where, in the other."""

        def shared(manager, _):
            places = {}
            for pair in self.alive:
                name = pair[0].request_id
                for group, table in enumerate(manager.get_block_ids(name)):
                    for i, block in enumerate(table):
                        if block:
                            places.setdefault(block, []).append((name, group, i))
            return sorted(places.values())

        self.both(shared)


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("num_blocks", [16, 40, 400])
def test_hits_counts_and_sharing_are_those_of_vllms_pool(vllm, rng, num_blocks, window):
    schedule = Schedule(vllm, rng, num_blocks, 8, window)
    for _ in range(400):
        action = rng.random()
        if action < 0.3:
            schedule.start()
        elif action < 0.85 and schedule.alive:
            schedule.go_on(rng.randrange(len(schedule.alive)))
        elif action < 0.98 and schedule.alive:
            schedule.end(rng.randrange(len(schedule.alive)))
        elif action >= 0.98:
            schedule.both(lambda manager, i: manager.reset_prefix_cache())
        schedule.check()
    assert schedule.num_hits > 0
    while schedule.alive:
        schedule.end(0)
    schedule.check()
    pool = schedule.managers[1].block_pool
    assert pool.get_num_free_blocks() == num_blocks - 1
    assert_intact(pool._blocks.cache)


def test_events_are_those_of_vllms_pool(vllm, rng):
    managers, num_events = make_managers(vllm, 12, block_size=4, events=True), 0
    for i in range(30):
        tokens = [rng.randrange(2) for _ in range(rng.randrange(5, 30))]
        for manager in managers:
            request = make_request(vllm, f"request {i}", tokens, 4)
            blocks, num_hit, _ = manager.get_computed_blocks(request)
            manager.allocate_slots(request, len(tokens) - num_hit, num_hit, blocks)
            manager.free(request)
        if rng.random() < 0.2:
            assert managers[0].reset_prefix_cache() == managers[1].reset_prefix_cache()
        theirs, ours = (manager.take_events() for manager in managers)
        assert ours == theirs
        num_events += len(ours)
    assert num_events > 30


def test_a_double_free_of_a_cached_block_is_silent_in_vllm_and_raises_here(vllm):
    theirs, ours = make_managers(vllm, 8, block_size=4)
    for manager in (theirs, ours):
        request = make_request(vllm, "a", list(range(9)), 4)
        manager.allocate_slots(request, 9)
        blocks = manager.get_blocks("a").blocks[0]
        manager.free(request)
        if manager is ours:
            with pytest.raises(nbkv.BlockError):
                manager.block_pool.free_blocks(reversed(blocks))
        else:
            manager.block_pool.free_blocks(reversed(blocks))
            assert [block.ref_cnt for block in blocks] == [-1, -1, -1]
    assert ours.block_pool.get_num_free_blocks() == 7


def test_block_ids_reported_as_invalid_are_hit_no_more(vllm):
    managers = make_managers(vllm, 8, block_size=4)
    for manager in managers:
        request = make_request(vllm, "a", list(range(9)), 4)
        manager.allocate_slots(request, 9)
        manager.evict_blocks(set(manager.get_block_ids("a")[0][1:2]))
        again = make_request(vllm, "b", list(range(9)), 4)
        assert manager.get_computed_blocks(again)[1] == 4
