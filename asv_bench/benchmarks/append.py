"""A decode step: one token for each sequence of a batch."""

from nbkv.bench.decoding import Decoding, append_token_nanoseconds, busy_thread_ratio

ROUNDS = 10


class AppendTokens:
    params = ([1_024, 16_384], ["handles", "seq_ids"])
    param_names = ("sequences", "named by")
    timeout = 300

    def setup(self, num_sequences, named_by):
        self.decoding = Decoding(num_sequences, by_seq_id=named_by == "seq_ids")

    def track_hot(self, num_sequences, named_by):
        return self.decoding.nanoseconds_a_sequence(ROUNDS)

    track_hot.unit = "ns/sequence"

    def track_cold(self, num_sequences, named_by):
        return self.decoding.nanoseconds_a_sequence(2, cold=True)

    track_cold.unit = "ns/sequence"


def track_append_token():
    return append_token_nanoseconds(ROUNDS)


track_append_token.unit = "ns/call"


def track_busy_thread():
    return min(busy_thread_ratio(100) for _ in range(3))


track_busy_thread.unit = "p99 / p50 alone"
