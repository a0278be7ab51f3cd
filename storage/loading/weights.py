"""Load weights from a store: `load_safetensors` all at once, `open_safetensors` tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import orjson

from ..errors import Corrupt, ObjectChanged
from ..filesystem import ProfiledFileSystem, profiled
from .arrays import Framework, array, check_framework
from .header import MOST_BYTES, PREFIX_BYTES, Entry, length_of, parsed
from .memory import Bytes

_INDEX = ".index.json"
_FIRST_BYTES = 256 * 1024
"""Holds most headers, and came with the answer to "what is this object?"."""
_OPENED_AT_ONCE = 16
"""Files whose headers are asked for at once; the store takes its 40 ms for each."""


class Weights:
    """An open safetensors file. Arrays that it gave stay when it is closed.

    Attributes:
        metadata: the text that its writer has added.
    """

    def __init__(
        self, fs: ProfiledFileSystem, path: str, *, framework: str, device: str, is_whole: bool = False
    ) -> None:
        self._fs, self._path = fs, path
        self._framework, self._device = framework, device
        self._memory = fs.memory(path, is_whole=is_whole)
        self.path = self._memory.path
        size = self._memory.size
        self._bring([(0, min(size, _FIRST_BYTES))])
        length = length_of(self._memory.memory[: min(size, PREFIX_BYTES)], size, self.path)
        end = PREFIX_BYTES + length
        self._bring([(0, end)])
        header = parsed(self._memory.memory[PREFIX_BYTES:end], size, self.path)
        self._tensors = header.tensors
        self.metadata = header.metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; its memory goes with the last array."""
        del self._memory

    def keys(self) -> list[str]:
        """The tensors' names, in the file's order."""
        return list(self._tensors)

    def entry(self, name: str) -> Entry:
        """A tensor's type, shape and place. Raises KeyError if there is none of that name."""
        if name not in self._tensors:
            raise KeyError(f"{self.path} has no tensor {name!r}")
        return self._tensors[name]

    def get(self, name: str) -> Any:
        """A tensor; fetched now, unless it is at hand."""
        return self.load([name])[name]

    def load(self, names: Iterable[str] | None = None, progress: Bytes | None = None) -> dict[str, Any]:
        """Tensors by name, all of them by default, fetched by few large requests at once.

        Args:
            progress: told how many bytes are at hand, and how many there will be; what it raises ends the loading.

        Raises:
            KeyError: no tensor of that name.
            ObjectChanged, StoreUnavailable: it could not be read.
        """
        wanted = [self.entry(name) for name in (self._tensors if names is None else dict.fromkeys(names))]
        self._bring([(entry.start, entry.end) for entry in wanted], progress)
        memory = self._memory.memory
        return {each.name: array(each, memory, self._framework, self._device, self.path) for each in wanted}

    def size_of(self, names: Iterable[str]) -> int:
        """How many bytes tensors have."""
        return sum(entry.end - entry.start for entry in map(self.entry, names))

    def _bring(self, ranges: list[tuple[int, int]], progress: Bytes | None = None) -> None:
        try:
            self._memory.bring(ranges, progress)
        except ObjectChanged:
            self._fs.reader.forget_object(self._path, self._fs.explain(self._path)[1].access)
            raise


def open_safetensors(url: str, *, framework: Framework = "numpy", device: str = "cpu", **options: Any) -> Weights:
    """Open a safetensors file, of which only the header is read; see `load_safetensors`.

        with open_safetensors("s3://models/llama/model.safetensors") as weights:
            bias = weights.get("lm_head.bias")

    Raises:
        Corrupt: it is not a whole safetensors file; says at which byte it is wrong.
    """
    check_framework(framework, device)
    fs, path = profiled(url, "serving", options)
    return Weights(fs, path, framework=framework, device=device)


