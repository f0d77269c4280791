"""A random life in steps: whatever else may happen to sequences, names, leases and the cache."""

import random

from pairing import chain_hashes
from step_events import StepEvents

NAMES = [0, 5, 2**64 - 1]


class StepLife(StepEvents):
    """One pair, and all that can be done to it; each event is drawn from a generator."""

    # --- whole sequences -------------------------------------------------------------
    def finish(self, rng: random.Random) -> None:
        self.pair.do("finish", self.some(rng)[: rng.randint(1, 3)])

    def follow(self, source: int, target: int) -> None:
        """A sequence was opened over another one's tokens."""
        if not self.pair.refused:
            self.prompts[target] = list(self.prompts.get(source, []))
            line = self.naive.sequences[target]
            said = self.device.said.get(self.naive.sequences[source], [])
            self.device.said[line] = said[: line.num_tokens]

    def fork(self, rng: random.Random) -> None:
        source, target = self.alive(rng), self.unborn(rng)
        self.pair.do("fork", source, target)
        self.follow(source, target)

    def share(self, rng: random.Random) -> None:
        source, target = self.alive(rng), self.unborn(rng)
        self.pair.do("share_prefix", source, target, rng.randint(0, 3))
        self.follow(source, target)

    def truncate(self, rng: random.Random) -> None:
        seq_id = self.alive(rng)
        line = self.naive.sequences.get(seq_id)
        most = line.num_committed if line else 0
        self.pair.do("truncate", seq_id, max(0, most - rng.randint(-1, 2 * self.naive.block_size)))
        if rng.random() < 0.5:
            self.prompts.pop(seq_id, None)  # it goes on differently

    def reorder(self, rng: random.Random) -> None:
        seq_ids = self.some(rng)
        parents = [rng.randint(0, max(0, len(seq_ids) - 1)) for _ in seq_ids]
        if parents and rng.random() < 0.03:
            parents[0] = len(parents)
        lines = [self.naive.sequences.get(s) for s in seq_ids]
        said = [list(self.device.said.get(x, [])) for x in lines]
        self.pair.do("reorder", seq_ids, parents)
        if not self.pair.refused:
            for i, parent in enumerate(parents):
                if parent != i:
                    self.device.said[lines[i]] = said[parent][: lines[i].num_tokens]
                    self.prompts.pop(seq_ids[i], None)

    # --- names, leases, the cache ----------------------------------------------------
    def register(self, rng: random.Random) -> None:
        name, seq_id = rng.choice(NAMES), self.alive(rng)
        table = self.naive.block_table(seq_id) or [0]
        blocks = table[: rng.randint(0, len(table))]
        if -1 in blocks:
            return  # a hole is no block_id
        known = name in self.naive.names
        self.pair.do("register_prefix", name, blocks)
        if not self.pair.refused and not known:
            owner = next(x for x in self.naive.sequences.values() if self.naive._leads(x, blocks))
            said = self.device.said.get(owner, [])
            self.named[name] = said[: len(blocks) * self.naive.block_size]

    def attach(self, rng: random.Random) -> None:
        name, seq_id = rng.choice(NAMES), self.unborn(rng)
        self.pair.do("attach_prefix", name, seq_id)
        if not self.pair.refused:
            self.prompts.pop(seq_id, None)
            self.device.said[self.naive.sequences[seq_id]] = list(self.named.get(name, []))

    def unregister(self, rng: random.Random) -> None:
        self.pair.do("unregister_prefix", rng.choice(NAMES))

    def pin(self, rng: random.Random) -> None:
        self.pair.do("pin", self.alive(rng))

    def unpin(self, rng: random.Random) -> None:
        leases = sorted(self.naive.leases)
        wrong = not leases or rng.random() < 0.05
        self.pair.do("unpin", 0 if wrong else rng.choice(leases))

    def evict(self, rng: random.Random) -> None:
        self.pair.do("evict", rng.randint(0, 3))

    def reset(self, rng: random.Random) -> None:
        self.pair.do("reset_prefix_cache")

    def end(self) -> None:
        """End everything and let sequences take the pool: ids show the whole order."""
        for step in list(self.naive.in_flight):
            self.pair.do("commit", step)
        if self.naive.num_steps:
            self.pair.do("complete", self.naive.num_steps)
        self.check_content()
        for lease in sorted(self.naive.leases):
            self.pair.do("unpin", lease)
        self.pair.do("finish", sorted(self.naive.sequences))
        for seq_id in range(1000, 1000 + self.naive.max_sequences):
            columns = min(self.naive.max_blocks_per_sequence, self.naive.num_usable)
            self.pair.do("admit", seq_id, [])
            self.pair.do("plan", [seq_id], [columns * self.naive.block_size])
            self.pair.do("commit", self.naive.in_flight[0])
        self.pair.check()

    # --- single calls ----------------------------------------------------------------
    def single(self, rng: random.Random) -> None:
        """One of the calls that know no steps."""
        seq_id, size = self.alive(rng), self.naive.block_size
        choice = rng.randint(0, 6)
        if choice == 0:
            self.pair.do("allocate_block", seq_id)
        elif choice == 1:
            self.pair.do("allocate_blocks_for_tokens", seq_id, rng.randint(1, 2 * size + 1))
        elif choice == 2:
            self.pair.do("append_token", seq_id)
        elif choice == 3:
            chosen = self.some(rng)
            self.pair.do("append_tokens", chosen, [rng.randint(0, size + 1) for _ in chosen])
        elif choice == 4:
            self.pair.do("free_sequence", seq_id)
        elif choice == 5:
            path = [rng.randint(0, 1) for _ in range(rng.randint(0, 3))]
            left = len(path) * size - rng.randint(0, size - 1) if path else rng.randint(0, 3)
            self.pair.do("add_sequence", self.unborn(rng), chain_hashes(path), left)
        else:
            self.pair.do("lookup_prefix", rng.choice(NAMES))
