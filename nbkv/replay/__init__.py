"""Replaying LLM-serving traces through the engine, and what comes out of it."""

from nbkv.replay.arrivals import Arrivals
from nbkv.replay.jsonl import TraceError
from nbkv.replay.reading import read_trace
from nbkv.replay.replay import ReplayRun
from nbkv.replay.runs import replay_trace
from nbkv.replay.schedule import ScheduleRun, simulate
from nbkv.replay.simulation import Setting
from nbkv.replay.token_replay import TokenReplayRun
from nbkv.replay.token_traces import TokenTrace
from nbkv.replay.traces import Trace
from nbkv.replay.workload import chat_tokens, chat_workload

__all__ = [
    "Arrivals",
    "ReplayRun",
    "ScheduleRun",
    "Setting",
    "TokenReplayRun",
    "TokenTrace",
    "Trace",
    "TraceError",
    "chat_tokens",
    "chat_workload",
    "read_trace",
    "replay_trace",
    "simulate",
]
