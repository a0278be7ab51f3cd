"""Access profiles: what they are and which values they carry. Imports nothing of ours."""

from .profile import CHECKPOINT, Profile

__all__ = ["CHECKPOINT", "Profile"]
