"""Removes one step, if it is not to be kept when its turn comes."""

from __future__ import annotations

from typing import Any

from ....storage.checkpoints.manifest import manifest_path, read_manifest, steps
from ....storage.checkpoints.restoring import kept
from ....storage.store import Store


def prune_step(store: Store, body: dict[str, Any]) -> dict[str, Any]:
    """Look at all steps as they are now, and remove this one if the rule does not keep it; doing it twice is no harm.

    Its manifest goes first, so that no reader sees half of it. Only the files of the attempt that the manifest named
    go: another job may be saving the same step anew.
    """
    name, step = body["name"], body["step"]
    found = steps(store, name)
    if step in kept(found, keep_last=body["keep_last"], keep_every=body.get("keep_every")):
        return {"step": step, "removed": False}
    manifest = manifest_path(name, step)
    if step in found:
        if read_manifest(store, name, step).attempt != body["attempt"]:
            return {"step": step, "removed": False}  # removed and saved anew meanwhile
        store.delete(manifest)
    store.delete_folder(f"{manifest.removesuffix('.json')}/{body['attempt']}")
    return {"step": step, "removed": True}
