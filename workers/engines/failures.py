"""What an exception of an engine or of a user's function means for a row."""

from __future__ import annotations

from ...jobs.rows import RowError

_MESSAGE_CHARS = 2000


def retryable(error: BaseException) -> bool:
    """Whether the same row may succeed later: connection and time-out errors, or `error.retryable = True`."""
    said = getattr(error, "retryable", None)
    if isinstance(said, bool):
        return said
    return isinstance(error, ConnectionError | TimeoutError)


def row_error(error: BaseException) -> RowError:
    """The row's error; the message is the exception's own, shortened, without a traceback."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if len(text) > _MESSAGE_CHARS:
        text = text[: _MESSAGE_CHARS - 1] + "…"
    after = getattr(error, "retry_after_s", None)
    return RowError("engine_error", text, retryable(error), float(after) if isinstance(after, int | float) else None)
