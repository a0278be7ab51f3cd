"""The network itself: windows of tokens in, vectors of unit length out.

One window runs at a time. The vector of a window then depends on that window alone by construction, whatever it is
batched with; padding or batching could change a sum's order, and with it the last bits, on some processor.
"""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ....storage.errors import Interrupted

Vector = NDArray[np.float32]

RUNTIME = f"onnxruntime-{onnxruntime.__version__}"

# The package has no types.
_ort: Any = onnxruntime
_ONLY_FATAL = 4


class Session:
    """The loaded network; takes about 180 MB.

    Args:
        weights: content of the ONNX file.
        threads: threads that one window is computed by.
    """

    def __init__(self, weights: bytes, threads: int) -> None:
        options = _ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Both keep the memory of the largest window ever seen, for speed that was not measurable.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Threads that spin while they wait for work take the processor from the live lane.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _ONLY_FATAL
        self._session: Any = _ort.InferenceSession(weights, options, providers=["CPUExecutionProvider"])

    def run(self, ids: Sequence[int], stop: Stop) -> Vector:
        """The vector of one window: the mean over its tokens, normalised.

        Raises:
            Interrupted: `stop` was set before the end.
        """
        tokens = np.array([ids], np.int64)
        feeds = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }
        try:
            hidden = self._session.run(None, feeds, stop.options)[0][0]
        except Exception:
            if not stop.is_set:
                raise
        else:
            return _unit_length(hidden.mean(axis=0, dtype=np.float64))
        # Raised out here, so that it does not carry the runtime's own error, whose frames keep the network alive.
        raise Interrupted("the embedding was interrupted")

    def close(self) -> None:
        """Release the memory, even if somebody still holds this object."""
        self._session = None
        _return_freed_memory()


class Stop:
    """Ends the runs that it was given to, within milliseconds, from another thread; never another run."""

    def __init__(self) -> None:
        self.options = _ort.RunOptions()
        self.options.log_severity_level = _ONLY_FATAL

    @property
    def is_set(self) -> bool:
        return self.options.terminate

    def set(self) -> None:
        self.options.terminate = True


def combine(windows: Iterable[tuple[int, Vector]]) -> Vector:
    """One vector for a text of several windows: the mean weighted by their numbers of tokens, normalised.

    The method of OpenAI's cookbook, "Embedding texts that are longer than the model's maximum context length".
    """
    return _unit_length(np.sum([tokens * vector.astype(np.float64) for tokens, vector in windows], axis=0))


def as_base64(vector: Vector) -> str:
    """The bytes of little-endian float32, as OpenAI encodes them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _unit_length(vector: NDArray[np.float64]) -> Vector:
    return (vector / np.sqrt(np.sum(vector * vector))).astype(np.float32)


def _return_freed_memory() -> None:
    """Make the allocator return what was freed to the system; glibc keeps most of it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
