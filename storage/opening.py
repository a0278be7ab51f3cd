"""Open a store by URL, and refuse one that can't keep the promises."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from .errors import ObjectNotFound, StoreRefused
from .local import LocalStore
from .remote import RemoteStore
from .store import Store

LAYOUT = 1
_MARKER = "holdshort.json"


def open_store(url: str, *, fsync: bool = False, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store at a URL or in a folder.

    At the first use ever of a store it is tried whether a second exclusive create of one name is really
    refused; the answer is left in the store, in `holdshort.json`.

    Args:
        url: a folder, "file://…", "s3://bucket/prefix", "gs://bucket/prefix", or "memory://name".
        fsync: for a folder, see LocalStore.
        storage_options: for the others, passed on to fsspec.

    Raises:
        StoreRefused: no exclusive create, or written by a newer version.
        StoreUnavailable: it does not answer.
        MissingExtra: the backend is not installed.
    """
    protocol, separator, rest = url.partition("://")
    store: Store
    if not separator:
        store = LocalStore(url, fsync=fsync)
    elif protocol in ("file", "local"):
        store = LocalStore(rest, fsync=fsync)
    else:
        store = RemoteStore(url, storage_options=storage_options)
    try:
        _check_marker(store, store.read(_MARKER))
    except ObjectNotFound:
        _probe(store)
    return store


def _check_marker(store: Store, data: bytes) -> None:
    try:
        layout = int(orjson.loads(data)["layout"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreRefused(
            f"{store.url}/{_MARKER} is not what Holdshort writes there. If this is a store of Holdshort, remove "
            f"that object, and it is written anew; otherwise use another store."
        ) from error
    if layout > LAYOUT:
        raise StoreRefused(
            f"The store {store.url} has layout {layout}, this version of Holdshort knows up to {LAYOUT}. "
            f"Upgrade Holdshort here, or use another store."
        )


def _probe(store: Store) -> None:
    name = f"probe/{secrets.token_hex(8)}"
    try:
        store.create(name, b"first")
        if store.create(name, b"second") or store.read(name) != b"first":
            raise StoreRefused(
                f"The store {store.url} lets an object be created twice, so no commit on it would be "
                f"exactly-once. It may be an emulator, or a server too old for conditional writes "
                f"(S3 If-None-Match, GCS ifGenerationMatch). Use another store."
            )
    finally:
        store.delete(name)
    store.create(_MARKER, orjson.dumps({"layout": LAYOUT, "exclusive_create": "probed"}))
