"""`holdshort doctor`: does everything answer, and if not, what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..jobs import presence
from ..jobs.broker.broker import Broker
from ..jobs.identity import new_id
from ..jobs.rows import Row, RowError
from ..jobs.settings import Settings, config_file
from ..storage.errors import HoldshortError
from ..storage.opening import open_store
from .engines import registry
from .lane.place import LanePlace
from .lane.reader import LaneReader


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        found: what is so.
        cure: what to do, when it is not ok.
    """

    what: str
    ok: bool
    found: str
    cure: str = ""


def examine() -> list[Finding]:
    """Look at the configuration, the store, the broker, and each pool's engine and workers."""
    try:
        settings = Settings.load()
    except HoldshortError as error:
        return [Finding("configuration", ok=False, found=str(error), cure="Correct the key that is named.")]
    origin = str(config_file() or "no holdshort.toml: defaults and environment")
    findings = [Finding("configuration", ok=True, found=origin)]
    findings.append(_try("store", lambda: _store(settings)))
    findings.append(_try("broker", lambda: _broker(settings)))
    findings.append(_try("lane", lambda: _lane(settings)))
    for name, pool in settings.pools.items():
        findings.append(_try(f"engine {pool.engine} of pool {name}", lambda name=name: _engine(settings, name)))
        findings.append(_try(f"workers of pool {name}", lambda name=name: _workers(settings, name)))
    return findings


def _try(what: str, look: Callable[[], str | tuple[str, str]]) -> Finding:
    try:
        found = look()
    except HoldshortError as error:
        # Our messages say in the first sentence what is wrong, and then what to do.
        message, cure = [*re.split(r"(?<=[.?!])\s+", str(error), maxsplit=1), ""][:2]
        return Finding(what, ok=False, found=message, cure=cure)
    if isinstance(found, tuple):
        return Finding(what, ok=True, found=found[0], cure=found[1])
    return Finding(what, ok=True, found=found)


def _store(settings: Settings) -> str:
    store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
    name = f"probe/{new_id()}"
    begin = time.perf_counter()
    created, again = store.create(name, b"x"), store.create(name, b"y")
    seconds = (time.perf_counter() - begin) / 2
    store.delete(name)
    if not created or again:
        raise HoldshortError(f"{store.url} lets an object be created twice. Use another store.")
    overwrite = "conditional overwrite too" if store.capabilities.conditional_overwrite else "no conditional overwrite"
    return f"{store.url}, exclusive create works, {seconds * 1000:.1f} ms each; {overwrite}"


def _broker(settings: Settings) -> str:
    broker = Broker(settings)
    begin = time.perf_counter()
    broker.check()
    seconds = time.perf_counter() - begin
    depths = {pool: broker.depth(pool) for pool in settings.pools}
    broker.close()
    waiting = ", ".join(f"{depth} waiting in {pool}" for pool, depth in depths.items())
    return f"{broker.safe_url}, connected in {seconds * 1000:.0f} ms, {waiting}"


def _lane(settings: Settings) -> str | tuple[str, str]:
    place = LanePlace.of(settings)
    found: list[str] = []
    lost: list[str] = []
    for name, pool in settings.pools.items():
        timeout_s = pool.signal_loss_timeout_s
        for source in LaneReader(place, name, signal_loss_timeout_s=timeout_s, on_lost=lambda name: None).sources():
            reading = source.reading
            found.append(f"{source.name} on {name}: {reading.signal if reading else 'overlooked'}")
            if reading is not None and reading.is_lost:
                lost.append(source.name)
    text = f"{place.folder}, {', '.join(found) if found else 'no source on this host'}"
    return (text, f"`holdshort lane dismiss {lost[0]}`, if it is gone for good.") if lost else text


def _engine(settings: Settings, name: str) -> str:
    pool = settings.pool(name)
    engine = registry.create(pool.engine, pool.options)
    begin = time.perf_counter()
    engine.load()
    loaded = time.perf_counter() - begin
    found = f"{engine.info.fingerprint}, loaded in {loaded:.1f} s"
    if pool.engine == "minilm":
        units = engine.units(Row(0, "probe", {"input": "hold short of the runway"}))
        if isinstance(units, RowError):
            raise HoldshortError(f"The engine refuses a plain text: {units.message}")
        begin = time.perf_counter()
        engine.infer(units)
        found += f", answers in {(time.perf_counter() - begin) * 1000:.0f} ms"
    engine.close()
    return found


def _workers(settings: Settings, name: str) -> str | tuple[str, str]:
    store = open_store(settings.store, fsync=settings.fsync, storage_options=settings.store_options)
    alive = presence.alive(store, name, now=time.time())
    if not alive:
        return "none is alive", f"`holdshort worker {name}` or `holdshort up` starts one."
    return ", ".join(f"{beat.host}:{beat.pid} {beat.state}" for beat in alive)
