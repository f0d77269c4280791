"""nano-vllm's protocol, written from how it behaves: sequences, a manager, a scheduler.

The manager keeps one line of blocks that nobody holds, cached ones among them, and one block
a hash. `Faults` plants bugs in it.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class Sequence:
    seq_id: int
    token_ids: list
    max_tokens: int = 8
    block_table: list = field(default_factory=list)
    num_cached_tokens: int = 0
    num_scheduled_tokens: int = 0
    num_prompt_tokens: int = 0
    num_hit_tokens: int = 0

    def __post_init__(self):
        self.num_prompt_tokens = len(self.token_ids)

    def __len__(self):
        return len(self.token_ids)


class PlainManager:
    def __init__(self, num_blocks, block_size):
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.holders = [0] * num_blocks
        self.prefix_of = [None] * num_blocks
        self.block_of = {}
        self.line = deque(range(num_blocks))

    @property
    def num_free_blocks(self):
        return len(self.line)

    def num_blocks_of(self, seq):
        return -(-len(seq) // self.block_size)

    def hits(self, seq):
        found = []
        for i in range(1, self.num_blocks_of(seq)):
            block = self.block_of.get(tuple(seq.token_ids[: i * self.block_size]))
            if block is None:
                break
            found.append(block)
        return found

    def can_allocate(self, seq):
        hits = self.hits(seq)
        held = sum(self.holders[block] > 0 for block in hits)
        return len(hits) if self.num_blocks_of(seq) - held <= len(self.line) else -1

    def allocate(self, seq, num_cached_blocks):
        assert not seq.block_table
        for block in self.hits(seq)[:num_cached_blocks]:
            if self.holders[block] == 0:
                self.line.remove(block)
            self.holders[block] += 1
            seq.block_table.append(block)
        while len(seq.block_table) < self.num_blocks_of(seq):
            seq.block_table.append(self.next_block())
        seq.num_cached_tokens = num_cached_blocks * self.block_size

    def next_block(self):
        block = self.line.popleft()
        prefix = self.prefix_of[block]
        if prefix is not None and self.block_of.get(prefix) == block:
            del self.block_of[prefix]
        self.prefix_of[block] = None
        self.holders[block] = 1
        return block

    def deallocate(self, seq):
        for block in reversed(seq.block_table):
            self.holders[block] -= 1
            if self.holders[block] == 0:
                self.line.append(block)
        seq.num_cached_tokens = 0
        seq.block_table.clear()

    def can_append(self, seq):
        return len(self.line) >= (len(seq) % self.block_size == 1)

    def may_append(self, seq):
        if len(seq) % self.block_size == 1:
            seq.block_table.append(self.next_block())

    def hash_blocks(self, seq):
        first = seq.num_cached_tokens // self.block_size
        last = (seq.num_cached_tokens + seq.num_scheduled_tokens) // self.block_size
        for i in range(first, last):
            block = seq.block_table[i]
            self.prefix_of[block] = tuple(seq.token_ids[: (i + 1) * self.block_size])
            self.block_of[self.prefix_of[block]] = block


class Scheduler:
    """Prompts first, in chunks, then one token of each; who came last is preempted first."""

    def __init__(self, manager, max_sequences=8, max_tokens=64):
        self.manager = manager
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self.waiting = deque()
        self.running = deque()
        self.num_preemptions = 0
        self.num_hit_tokens = 0

    def add(self, seq):
        self.waiting.append(seq)

    def step(self, next_token):
        """Schedule, let `next_token` compute, take in its tokens; return who took part."""
        chosen = self.prompts() or self.decodes()
        for seq in list(chosen):
            self.manager.hash_blocks(seq)
            seq.num_cached_tokens += seq.num_scheduled_tokens
            seq.num_scheduled_tokens = 0
            if seq.num_cached_tokens < len(seq):
                continue
            seq.token_ids.append(next_token(seq))
            if len(seq) - seq.num_prompt_tokens >= seq.max_tokens:
                self.manager.deallocate(seq)
                self.running.remove(seq)
        return chosen

    def prompts(self):
        chosen, room = [], self.max_tokens
        while self.waiting and room and len(chosen) < self.max_sequences:
            seq = self.waiting[0]
            if not seq.block_table:
                num_hits = self.manager.can_allocate(seq)
                if num_hits < 0:
                    break
                self.manager.allocate(seq, num_hits)
                seq.num_hit_tokens = seq.num_cached_tokens
                self.num_hit_tokens += seq.num_cached_tokens
            left = len(seq) - seq.num_cached_tokens
            seq.num_scheduled_tokens = min(left, room)
            room -= seq.num_scheduled_tokens
            chosen.append(seq)
            if seq.num_scheduled_tokens < left:
                break
            self.running.append(self.waiting.popleft())
        return chosen

    def decodes(self):
        chosen = []
        while self.running and len(chosen) < self.max_sequences:
            seq = self.running.popleft()
            while not self.manager.can_append(seq):
                victim = self.running.pop() if self.running else seq
                self.preempt(victim)
                if victim is seq:
                    break
            else:
                seq.num_scheduled_tokens = 1
                self.manager.may_append(seq)
                chosen.append(seq)
        self.running.extendleft(reversed(chosen))
        return chosen

    def preempt(self, seq):
        self.num_preemptions += 1
        self.manager.deallocate(seq)
        self.waiting.appendleft(seq)


def random_sequences(rng, count, block_size, max_tokens=12, vocabulary=50):
    """Prompts over a few shared beginnings, some of them equal."""
    lengths = [rng.randrange(1, 4 * block_size) for _ in range(3)]
    shared = [[rng.randrange(vocabulary) for _ in range(length)] for length in lengths]
    sequences = []
    for seq_id in range(count):
        tail = [rng.randrange(3) for _ in range(rng.randrange(1, 2 * block_size))]
        prompt = list(rng.choice(shared)) + tail
        sequences.append(Sequence(seq_id, prompt, rng.randrange(1, max_tokens)))
    return sequences
