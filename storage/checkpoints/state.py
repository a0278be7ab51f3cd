"""A state as files: its tensors in the safetensors format, all else in a small JSON file. Nothing is pickled.

    state-00000.safetensors …    the tensors, each once, however often the state names them
    state.json                   the tree of dicts, lists, tuples and values, with tensors by their names

Several ranks have a folder each: rank-00003/state.json. The JSON is a tree of nodes, each with one key that says what
it is: {"dict": [[key, node], …]}, {"list": […]}, {"tuple": […]}, {"value": …}, {"float": "nan"}, or
{"tensor": name, "of": "torch", "dtype": "float32", "shape": […], "file": …}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, cast

from ..errors import Corrupt, NotAllowedNow
from .tensors import Tensor, tensor_of

FORMAT = "holdshort-state"
VERSION = 1
FILE_BYTES = 4 * 2**30
"""From which size on the next tensor goes into a file of its own; a store writes few large files faster than one."""
_MOST_DEPTH = 200
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class StateFile:
    """A file of a state: a head, then tensors one after the other.

    Attributes:
        path: relative to the checkpoint.
    """

    path: str
    head: bytes
    tensors: tuple[Tensor, ...] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.head) + sum(tensor.size_bytes for tensor in self.tensors)


def folder_of_rank(rank: int, ranks: int) -> str:
    """Where the files of a rank are in a checkpoint: "" or a folder with "/"."""
    return "" if ranks == 1 else f"rank-{rank:05d}/"


def files_of(state: Mapping[Any, Any], *, folder: str = "", file_bytes: int = FILE_BYTES) -> list[StateFile]:
    """The files that a state becomes.

    Raises:
        NotAllowedNow: something in it can't be saved; says where it is.
    """
    tree = _Tree()
    root = tree.node(state, "state")
    safetensors = _distributed(tree.tensors, file_bytes)
    names = {name: f"state-{number:05d}.safetensors" for number, group in enumerate(safetensors) for name in group}
    for name, node in tree.named:
        node["file"] = names[name]
    about = {"format": FORMAT, "version": VERSION, "tree": root}
    files = [
        StateFile(f"{folder}state-{number:05d}.safetensors", _head(group), tuple(group.values()))
        for number, group in enumerate(safetensors)
    ]
    return [*files, StateFile(f"{folder}state.json", json.dumps(about, allow_nan=False).encode())]


@dataclass(frozen=True, slots=True)
class Reference:
    """A tensor as the JSON names it."""

    name: str
    file: str
    kind: str
    dtype: str
    shape: tuple[int, ...]


def state_from(about: bytes, tensor: Callable[[Reference], Any]) -> Any:
    """A state from its JSON.

    Args:
        tensor: makes a tensor; asked once for each name.

    Raises:
        Corrupt: the JSON is none that we wrote, or a newer version's.
    """
    try:
        found: dict[str, Any] = json.loads(about)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        is_newer = int(found["version"]) > VERSION
        if not is_newer:
            return _built(found["tree"], tensor, {})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"state.json can't be read: {error!r}") from error
    raise Corrupt("state.json was written by a newer version; upgrade Holdshort")


def begins_of(head: bytes, path: str) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes begin and end in a safetensors file with this beginning. Raises Corrupt."""
    try:
        length = int.from_bytes(head[:8], "little")
        entries: dict[str, Any] = json.loads(head[8 : 8 + length])
        entries.pop("__metadata__", None)
        return {
            name: (8 + length + int(entry["data_offsets"][0]), 8 + length + int(entry["data_offsets"][1]))
            for name, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Corrupt(f"{path} is no safetensors file: {error!r}") from error


# -- inside ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tree:
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    named: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    _by_identity: dict[int, str] = field(default_factory=dict[int, str])

    def node(self, value: Any, where: str, depth: int = 0) -> dict[str, Any]:
        if depth > _MOST_DEPTH:
            raise NotAllowedNow(f"{where[:200]}… lies deeper than {_MOST_DEPTH} levels; does the state hold itself?")
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return {"value": value}
        if type(value) is float:
            return {"value": value} if isfinite(value) else {"float": repr(value)}
        if isinstance(value, Mapping):
            mapping = cast("Mapping[Any, Any]", value)
            return {"dict": [[self._key(key, where), self.node(mapping[key], f"{where}[{key!r}]", depth + 1)]
                             for key in mapping]}  # fmt: skip
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            each = enumerate(cast("Sequence[Any]", value))
            return {kind: [self.node(one, f"{where}[{place}]", depth + 1) for place, one in each]}
        tensor = tensor_of(value, where)
        if tensor is None:
            raise NotAllowedNow(
                f"{where} is a {type(value).__name__}, which can't be saved without pickling, and nothing is pickled. "
                f"A state may hold tensors, arrays, bytes, text, numbers, None, and dicts, lists and tuples of such."
            )
        return self._reference(value, tensor, where)

    def _reference(self, value: Any, tensor: Tensor, where: str) -> dict[str, Any]:
        name = self._by_identity.get(id(value))
        if name is None:  # weights that are tied are stored once
            name = self._by_identity[id(value)] = self._free_name(where.removeprefix("state"))
            self.tensors[name] = tensor
        node = {"tensor": name, "of": tensor.kind, "dtype": tensor.dtype, "shape": list(tensor.shape)}
        self.named.append((name, node))
        return node

    def _free_name(self, where: str) -> str:
        """As the state names it, with dots: state["model"]["w"] is model.w."""
        name = where.strip("[]").replace("']['", ".").replace("][", ".").replace("'", "") or "tensor"
        if name == "__metadata__" or name in self.tensors:
            name = f"{name}#{len(self.tensors)}"
        return name

    @staticmethod
    def _key(key: Any, where: str) -> str | int:
        if type(key) is not int and type(key) is not str:
            raise NotAllowedNow(
                f"{where} has the key {key!r}, a {type(key).__name__}. Keys have to be texts or integers."
            )
        return key


def _distributed(tensors: Mapping[str, Tensor], file_bytes: int) -> list[dict[str, Tensor]]:
    """Into files, those of large elements first, so that each lies where its type needs it."""
    files: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        if not files or tensor.size_bytes > room:
            files.append({})
            room = file_bytes
        files[-1][name] = tensor
        room -= tensor.size_bytes
    return [dict(sorted(group.items(), key=lambda each: -each[1].element_bytes)) for group in files]


def _head(tensors: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, Any] = {}
    at = 0
    for name, tensor in tensors.items():
        dtype, shape = tensor.entry
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + tensor.size_bytes]}
        at += tensor.size_bytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _built(node: Mapping[str, Any], tensor: Callable[[Reference], Any], made: dict[str, Any]) -> Any:
    if "value" in node:
        return node["value"]
    if "float" in node:
        return float(node["float"])
    if "dict" in node:
        return {key: _built(one, tensor, made) for key, one in cast("list[tuple[Any, Any]]", node["dict"])}
    if "list" in node:
        return [_built(one, tensor, made) for one in node["list"]]
    if "tuple" in node:
        return tuple(_built(one, tensor, made) for one in node["tuple"])
    name = str(node["tensor"])
    if name not in made:
        made[name] = tensor(Reference(name, node["file"], node["of"], node["dtype"], tuple(node["shape"])))
    return made[name]
