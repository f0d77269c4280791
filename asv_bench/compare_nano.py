"""Our manager under nano-vllm's calls, beside the double that keeps blocks as nano-vllm does.

python asv_bench/compare_nano.py [num_blocks]
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("", "tests/integrations")]

from nano_double import PlainManager, Sequence  # noqa: E402

from nbkv.integrations.nano_vllm import BlockManager  # noqa: E402

BLOCK_SIZE = 16
PROMPT = 2048


def best(work, repeats=30):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def compute(manager, seq):
    manager.allocate(seq, manager.can_allocate(seq))
    seq.num_scheduled_tokens = len(seq) - seq.num_cached_tokens
    manager.hash_blocks(seq)
    seq.num_cached_tokens = len(seq)


def revive(manager, repeats):
    """Hit 128 blocks that nobody holds, the last but few of those freed; us a prompt."""
    cached = Sequence(1, list(range(PROMPT + 1)))
    compute(manager, cached)
    manager.deallocate(cached)
    took = []
    for seq_id in range(2, 2 + repeats):
        seq = Sequence(seq_id, cached.token_ids)
        num_hits = manager.can_allocate(seq)
        start = time.perf_counter()
        manager.allocate(seq, num_hits)
        took.append(time.perf_counter() - start)
        manager.deallocate(seq)
    return min(took) * 1e6


def main() -> None:
    num_blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
    double, ours = PlainManager(num_blocks, BLOCK_SIZE), BlockManager(num_blocks, BLOCK_SIZE)
    print(f"{num_blocks} blocks of {BLOCK_SIZE} tokens")
    print(f"revive 128 blocks: double {revive(double, 3):.0f} us, nbkv {revive(ours, 30):.0f} us")
    seq = Sequence(0, list(range(PROMPT + 1)))
    print(f"match 2,048 tokens: nbkv {best(lambda: ours.can_allocate(seq)) * 1e6:.0f} us")
    sequences = [Sequence(1000 + i, [i] * 33) for i in range(256)]
    for seq in sequences:
        compute(ours, seq)

    def decode():
        for seq in sequences:
            seq.token_ids.append(1)
            ours.can_append(seq)
            ours.may_append(seq)
            seq.num_scheduled_tokens = 1
            ours.hash_blocks(seq)
            seq.num_cached_tokens += 1

    took = [1.0] * BLOCK_SIZE
    for i in range(12 * BLOCK_SIZE):
        start = time.perf_counter()
        decode()
        took[i % BLOCK_SIZE] = min(took[i % BLOCK_SIZE], time.perf_counter() - start)
    mean = sum(took) / BLOCK_SIZE / len(sequences)
    print(f"decode step, mean of a block's {BLOCK_SIZE}: nbkv {mean * 1e9:.0f} ns a sequence")


if __name__ == "__main__":
    main()
