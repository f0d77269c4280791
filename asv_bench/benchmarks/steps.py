"""Planning, committing and matching: the calls of a scheduler's step."""

from nbkv.bench import stepping


class Plan:
    params = ([1_024, 16_384], ["open", "opening", "cold"])
    param_names = ("num_sequences", "kind")
    timeout = 300

    def track_plan(self, num_sequences, kind):
        return stepping.plan_nanoseconds(num_sequences, kind, rounds=5)

    track_plan.unit = "ns/sequence"


class Step:
    params = (1_024, 16_384)
    param_names = ("num_sequences",)
    timeout = 300

    def track_step(self, num_sequences):
        return stepping.step_nanoseconds(num_sequences, rounds=5)

    track_step.unit = "ns/sequence"


class Crowded:
    timeout = 300

    def track_p99_over_p50(self):
        return stepping.crowded_ratios(5_000)[1]

    def track_p99_beside_a_busy_thread(self):
        return stepping.crowded_ratios(5_000)[2]

    track_p99_over_p50.unit = "times"
    track_p99_beside_a_busy_thread.unit = "times"


class Prompts:
    def setup(self):
        self.prompts = stepping.Prompts()

    def track_match_2048(self):
        return self.prompts.match(2_048, 1_000) * 1e6

    def track_match_4096(self):
        return self.prompts.match(4_096, 1_000) * 1e6

    def track_miss(self):
        return self.prompts.match(2_048, 1_000, cached=False) * 1e6

    def track_match_100k_cold(self):
        return self.prompts.match(100_000, 4, cold=True) * 1e6

    def track_admit_and_plan_2048(self):
        return self.prompts.prefill(2_048, 200)[0] * 1e6

    def track_commit_2048(self):
        return self.prompts.prefill(2_048, 200)[1] * 1e6

    def track_prefill_100k(self):
        return self.prompts.whole_prefill(100_000, 10) * 1e6

    track_match_2048.unit = track_match_4096.unit = track_miss.unit = "us"
    track_match_100k_cold.unit = track_prefill_100k.unit = "us"
    track_admit_and_plan_2048.unit = track_commit_2048.unit = "us"
