"""Open a store by URL, and refuse one that can't keep the promises."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from .backends import lacks_credentials
from .errors import ObjectNotFound, SettingsError, StoreRefused, StoreUnavailable
from .local import LocalStore
from .remote import RemoteStore
from .store import Capabilities, Store

log = logging.getLogger(__name__)

LAYOUT = 1
_MARKER = "holdshort.json"
_OVERWRITE, _KEPT, _ABSENT = "conditional_overwrite", "probed", "absent"


def open_store(url: str, *, fsync: bool = False, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store at a URL or in a folder.

    At the first use ever of a store it is tried whether a second exclusive create of one name is really
    refused, and whether an overwrite can be bound to what was there before (`Store.capabilities`); the answers are left
    in the store, in `holdshort.json`.

    Args:
        url: a folder, "file://…", "s3://bucket/prefix", "gs://bucket/prefix", or "memory://name".
        fsync: for a folder, see LocalStore.
        storage_options: for the others, passed on to fsspec.

    Raises:
        StoreRefused: no exclusive create, no such bucket, or written by a newer version.
        SettingsError: there are no credentials for it.
        StoreUnavailable: it does not answer.
        MissingExtra: the backend is not installed.
    """
    protocol, separator, rest = url.partition("://")
    store: LocalStore | RemoteStore
    if not separator:
        store = LocalStore(url, fsync=fsync)
    elif protocol in ("file", "local"):
        store = LocalStore(rest, fsync=fsync)
    else:
        store = RemoteStore(url, storage_options=storage_options)
    try:
        marker = _marker(store, store.read(_MARKER))
    except StoreUnavailable as error:
        if lacks_credentials(error.__cause__):
            raise SettingsError(
                f"There are no credentials for the store {store.url} ({error.__cause__}). Set those of its cloud in "
                f"the environment, or give them in store_options."
            ) from error
        raise
    except ObjectNotFound:
        _probe_create(store)
        marker = {"layout": LAYOUT, "exclusive_create": "probed"}
        marker |= _probe_overwrite(store)
        store.create(_MARKER, orjson.dumps(marker))
    else:
        if _OVERWRITE not in marker:
            marker |= _upgrade(store, marker)
    store.capabilities = Capabilities(exclusive_create=True, conditional_overwrite=marker.get(_OVERWRITE) == _KEPT)
    return store


def _marker(store: Store, data: bytes) -> dict[str, Any]:
    try:
        marker: dict[str, Any] = orjson.loads(data)
        layout = int(marker["layout"])
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
    return marker


def _upgrade(store: LocalStore | RemoteStore, marker: dict[str, Any]) -> dict[str, str]:
    """Of a marker from before this was tried; who may only read the store does without."""
    try:
        found = _probe_overwrite(store)
        if found:
            # Whoever else does this now writes the same, and who read the old marker still understands it.
            store.replace(_MARKER, orjson.dumps({**marker, **found}))
    except StoreUnavailable as error:
        log.warning("Conditional overwrite can't be tried in the store %s, so it is not used: %s", store.url, error)
        return {}
    return found


def _probe_create(store: Store) -> None:
    name = _probe_name()
    try:
        _first_create(store, name)
        if store.create(name, b"second") or store.read(name) != b"first":
            raise StoreRefused(
                f"The store {store.url} lets an object be created twice, so no commit on it would be "
                f"exactly-once. It may be an emulator, or a server too old for conditional writes "
                f"(S3 If-None-Match, GCS ifGenerationMatch). Use another store."
            )
    finally:
        store.delete(name)


def _first_create(store: Store, name: str) -> None:
    try:
        store.create(name, b"first")
    except StoreUnavailable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            # What is written can lack nothing but the bucket.
            raise StoreRefused(
                f"There is no bucket for the store {store.url}. Create it, or name another one as HOLDSHORT_STORE."
            ) from error
        raise


def _probe_overwrite(store: LocalStore | RemoteStore) -> dict[str, str]:
    """What to note of it; nothing if it could not be told now, so that it is tried again another time."""
    if isinstance(store, LocalStore):
        return {_OVERWRITE: _ABSENT}
    store.capabilities = Capabilities(exclusive_create=True, conditional_overwrite=True)
    name = _probe_name()
    try:
        store.create(name, b"first")
        _, tag = store.read_tagged(name)
        is_kept = (
            tag != ""
            and store.replace_if(name, b"second", tag)
            and not store.replace_if(name, b"third", tag)
            and store.read(name) == b"second"
            and not store.replace_if(f"{name}-none", b"x", tag)
        )
    except StoreRefused:
        is_kept = False
    except StoreUnavailable as error:
        log.warning("Whether the store %s overwrites on a condition can't be told now: %s", store.url, error)
        return {}
    finally:
        store.capabilities = Capabilities(exclusive_create=True)
        for each in (name, f"{name}-none"):
            store.delete(each)
    return {_OVERWRITE: _KEPT if is_kept else _ABSENT}


def _probe_name() -> str:
    return f"probe/{secrets.token_hex(8)}"
