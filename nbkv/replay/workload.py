"""The built-in workload: multi-turn chat over shared system prompts, seeded.

Lengths lie in the range that published data sets report (mean tokens a user message /
an answer, turns a conversation): LMSYS-Chat-1M 70 / 215, 2.0; ShareGPT as measured in
the vLLM paper 161 / 338; WildChat-1M 296 / 441, 2.5.
"""

import heapq
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbkv.replay.token_traces import TokenTrace
from nbkv.replay.traces import Trace, TraceBuilder, full_then_rest

BLOCK_SIZE = 16
NUM_REQUESTS = 2_000
NUM_SYSTEM_PROMPTS = 12
SYSTEM_PROMPT_TOKENS = (150, 2_500)  # log-uniform: from a paragraph to an agent's handbook
USER_TOKENS = (90.0, 1.1, 8_000)  # median, sigma, maximum of a log-normal; mean about 165
ANSWER_TOKENS = (230.0, 0.9, 4_000)  # mean about 345
CONTINUE_PROBABILITY = 0.65  # of one more turn: 2.9 turns on average
MAX_CONTEXT = 16_384
ARRIVAL_SECONDS = 4.0  # mean between new conversations
THINK_SECONDS = 45.0  # mean between an answer and the next message
VOCABULARY = 128_000
# Odd numbers that nobody has chosen: the fraction of the golden ratio, and of pi.
_BLOCK_STEP = np.uint64(0x9E3779B97F4A7C15)
_TOKEN_STEP = np.uint64(0x243F6A8885A308D3)


@dataclass
class _Conversation:
    """A chat under way: which system prompt it starts with, and its tokens so far."""

    number: int
    system_prompt: int
    num_tokens: int


class _BlockNames:
    """Numbers block contents by first use, prefix-unique."""

    def __init__(self, system_tokens: list[int]) -> None:
        self._system_tokens = system_tokens
        self._names: dict[tuple[int, int, int, int], int] = {}

    def name(self, chat: _Conversation, block: int, fill: int) -> int:
        """Name block number ``block`` of a chat's prompt, with ``fill`` tokens in it."""
        shared = block * BLOCK_SIZE + fill <= self._system_tokens[chat.system_prompt]
        conversation = -1 if shared else chat.number
        key = (chat.system_prompt, conversation, block, fill)
        return self._names.setdefault(key, len(self._names))


def chat_workload(num_requests: int = NUM_REQUESTS, seed: int = 0) -> Trace:
    """Generate a chat workload; equal arguments give equal traces.

    Parameters
    ----------
    num_requests : int
        Requests, one a turn, at least 1.
    seed : int
        Of the standard library's generator, whose streams do not change.

    Returns
    -------
    Trace
        Named ``chat-<seed>``, with blocks of 16 tokens, a partly filled last one included.
    """
    rng = random.Random(seed)
    low, high = SYSTEM_PROMPT_TOKENS
    system_tokens = [round(low * (high / low) ** rng.random()) for _ in range(NUM_SYSTEM_PROMPTS)]
    names = _BlockNames(system_tokens)
    builder = TraceBuilder(f"chat-{seed}", BLOCK_SIZE)
    turns: list[tuple[float, int, _Conversation]] = []
    next_arrival, num_chats = 0.0, 0
    for _ in range(num_requests):
        if not turns or next_arrival <= turns[0][0]:
            now, chat = next_arrival, _begin(rng, num_chats, system_tokens)
            num_chats += 1
            next_arrival += rng.expovariate(1 / ARRIVAL_SECONDS)
        else:
            now, _, chat = heapq.heappop(turns)
        chat.num_tokens += _length(rng, *USER_TOKENS)
        answer = _length(rng, *ANSWER_TOKENS)
        _add_prompt(builder, names, chat, now, answer)
        chat.num_tokens += answer
        if rng.random() < CONTINUE_PROBABILITY and chat.num_tokens < MAX_CONTEXT:
            heapq.heappush(turns, (now + rng.expovariate(1 / THINK_SECONDS), chat.number, chat))
    return builder.build()


def chat_tokens(num_requests: int = NUM_REQUESTS, seed: int = 0) -> TokenTrace:
    """Generate the same chats as `chat_workload`, as token ids.

    Each block's tokens follow from its name, so that prompts share what they share there:
    full blocks. There are no outputs.

    Parameters
    ----------
    num_requests, seed : int
        As `chat_workload` takes them.

    Returns
    -------
    TokenTrace
    """
    chats = chat_workload(num_requests, seed)
    tokens = name_tokens(chats.hashes, chats.weights)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(chats.weights)))[chats.starts]
    return TokenTrace(
        chats.name, tokens, starts, starts[1:], block_size=BLOCK_SIZE, timing=chats.timing
    )


def name_tokens(hashes: NDArray[np.uint64], weights: NDArray[np.int64]) -> NDArray[np.int32]:
    """Make up the tokens of blocks, from their hashes: equal ones have equal tokens.

    Parameters
    ----------
    hashes : uint64, (num_blocks,)
    weights : int64, (num_blocks,)
        Tokens of each.

    Returns
    -------
    int32, (weights.sum(),)
    """
    ends = np.cumsum(weights)
    offsets = np.arange(ends[-1]) - np.repeat(ends - weights, weights)
    return name_tokens_at(np.repeat(hashes, weights), offsets.astype(np.uint64))


def name_tokens_at(hashes: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Make up one token each, of a block's hash and the place in it."""
    # Products that wrap, as arrays: numpy says nothing of those.
    words: NDArray[np.uint64] = hashes * _BLOCK_STEP
    words = (words ^ (words >> np.uint64(29))) + offsets * _TOKEN_STEP
    words = (words ^ (words >> np.uint64(32))) * _BLOCK_STEP
    tokens: NDArray[np.int32] = ((words >> np.uint64(32)) % np.uint64(VOCABULARY)).astype(np.int32)
    return tokens


def _begin(rng: random.Random, number: int, system_tokens: list[int]) -> _Conversation:
    """Open a conversation; a few system prompts get most of the traffic (Zipf)."""
    popularity = [1 / (rank + 1) for rank in range(len(system_tokens))]
    prompt = rng.choices(range(len(system_tokens)), popularity)[0]
    return _Conversation(number, prompt, system_tokens[prompt])


def _length(rng: random.Random, median: float, sigma: float, maximum: int) -> int:
    """Draw a message's tokens: log-normal, cut at ``maximum``."""
    return min(maximum, 1 + int(median * rng.lognormvariate(0.0, sigma)))


def _add_prompt(
    builder: TraceBuilder, names: _BlockNames, chat: _Conversation, now: float, answer: int
) -> None:
    """Add the request whose prompt is all of the conversation so far."""
    num_blocks = -(-chat.num_tokens // BLOCK_SIZE)
    fills = full_then_rest(chat.num_tokens, BLOCK_SIZE, num_blocks)
    hashes = [names.name(chat, block, fill) for block, fill in enumerate(fills.tolist())]
    builder.add(np.array(hashes, np.uint64), fills, 1000 * now, answer)
