"""File systems by protocol, and what is missing where one can't be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import MissingExtra

EXTRAS: Mapping[str, str] = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extra that each protocol needs."""


def file_system(protocol: str, options: Mapping[str, Any], *, needed_by: str = "") -> Any:
    """An fsspec file system.

    Args:
        needed_by: what needs it, as the user knows it; by default the protocol.

    Raises:
        MissingExtra: its package is not installed, and an extra of ours would bring it.
    """
    import fsspec

    untyped: Any = fsspec
    try:
        return untyped.filesystem(protocol, **options)
    except ImportError as error:
        raise not_installed(protocol, error, needed_by=needed_by) from error


def file_system_of(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises MissingExtra as `file_system` does."""
    import fsspec

    untyped: Any = fsspec
    try:
        fs, path = untyped.url_to_fs(url, **(options or {}))
    except ImportError as error:
        raise not_installed(url.rpartition("::")[2].partition("://")[0], error) from error
    return fs, path


def not_installed(protocol: str, error: ImportError, *, needed_by: str = "") -> ImportError | MissingExtra:
    """What to raise for a package that is not installed: the error itself, where no extra of ours would help."""
    if protocol not in EXTRAS:
        return error
    # fsspec tells the module by the cause only.
    module = error.name or getattr(error.__cause__, "name", None) or protocol
    return MissingExtra(needed_by or f"{protocol}://", extra=EXTRAS[protocol], module=module)


def lacks_credentials(error: BaseException | None) -> bool:
    """Whether a client had nothing that tells who we are."""
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):  # of botocore
        return True
    return "anonymous caller" in str(error).lower()  # as Google says it
