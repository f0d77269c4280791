"""The built-in chat workload through the engine, by block hashes and by token ids."""

from nbkv.replay import chat_tokens, chat_workload, replay_trace


class Replay:
    params = (["lru", "fifo", "frequency"],)
    param_names = ("policy",)

    def setup(self, policy):
        self.trace = chat_workload()
        self.capacity = self.trace.num_unique // 10

    def track_block_refs(self, policy):
        runs = [replay_trace(self.trace, policy, self.capacity) for _ in range(5)]
        return max(run.block_refs_per_second for run in runs) / 1e6

    track_block_refs.unit = "M refs/s"


class TokenReplay:
    def setup(self):
        self.trace = chat_tokens()
        self.capacity = self.trace.unlimited_blocks(running=1)

    def track_tokens(self):
        runs = [replay_trace(self.trace, "lru", self.capacity) for _ in range(5)]
        return max(run.tokens_per_second for run in runs) / 1e6

    track_tokens.unit = "M tokens/s"
