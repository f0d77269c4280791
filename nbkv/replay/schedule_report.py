"""What a simulated schedule prints: a table, JSON, or a plot over time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.replay.reading import AnyTrace
from nbkv.replay.schedule import SPAN_FIELDS, ScheduleRun, Spread

if TYPE_CHECKING:
    from rich.table import Table

Cell = Callable[[ScheduleRun], str]


def as_json(trace: AnyTrace, load: float, runs: list[ScheduleRun]) -> dict[str, Any]:
    """Put a schedule's results into the JSON report's shape."""
    return {
        "trace": trace.name,
        "block_size": trace.block_size,
        "load": load,
        "timeline_fields": list(SPAN_FIELDS),
        "runs": [run.as_dict() for run in runs],
    }


def as_table(runs: list[ScheduleRun]) -> "Table":
    """Lay the runs out as a rich table: a column each, so that many numbers have room."""
    from rich.table import Table

    table = Table(title="What a scheduler would have made of it, on a simulated clock")
    table.add_column("")
    for run in runs:
        heading = f"{run.setting.policy}, {run.setting.capacity:,} blocks"
        table.add_column(heading, justify="right")
    for title, rows in _sections():
        table.add_row(title, style="bold")
        for name, cell in rows:
            table.add_row(f"  {name}", *(cell(run) for run in runs))
    return table


def _sections() -> list[tuple[str, list[tuple[str, Cell]]]]:
    return [
        (
            "served",
            [
                ("requests", lambda run: f"{run.requests:,}"),
                ("simulated time", lambda run: f"{run.seconds:,.1f} s"),
                ("output tokens a second", lambda run: f"{run.output_tokens_per_second:,.1f}"),
                ("prompt tokens hit", lambda run: f"{run.hit_ratio:.2%}"),
                ("tokens computed", lambda run: f"{run.computed_tokens:,}"),
                ("preemptions", lambda run: f"{run.preemptions:,}"),
                ("evictions", lambda run: f"{run.evictions:,}"),
            ],
        ),
        ("time to first token", _spread_rows(lambda run: run.first_token_seconds, 1, "s")),
        ("time between tokens", _spread_rows(lambda run: run.inter_token_seconds, 1e3, "ms")),
        ("time of a request", _spread_rows(lambda run: run.request_seconds, 1, "s")),
        (
            "blocks held",
            [
                ("mean", lambda run: f"{run.held_mean:.1%}"),
                ("peak", lambda run: f"{run.held_peak:.1%}"),
            ],
        ),
        (
            "scheduler, on this machine",
            [
                ("steps", lambda run: f"{run.steps:,}"),
                *_spread_rows(lambda run: run.scheduler_us, 1, "us"),
            ],
        ),
    ]


def _spread_rows(
    pick: Callable[[ScheduleRun], Spread], factor: float, unit: str
) -> list[tuple[str, Cell]]:
    def cell(part: str) -> Cell:
        def text(run: ScheduleRun) -> str:
            value = getattr(pick(run), part)
            return "-" if value is None else f"{factor * value:,.2f} {unit}"

        return text

    return [(part, cell(part)) for part in ("mean", "p50", "p99")]


def refused_line(runs: list[ScheduleRun]) -> str:
    """Say that requests did not fit, or nothing."""
    worst = max(run.refused_requests for run in runs)
    if not worst:
        return ""
    requests = "1 request" if worst == 1 else f"{worst:,} requests"
    return f"{requests} longer than the smallest pool, refused there."


def save_plot(path: str, trace: AnyTrace, runs: list[ScheduleRun]) -> None:
    """Draw blocks and sequences over time, a pair of axes for each run.

    Parameters
    ----------
    path : str
        Where to; the ending tells the format.
    trace : Trace or TokenTrace
    runs : list of ScheduleRun
        At least one.

    Raises
    ------
    OSError, ValueError
        The file cannot be written, or its ending names no known format.
    """
    # Not pyplot: it would pick a display, and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2 * len(runs)), layout="constrained")
    axes = figure.subplots(2 * len(runs), 1, sharex=True, height_ratios=[2, 1] * len(runs))
    for number, run in enumerate(runs):
        _draw_run(axes[2 * number], axes[2 * number + 1], trace, run)
    axes[-1].set_xlabel("simulated time, minutes")
    figure.savefig(path, dpi=110)


def _draw_run(blocks: Any, sequences: Any, trace: AnyTrace, run: ScheduleRun) -> None:  # noqa: ANN401
    seconds, held, cached, running, waiting = np.array(run.timeline).T
    minutes, share = seconds / 60, 100 / run.setting.capacity
    blocks.stackplot(
        minutes,
        share * held,
        share * cached,
        labels=("held by sequences", "cached"),
        colors=("C0", "0.8"),
    )
    blocks.set_ylim(0, 100)
    blocks.set_ylabel(f"% of {run.setting.capacity:,} blocks")
    blocks.set_title(f"{trace.name}: {run.setting.policy}, {run.preemptions:,} preemptions")
    sequences.plot(minutes, running, label="in the batch", color="C0")
    sequences.plot(minutes, waiting, label="waiting", color="C3")
    sequences.set_ylabel("sequences")
    sequences.set_ylim(bottom=0)
    for axes in (blocks, sequences):
        # Beside the axes: no corner of them is empty in every run.
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
