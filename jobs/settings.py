"""Configuration: two URLs and a table of pools, from arguments, environment, `holdshort.toml`, defaults."""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self, cast
from urllib.parse import urlsplit

import platformdirs
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import TomlConfigSettingsSource

from ..storage.errors import SettingsError, UnknownPool
from ..storage.settings import ScanLimits, config_file, profiles_of
from .broker import embedded
from .spec import Name

Seconds = Annotated[float, Field(gt=0)]


def data_folder() -> Path:
    """Where the embedded broker and the default store lie."""
    return Path(platformdirs.user_data_dir("holdshort", appauthor=False))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolSettings(_Table):
    """The workers that share an engine and a lane."""

    engine: str
    """An engine's name: "minilm", "function", or one that a package registers as `holdshort.engines`."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Passed to the engine."""
    yield_bound_ms: Annotated[float, Field(gt=0)] = 50.0
    """A micro-batch is sized to take less than this, since the lane is read between any two."""
    park_after_s: Annotated[float, Field(ge=0)] = 2.0
    """A hold shorter than this is waited out in place; a longer one hands the message back."""
    suspend_when_parked: bool = False
    """Whether a parked worker also releases the engine's memory until the lane is clear."""
    drain_ms: Annotated[float, Field(ge=0)] | None = None
    """A micro-batch that is expected to end so soon after a hold is left to end; others are interrupted at once.

    A tenth of the yield bound by default.
    """
    min_run_ms: Annotated[float, Field(ge=0)] | None = None
    """A hold so soon after work went on is answered late: within the yield bound, but not before.

    Two fifths of the yield bound by default.
    """
    max_preemptions_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Beyond this, work goes on later after a hold, so that it is not stopped more often.

    One per yield bound by default: 1,200.
    """
    signal_loss_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a source of the lane that fell silent without goodbye is taken for a hold."""
    metrics: Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$")] | None = None
    """Where its worker serves /metrics for Prometheus, as "host:port"; further devices take the next ports."""
    devices: tuple[Name, ...] = ()
    """Accelerators of this host; `holdshort up` runs one worker for each, which heeds that device's lane only."""

    @model_validator(mode="after")
    def _fits_the_bound(self) -> Self:
        for name, value in (("drain_ms", self.drain_ms), ("min_run_ms", self.min_run_ms)):
            if value is not None and value > self.yield_bound_ms:
                raise ValueError(
                    f"{name} is {value:g}, above yield_bound_ms, which is {self.yield_bound_ms:g}: "
                    f"the accelerator is given back within that bound. Lower {name} or raise yield_bound_ms"
                )
        return self


