"""vLLM's manager of blocks on its own pool and on ours, in one run.

Run in an environment with vLLM (docs/vllm.md): python asv_bench/compare_vllm.py [num_blocks]
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("", "tests/integrations")]

from vllm_pair import import_vllm, make_managers, make_request  # noqa: E402

PROMPT = 2048
BLOCK_SIZE = 16
REPEATS = 30


def best(work, repeats=REPEATS, prepare=lambda: None):
    """Return the shortest time of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        given = prepare()
        start = time.perf_counter()
        work(given) if given is not None else work()
        times.append(time.perf_counter() - start)
    return min(times)


class Work:
    def __init__(self, vllm, manager, num_blocks):
        self.vllm, self.manager, self.num_blocks = vllm, manager, num_blocks
        self.pool = manager.block_pool
        self.count = 0

    def request(self, tokens):
        self.count += 1
        return make_request(self.vllm, f"request {self.count}", tokens)

    def admit(self, request):
        blocks, num_hit, _ = self.manager.get_computed_blocks(request)
        self.manager.allocate_slots(request, request.num_tokens - num_hit, num_hit, blocks)

    def fresh(self):
        start = self.count * 7919
        return self.request(list(range(start, start + PROMPT)))

    def time_pool_take_and_free(self):
        def work():
            self.pool.free_blocks(reversed(self.pool.get_new_blocks(128)))

        return best(work) / 128 * 1e9, "ns a block"

    def time_prefill_and_free(self):
        def work(request):
            self.admit(request)
            self.manager.free(request)

        return best(work, prepare=self.fresh) / 128 * 1e9, "ns a block"

    def time_match(self):
        request = self.request(list(range(PROMPT + 1)))
        self.admit(request)
        again = self.request(list(range(PROMPT + 1)))
        took = best(lambda: self.manager.get_computed_blocks(again))
        self.manager.free(request)
        return took * 1e6, "us"

    def time_evict_and_allocate(self):
        """Each block taken is one that could be found."""
        while self.pool.blocks[self.num_blocks - 1].block_hash is None:
            request = self.fresh()
            self.admit(request)
            self.manager.free(request)
        return self.time_prefill_and_free()

    def time_decode_step(self):
        """One token of each of 256 requests, none of which shares anything."""
        self.manager.reset_prefix_cache()
        requests = [self.request([i] * 64) for i in range(256)]
        for request in requests:
            self.admit(request)
            request.num_computed_tokens = request.num_tokens

        def work():
            for request in requests:
                request.append_output_token_ids(1)
                self.manager.allocate_slots(request, 1)
                request.num_computed_tokens += 1

        took = min(best(work, repeats=BLOCK_SIZE) for _ in range(3))
        for request in requests:
            self.manager.free(request)
        return took / 256 * 1e9, "ns a request"


def main() -> None:
    num_blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
    vllm = import_vllm()
    managers = make_managers(vllm, num_blocks)
    works = [Work(vllm, manager, num_blocks) for manager in managers]
    print(f"{num_blocks} blocks of {BLOCK_SIZE} tokens: vLLM's pool, nbkv's")
    for name in [name for name in dir(Work) if name.startswith("time_")]:
        (theirs, unit), (ours, _) = (getattr(work, name)() for work in works)
        print(f"{name[5:]:22} {theirs:9.1f} {ours:9.1f} {unit}")


if __name__ == "__main__":
    main()
