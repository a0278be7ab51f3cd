"""Which profile fits, as far as a job's kind and an object's path tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from .profile import Profile, Value

_BY_JOB = {"checkpoint": ("checkpoint", "a CheckpointJob moves checkpoints")}
# The first that fits counts. Checkpoints come first: what lies in a step's folder is one, whatever its name.
_BY_PATH = (
    ("step-*/", "checkpoint", "lies in the folder of a training step"),
    ("step_*/", "checkpoint", "lies in the folder of a training step"),
    ("checkpoint-*/", "checkpoint", "lies in the folder of a training step"),
    ("*.distcp", "checkpoint", "is a file of a torch distributed checkpoint"),
    (".metadata", "checkpoint", "is the plan of a torch distributed checkpoint"),
    ("*.ckpt", "checkpoint", "is a checkpoint by its name"),
    ("*.safetensors", "serving", "holds weights by its name"),
    ("*.gguf", "serving", "holds weights by its name"),
    ("model*.bin", "serving", "holds weights by its name"),
    ("pytorch_model*.bin", "serving", "holds weights by its name"),
    ("*.tar", "training", "is a shard of a data set by its name"),
    ("*.parquet", "training", "is a shard of a data set by its name"),
    ("*.tfrecord", "training", "is a shard of a data set by its name"),
    ("*.tfrecord-*-of-*", "training", "is a shard of a data set by its name"),
    ("*.arrow", "training", "is a shard of a data set by its name"),
    ("*.mds", "training", "is a shard of a data set by its name"),
)
FALLBACK = "plain"


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile, and why it was taken.

    Attributes:
        source: what decided: "name", "job", "path", "pattern", or "nothing" when there was nothing to go by.
        why: a sentence for people.
        values: of the profile that are to be others.
    """

    profile: Profile
    source: str
    why: str
    values: tuple[Value, ...] = ()


def choose(path: str, known: Mapping[str, Profile], *, name: str = "", job: str = "") -> Choice:
    """The profile for an object, before anything was seen of how it is used.

    Args:
        path: the object's path, or a folder's with "/" at its end.
        known: all profiles by name.
        name: the one that was asked for; "" or "auto": none was.
        job: the kind of the job that asks.

    Raises:
        KeyError: no profile is called `name`.
    """
    if name and name != "auto":
        return Choice(known[name], "name", f"it was asked for as {name!r}")
    if job in _BY_JOB:
        fits, why = _BY_JOB[job]
        return Choice(known[fits], "job", why)
    if rule := _rule(path):
        pattern, fits, why = rule
        return Choice(known[fits], "path", f"{path.rstrip('/').rpartition('/')[2]} {why} ({pattern})")
    return Choice(known[FALLBACK], "nothing", "neither a name nor the path tells how it is used")


@lru_cache(maxsize=1024)  # it is asked again each time that a reader of the object is looked at
def _rule(path: str) -> tuple[str, str, str] | None:
    return next((rule for rule in _BY_PATH if _matches(path, rule[0])), None)


def _matches(path: str, pattern: str) -> bool:
    *folders, last = path.split("/")
    if pattern.endswith("/"):
        return any(fnmatchcase(folder, pattern[:-1]) for folder in folders)
    return fnmatchcase(last, pattern)