class GatewaySettings(_Table):
    """A reverse proxy in front of an OpenAI-compatible server, which raises the lane for each request."""

    upstream: str = ""
    """The server's URL without a path, such as http://127.0.0.1:8000; without it `holdshort gateway --upstream` says
    which, and `holdshort up` runs no gateway."""
    pools: tuple[Name, ...] = ()
    """Whose lanes it raises; all configured pools without it."""
    device: Name | None = None
    """The accelerator that the upstream runs on, where a pool has several."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: any free port, which is logged."""
    api_keys: tuple[SecretStr, ...] = ()
    """If there are any, a request needs one as its bearer token."""
    upstream_api_key: SecretStr | None = None
    """Sent to the upstream instead of the client's own Authorization."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    max_streams: Annotated[int, Field(ge=1)] = 1024
    """Requests under way at once; one more is refused with 503."""
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 300.0
    idle_timeout_s: Seconds = 60.0
    """The longest silence of the upstream (or of a client that sends its body) in the middle of a message."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    """How long requests under way may go on after SIGTERM."""
    linger_most_ms: Annotated[float, Field(ge=0)] = 250.0
    """The longest time that the lane stays raised after the last byte, waiting for a conversation's next request."""
    promise_first_byte_ms: Annotated[float, Field(gt=0)] | None = None
    """The promised time to first byte at p95. With a promise, live traffic that keeps it leaves headroom to batch."""
    promise_gap_ms: Annotated[float, Field(gt=0)] | None = None
    """The promised time between two chunks of a stream at p95."""

    @field_validator("upstream")
    @classmethod
    def _is_an_origin(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("has to be http://host:port or https://host:port")
        if parts.username or parts.password:
            raise ValueError("must not hold credentials; use upstream_api_key")
        if parts.path not in ("", "/"):
            raise ValueError(f"must not have a path, but has {parts.path!r}: requests bring their own (/v1/…)")
        return f"{parts.scheme}://{parts.netloc}"


class WatchSettings(_Table):
    """A folder whose files become jobs while `holdshort up` runs."""

    folder: Path
    pool: Name


class Settings(BaseSettings):
    """All settings; every one has a working default.

    Raises SettingsError through `load`, naming the key, its origin and, for a misspelt one, the nearest right one.
    """

    model_config = SettingsConfigDict(env_prefix="HOLDSHORT_", extra="forbid", frozen=True)

    store: str = Field(default_factory=lambda: str(data_folder() / "store"))
    """A folder, s3://bucket/prefix or gs://bucket/prefix."""
    broker: str = Field(default_factory=lambda known: _embedded_broker(known["store"]), repr=False)
    """embedded:///path/broker.db, amqp://… (RabbitMQ) or redis://… (Redis, Valkey).

    Without one, each store has an embedded broker of its own: in its folder, or on this machine for a remote one.
    """
    store_options: dict[str, Any] = Field(default_factory=dict[str, Any], repr=False)
    """Passed to the fsspec file system, e.g. {endpoint_url = "http://…"}."""
    replicas: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]], repr=False)
    """Options of the stores that checkpoints are replicated to, by the beginning of their URL."""
    fsync: bool = False
    """Whether each object in a store folder survives a power cut; any process may die either way."""
    quantum_s: Seconds = 30.0
    """The longest time that a worker holds one message."""
    control_interval_s: Seconds = 1.0
    """How often a running worker looks whether its job was cancelled, paused or taken over."""
    redelivery_s: Seconds = 5.0
    """How long after its worker died a message is delivered again, on the embedded broker and on Redis."""
    retention_s: Seconds = 30 * 86400.0
    """How long an ended job and its results are kept."""
    webhook_secret: SecretStr | None = None
    """"whsec_…": signs webhook deliveries (Standard Webhooks)."""
    pools: dict[Name, PoolSettings] = Field(
        default_factory=lambda: {"embed": PoolSettings(engine="minilm")}, min_length=1
    )
    watch: tuple[WatchSettings, ...] = ()
    gateway: GatewaySettings | None = None
    lane_folder: Path | None = None
    """Where this host's lane signals lie, a folder on a RAM disk that gateway and workers share; found by itself."""
    lane_fanout: bool | None = None
    """Whether lane signals cross hosts through the broker; by default not on the embedded one."""
    trace_folder: Path | None = None
    """Where workers write down each micro-batch and hold, one JSON line each, for looking at later."""

    cache: str | None = None
    """The folder of the cache of what is read by a profile; by default in the user's cache folder."""
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Access profiles of your own: a named one with some other values (holdshort.profiles.Access)."""

    scan: dict[str, Any] = Field(default_factory=dict[str, Any])
    """How far one scan of a data set goes (holdshort.storage.settings.ScanLimits)."""

    @field_validator("scan")
    @classmethod
    def _are_limits(cls, table: dict[str, Any]) -> dict[str, Any]:
        ScanLimits.of(table)
        return table

    @field_validator("profiles")
    @classmethod
    def _are_profiles(cls, table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        profiles_of(table, origin="holdshort.toml")
        return table

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = config_file()
        files = (_File(settings_cls, path),) if path else ()
        return (init_settings, env_settings, *files)

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Settings from all sources; those given here win. None means: not given. Raises SettingsError."""
        given = {key: value for key, value in given.items() if value is not None}
        _check_environment()
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{config_file()}: {error}") from error

    def pool(self, name: str) -> PoolSettings:
        """A pool's settings. Raises UnknownPool naming the nearest right one."""
        try:
            return self.pools[name]
        except KeyError:
            raise UnknownPool(
                f"No pool is called {name!r}{_nearest(name, self.pools)} "
                f"Configured: {', '.join(self.pools)} (in {config_file() or 'the built-in defaults'})."
            ) from None


def _embedded_broker(store: str) -> str:
    scheme, separator, rest = store.partition("://")
    if not separator or scheme in ("file", "local"):
        folder = Path(rest if separator else store).expanduser().absolute() / ".holdshort"
    else:
        folder = data_folder() / "brokers" / hashlib.sha256(store.encode()).hexdigest()[:16]
    with suppress(OSError):  # whoever opens the store or the broker says what is wrong there
        folder.mkdir(parents=True, exist_ok=True)
    return embedded.url(folder / "broker.db")


class _File(TomlConfigSettingsSource):
    """The configuration file; relative folders in it are taken from where it lies, whoever reads it."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        folder = Path(cast("Path", self.toml_file_path)).absolute().parent
        store = found.get("store")
        if isinstance(store, str) and "://" not in store:
            found["store"] = str(folder / Path(store).expanduser())
        for watch in cast("list[Any]", found.get("watch") or []):
            if isinstance(watch, dict) and isinstance(path := cast("dict[str, Any]", watch).get("folder"), str):
                watch["folder"] = str(folder / Path(path).expanduser())
        return found


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _check_environment() -> None:
    """Refuse a variable that is nearly one of ours; one that is far from all may be somebody else's."""
    others = ("config", "traceback", "models", "api_key")
    known = [f"HOLDSHORT_{field.upper()}" for field in (*Settings.model_fields, *others)]
    for name in os.environ:
        if (
            name.startswith("HOLDSHORT_")
            and name not in known
            and (close := difflib.get_close_matches(name, known, n=1, cutoff=0.85))
        ):
            raise SettingsError(f"The environment variable {name} is none of ours; did you mean {close[0]}?")


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        where = [str(part) for part in problem["loc"]]
        key = ".".join(where)
        if problem["type"] == "extra_forbidden":
            known = _fields_at(where[:-1])
            lines.append(f"{key}: no such setting{_nearest(where[-1], known)} Known: {', '.join(known)}.")
        else:
            lines.append(f"{key}: {problem['msg']}.")
    origin = f"{config_file()} (or the environment)" if config_file() else "the environment or arguments"
    return f"The configuration from {origin} can't be used.\n" + "\n".join(lines)


def _fields_at(where: list[str]) -> list[str]:
    if where and where[0] == "pools":
        return list(PoolSettings.model_fields)
    if where and where[0] == "watch":
        return list(WatchSettings.model_fields)
    if where and where[0] == "gateway":
        return list(GatewaySettings.model_fields)
    return list(Settings.model_fields)
