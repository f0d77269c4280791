"""Replaying LLM-serving traces through the engine, and what comes out of it."""

from nbkv.replay.replay import ReplayRun, replay_trace
from nbkv.replay.traces import Trace, TraceError, read_trace
from nbkv.replay.workload import chat_workload

__all__ = [
    "ReplayRun",
    "Trace",
    "TraceError",
    "chat_workload",
    "read_trace",
    "replay_trace",
]
