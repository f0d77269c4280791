"""What adopters test their schedulers with."""

from nbkv.testing.executor import LaggingExecutor
from nbkv.testing.failures import ScheduleError, SlotError
from nbkv.testing.schedule import run_random_schedule

__all__ = ["LaggingExecutor", "ScheduleError", "SlotError", "run_random_schedule"]
