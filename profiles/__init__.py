"""Access profiles: which values they carry, which one fits, and how big caches may be. Imports nothing of ours."""

from .access import Access
from .builtin import BUILT_IN, CHECKPOINT, PLAIN, SERVING, TRAINING
from .profile import Profile, Value, extension
from .resolve import Applied, Plan, resolve
from .rules import Choice, choose

__all__ = [
    "BUILT_IN", "CHECKPOINT", "PLAIN", "SERVING", "TRAINING",
    "Access", "Applied", "Choice", "Plan", "Profile", "Value",
    "choose", "extension", "resolve",
]  # fmt: skip
