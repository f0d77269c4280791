"""The built-in chat workload through the engine."""

from nbkv.replay import chat_workload, replay_trace


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
