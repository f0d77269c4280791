"""Reading a trace file of either format, told by the fields of its first row."""

from pathlib import Path

from nbkv.replay.jsonl import Progress, TraceError, rows_of
from nbkv.replay.token_traces import TokenTrace, TokenTraceBuilder, is_token_row
from nbkv.replay.traces import Trace, TraceBuilder

AnyTrace = Trace | TokenTrace


def read_trace(path: str | Path, progress: Progress | None = None) -> AnyTrace:
    """Read a trace file.

    Parameters
    ----------
    path : str or Path
        A ``.jsonl`` file, gzipped or not (told by content, not by name).
    progress : callable, optional
        Called as ``progress(bytes_read, bytes_total)`` now and then.

    Returns
    -------
    Trace or TokenTrace

    Raises
    ------
    TraceError
        Where the file cannot be read, a line is malformed, or there is nothing to replay.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl") or path.name
    builder: TraceBuilder | TokenTraceBuilder | None = None
    for row, where in rows_of(path, progress):
        if builder is None:
            builder = TokenTraceBuilder(name) if is_token_row(row) else TraceBuilder(name)
        builder.add_row(row, where)
    builder = builder or TraceBuilder(name)
    if builder.objection:
        raise TraceError(f"{path}: {builder.objection}")
    return builder.build()
