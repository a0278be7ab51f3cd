"""Text embeddings by all-MiniLM-L6-v2 on the CPU; weights and runtime come with the extra `minilm`."""

from .engine import MiniLM

__all__ = ["MiniLM"]
