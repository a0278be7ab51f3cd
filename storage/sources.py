"""Folders and files outside of any store, and how to tell that one has changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .backends import file_system, file_system_of

_VERSIONS = ("generation", "mtime", "ETag", "etag", "LastModified", "last_modified", "updated")


def source_of(source: str) -> tuple[Any, str]:
    """The fsspec file system of a checkpoint's source, and the folder's whole path in it, without a "/" at its end.

    Raises:
        MissingExtra: its backend is not installed.
    """
    # Only what is a URL is read as one: a folder of this machine may have any name. Whole, as its files will be told.
    fs, path = file_system_of(source) if "://" in source else (file_system("file", {}), os.path.abspath(source))
    return fs, path.rstrip("/")


def version_of(info: Mapping[str, Any]) -> str:
    """What changes when a file's bytes do, as far as its file system tells (fsspec's `info`); else ""."""
    return next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), "")