def load_safetensors(
    url: str,
    *,
    framework: Framework = "numpy",
    device: str = "cpu",
    names: Iterable[str] | None = None,
    progress: Bytes | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The tensors of a safetensors file, or of all files that a `model.safetensors.index.json` names, by name.

    Their memory is that of the cache on this machine's disk, which all processes share: replicas on a host fetch each
    byte once. Each block was fetched by this very call, or checked against its CRC32C, before it is handed out. Arrays
    can be written to, which nobody else sees. What the cache has no room for lies in this process's own memory, which
    is logged.

    Args:
        url: e.g. "s3://models/llama/model.safetensors"; with another profile than `serving` in front, that counts.
        device: for torch, such as "cuda:0"; tensors are copied there.
        names: only these.
        progress: told how many bytes are at hand, and how many there will be; what it raises ends the loading.
        options: of the store or the profile, as fsspec takes them: s3={"endpoint_url": …}, serving={"cache": "none"}.

    Raises:
        Corrupt: a file is not a whole safetensors file, or not what the index says.
        SettingsError: the framework has no such type or device.
        KeyError: no tensor of that name.
        FileNotFoundError, ObjectChanged, StoreUnavailable: it could not be read.
    """
    check_framework(framework, device)
    fs, path = profiled(url, "serving", options)
    wanted = None if names is None else list(dict.fromkeys(names))

    def load() -> dict[str, Any]:
        if path.endswith(_INDEX):
            return _load_shards(fs, path, framework, device, wanted, progress)
        weights = Weights(fs, path, framework=framework, device=device, is_whole=wanted is None)
        return weights.load(wanted, progress)

    try:
        return load()
    except ObjectChanged:
        # Nothing was handed out yet, so one that has changed since it was known can simply be read anew.
        return load()


def _load_shards(
    fs: ProfiledFileSystem, path: str, framework: str, device: str, names: list[str] | None, progress: Bytes | None
) -> dict[str, Any]:
    shards = _weight_map(fs, path)
    for name in names or ():
        if name not in shards:
            raise KeyError(f"{path} has no tensor {name!r}")
    wanted = list(shards) if names is None else names
    by_file: dict[str, list[str]] = {}
    for name in wanted:
        by_file.setdefault(shards[name], []).append(name)
    folder = path.rpartition("/")[0]
    with ExitStack() as opened:
        files: list[tuple[Weights, list[str]]] = []
        each = partial(Weights, fs, framework=framework, device=device, is_whole=names is None)
        with ThreadPoolExecutor(_OPENED_AT_ONCE, thread_name_prefix="holdshort-open") as pool:
            all_weights = list(pool.map(each, [f"{folder}/{file}" for file in by_file]))
        for weights, (file, inside) in zip(all_weights, by_file.items(), strict=True):
            opened.enter_context(weights)
            for name in inside:
                if name not in weights.keys():  # noqa: SIM118 - it is no mapping
                    raise Corrupt(f"{path} says that {name!r} is in {file}, which has no such tensor.")
            files.append((weights, inside))
        all_bytes = sum(weights.size_of(inside) for weights, inside in files)
        found: dict[str, Any] = {}
        before = 0
        for weights, inside in files:
            found |= weights.load(inside, _from(progress, before, all_bytes))
            before += weights.size_of(inside)
    return {name: found[name] for name in wanted}


def _from(progress: Bytes | None, before: int, all_bytes: int) -> Bytes | None:
    if progress is None:
        return None
    return lambda at_hand, _: progress(min(before + at_hand, all_bytes), all_bytes)


def _weight_map(fs: ProfiledFileSystem, path: str) -> dict[str, str]:
    text = fs.cat_file(path, 0, MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise Corrupt(f"{path} has more than {MOST_BYTES} bytes, which no index has.")
    try:
        found = orjson.loads(text)["weight_map"]
        if not isinstance(found, dict):
            raise TypeError("weight_map")
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f'{path} is no index of weights: it has to be JSON with a "weight_map" of files by name.'
        ) from error
    for name, file in cast("dict[str, Any]", found).items():
        if not isinstance(file, str) or not file or "/" in file or "\\" in file or file in (".", ".."):
            raise Corrupt(f"{path} says that {name!r} is in {str(file)!r}, which is no file beside it.")
    return cast("dict[str, str]", found)
