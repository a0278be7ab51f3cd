"""How file systems say that a condition of a write was not met."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


def is_precondition(error: BaseException) -> bool:
    """Whether an error means that there was an object already, where there was to be none."""
    # s3fs turns "412 Precondition Failed" into OSError(EINVAL), gcsfs raises its own HttpError.
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if "pre-condition" in text or "preconditionfailed" in text or "conditionnotmet" in text:
            return True
        if 412 in (getattr(cause, "code", None), getattr(cause, "status", None)):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def creating(path: str, *, is_new: bool) -> Generator[None]:
    """Raises FileExistsError for what a file system raises when there is an object where there was to be none."""
    try:
        yield
    except FileExistsError:
        raise
    except Exception as error:
        if is_new and is_precondition(error):
            raise FileExistsError(f"{path} exists") from error
        raise
