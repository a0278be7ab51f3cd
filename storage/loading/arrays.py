"""Tensors of a safetensors file as arrays over memory: of NumPy, or of torch."""

from __future__ import annotations

import mmap
from importlib import import_module
from typing import Any, Literal

from ..errors import MissingExtra, SettingsError
from .header import BITS, Entry

Framework = Literal["numpy", "torch"]

_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16", "U32": "uint32",
    "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Types that NumPy lacks and the package ml_dtypes adds."""
_TORCH = {
    **_NUMPY, **_ML_DTYPES, "F4": "float4_e2m1fn_x2",
}  # fmt: skip


def check_framework(framework: str, device: str) -> None:
    """Raise SettingsError if there is no such framework or it has no such device, MissingExtra if it isn't there."""
    if framework not in ("numpy", "torch"):
        raise SettingsError(f'framework is {framework!r}; it has to be "numpy" or "torch"')
    if framework == "numpy" and device != "cpu":
        raise SettingsError(f'device is {device!r}, and NumPy knows "cpu" only; ask for framework="torch"')
    _module(framework)


def array(entry: Entry, memory: mmap.mmap, framework: str, device: str, path: str) -> Any:
    """A tensor over the memory of its file; a copy where its bytes do not lie as its type needs them, or on a device.

    Raises:
        SettingsError: the framework has no such type.
    """
    element_bytes = max(1, BITS[entry.dtype] // 8)
    is_aligned = entry.start % element_bytes == 0
    if framework == "torch":
        return _torch(entry, memory, is_aligned=is_aligned, device=device, path=path)
    numpy = _module("numpy")
    dtype = _numpy_type(entry, path)
    if entry.start == entry.end:
        return numpy.empty(entry.shape, dtype)
    if is_aligned:
        return numpy.ndarray(entry.shape, dtype, buffer=memory, offset=entry.start)
    return numpy.frombuffer(bytearray(memory[entry.start : entry.end]), dtype).reshape(entry.shape)


def _torch(entry: Entry, memory: mmap.mmap, *, is_aligned: bool, device: str, path: str) -> Any:
    torch = _module("torch")
    dtype = getattr(torch, _TORCH.get(entry.dtype, ""), None)
    if dtype is None:
        raise _no_type(entry, path, f"torch {torch.__version__}", "Upgrade torch, or read another file.")
    shape = entry.shape
    if entry.dtype == "F4":  # two of them in one element
        shape = (*shape[:-1], shape[-1] // 2)
    if entry.start == entry.end:
        found = torch.empty(shape, dtype=dtype)
    elif is_aligned:
        length = entry.end - entry.start
        found = torch.frombuffer(memory, dtype=torch.uint8, count=length, offset=entry.start).view(dtype).view(shape)
    else:
        found = torch.frombuffer(bytearray(memory[entry.start : entry.end]), dtype=torch.uint8).view(dtype).view(shape)
    return found if device == "cpu" else found.to(device)


def _numpy_type(entry: Entry, path: str) -> Any:
    numpy = _module("numpy")
    if entry.dtype in _NUMPY:
        return numpy.dtype(_NUMPY[entry.dtype])
    if entry.dtype not in _ML_DTYPES:
        raise _no_type(entry, path, "NumPy", 'Ask for framework="torch".')
    try:
        more = import_module("ml_dtypes")
    except ImportError as error:
        cure = 'Ask for framework="torch", or: pip install ml_dtypes'
        raise _no_type(entry, path, "NumPy without the package ml_dtypes", cure) from error
    return numpy.dtype(getattr(more, _ML_DTYPES[entry.dtype]))


def _no_type(entry: Entry, path: str, who: str, cure: str) -> SettingsError:
    return SettingsError(f"{path}: tensor {entry.name!r} is of type {entry.dtype}, which {who} does not have. {cure}")


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        extra = {"numpy": "minilm"}.get(name, name)
        raise MissingExtra(f"loading weights as arrays of {name}", extra=extra, module=name) from error
