"""What a replay prints: a table, JSON, or a plot."""

from typing import TYPE_CHECKING, Any

from nbkv.replay.reading import AnyTrace
from nbkv.replay.replay import ReplayRun
from nbkv.replay.token_replay import TokenReplayRun
from nbkv.replay.token_traces import TokenTrace

if TYPE_CHECKING:
    from rich.table import Table


def as_json(trace: AnyTrace, runs: list[ReplayRun]) -> dict[str, Any]:
    """Put a replay's results into the JSON report's shape."""
    document: dict[str, Any] = {
        "trace": trace.name,
        "requests": trace.num_requests,
        "total_blocks": trace.total_blocks,
        "total_tokens": trace.total_tokens,
        "unique_blocks": trace.num_unique,
    }
    if isinstance(trace, TokenTrace):
        document |= {"block_size": trace.block_size, "outputs": trace.outputs}
    return document | {"runs": [run.as_dict() for run in runs]}


def headline(trace: AnyTrace) -> str:
    """Describe a trace in one line."""
    distinct = f"{trace.num_unique:,} of them distinct"
    if isinstance(trace, TokenTrace):
        outputs = ", outputs counted" if trace.outputs else ""
        distinct = f"{trace.num_unique:,} distinct full ones{outputs}"
    return (
        f"{trace.name}: {trace.num_requests:,} requests, {trace.total_tokens:,} tokens in"
        f" {trace.total_blocks:,} blocks of {trace.block_size}, {distinct}"
    )


def _share(blocks: int, trace: AnyTrace) -> float:
    """Divide by the distinct blocks; a trace of short prompts may have no full one."""
    return blocks / max(1, trace.num_unique)


def ceiling_line(trace: AnyTrace) -> str:
    """Say what a cache that never evicts would have hit."""
    ceiling = trace.ceiling_tokens / trace.total_tokens
    return f"An infinite cache would have hit {ceiling:.1%} of the tokens."


def skipped_line(trace: AnyTrace) -> str:
    """Say how many rows were left out, or nothing."""
    if not trace.num_skipped:
        return ""
    rows = "1 row" if trace.num_skipped == 1 else f"{trace.num_skipped:,} rows"
    return f"{rows} without hash_ids skipped."


def overflow_line(runs: list[ReplayRun]) -> str:
    """Explain the overflow column, where it has entries."""
    worst = max((run.overflow_requests for run in runs), default=0)
    if not worst:
        return ""
    return "Overflow: requests that did not fit beside the running ones and were cut."


def as_table(trace: AnyTrace, runs: list[ReplayRun]) -> "Table":
    """Lay the runs out as a rich table, a rule between policies."""
    from rich.table import Table

    running = runs[0].running if runs else 1
    one = "one request at a time" if running == 1 else f"{running:,} requests running"
    table = Table(title=f"What a cache would have saved ({one})")
    table.add_column("policy")
    for heading in (
        "capacity",
        "of unique",
        "token hits",
        "block hits",
        "inserts",
        "evictions",
        "overflow",
        "M tokens/s" if isinstance(trace, TokenTrace) else "M refs/s",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        ends = following is not None and following.policy != run.policy
        table.add_row(*_cells(trace, run), end_section=ends)
    return table


def _cells(trace: AnyTrace, run: ReplayRun) -> list[str]:
    speed = run.block_refs_per_second
    if isinstance(run, TokenReplayRun):
        speed = run.tokens_per_second
    return [
        run.policy,
        f"{run.capacity:,}",
        f"{_share(run.capacity, trace):.1%}",
        f"{run.hit_ratio_tokens:.2%}",
        f"{run.hit_ratio_blocks:.2%}",
        f"{run.inserts:,}",
        f"{run.evictions:,}",
        f"{run.overflow_requests:,}",
        f"{speed / 1e6:.1f}",
    ]


def save_plot(path: str, trace: AnyTrace, runs: list[ReplayRun]) -> None:
    """Draw hit rate over capacity, a line a policy, and the infinite cache's ceiling.

    Parameters
    ----------
    path : str
        Where to; the ending tells the format.
    trace : Trace
    runs : list of ReplayRun
        At least one.

    Raises
    ------
    OSError, ValueError
        The file cannot be written, or its ending names no known format.
    """
    # Not pyplot: it would pick a display, and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    # The first line is drawn broad: where two policies agree, both can be seen.
    styles: list[dict[str, Any]] = [
        {"marker": "o", "linewidth": 4, "alpha": 0.5},
        {"marker": "^"},
        {"marker": "s"},
    ]
    names = list(dict.fromkeys(run.policy for run in runs))
    for policy, style in zip(names, styles, strict=False):
        own = sorted((run for run in runs if run.policy == policy), key=lambda run: run.capacity)
        axes.plot(
            [run.capacity for run in own],
            [100 * run.hit_ratio_tokens for run in own],
            label=policy,
            **style,
        )
    ceiling = 100 * trace.ceiling_tokens / trace.total_tokens
    axes.axhline(ceiling, color="0.4", linestyle="--", label=f"infinite cache ({ceiling:.1f} %)")
    _label_axes(axes, trace, sorted({run.capacity for run in runs}))
    axes.set_ylim(0, min(100, 1.2 * ceiling) or 1)
    # Hits grow with capacity, so this corner is empty.
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)


def _percent(share: float) -> str:
    """Write a share with two digits, and with all before the point."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _label_axes(axes: Any, trace: AnyTrace, capacities: list[int]) -> None:  # noqa: ANN401
    """Write the capacities under the axis, in blocks and in percent of the distinct ones."""
    axes.set_xscale("log")
    axes.set_xticks(capacities)
    axes.set_xticks([], minor=True)
    axes.set_xticklabels(
        [f"{blocks:,}\n({_percent(_share(blocks, trace))})" for blocks in capacities]
    )
    axes.set_xlabel(f"capacity in blocks of {trace.block_size} tokens (share of distinct blocks)")
    axes.set_ylabel("tokens found in the cache, %")
    axes.set_title(f"{trace.name}: prefix hits")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
