"""Tensors of NumPy and torch as bytes in memory, and back. Neither is needed unless it is used."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from typing import Any, Literal, cast, get_args

from ..errors import MissingExtra, NotAllowedNow

Kind = Literal["torch", "numpy", "numpy scalar", "bytes"]

_TYPES = {
    "bool": ("BOOL", 1), "uint8": ("U8", 1), "int8": ("I8", 1), "uint16": ("U16", 2), "int16": ("I16", 2),
    "float16": ("F16", 2), "bfloat16": ("BF16", 2), "uint32": ("U32", 4), "int32": ("I32", 4), "float32": ("F32", 4),
    "uint64": ("U64", 8), "int64": ("I64", 8), "float64": ("F64", 8), "complex64": ("C64", 8),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1), "float8_e8m0fnu": ("F8_E8M0", 1),
    "complex128": ("", 16),
}  # fmt: skip
"""By the name in NumPy (with ml_dtypes) and torch: that of safetensors ("" if it has none), and bytes of an element."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a state.

    Attributes:
        held: the array, tensor or bytes itself.
        dtype: as NumPy and torch name it.
    """

    kind: Kind
    held: Any = field(repr=False)
    dtype: str
    shape: tuple[int, ...]

    @property
    def element_bytes(self) -> int:
        return _TYPES[self.dtype][1]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.element_bytes

    @property
    def entry(self) -> tuple[str, tuple[int, ...]]:
        """Type and shape in a safetensors file. What it has no type for is plain bytes there."""
        named = _TYPES[self.dtype][0]
        return (named, self.shape) if named else ("U8", (self.size_bytes,))


def tensor_of(value: Any, where: str) -> Tensor | None:
    """A value as a tensor; None if it is none.

    Raises:
        NotAllowedNow: it is one that can't be saved; says where it is, and what to do.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        held = bytes(cast("memoryview", value)) if isinstance(value, memoryview) else value
        return Tensor("bytes", held, "uint8", (len(held),))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_tensor(torch, value, where)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        kind: Kind = "numpy" if isinstance(value, numpy.ndarray) else "numpy scalar"
        array = numpy.asarray(value)
        name = array.dtype.name
        if name not in _TYPES:
            raise NotAllowedNow(
                f"{where} is a NumPy array of type {array.dtype}, which can't be saved. "
                f"Make it one of {', '.join(_TYPES)}."
            )
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return Tensor(kind, array, name, tuple(int(size) for size in array.shape))
    return None


def address_of(tensor: Tensor) -> tuple[int, Any] | None:
    """Where its bytes lie in this process, in order and without gaps, and what keeps them; None if they don't."""
    if tensor.kind == "torch":
        held = tensor.held
        if held.device.type != "cpu" or not held.is_contiguous() or held.is_conj() or held.is_neg():
            return None
        return int(held.data_ptr()), held
    if tensor.kind == "bytes":
        # Bytes can't be written to, so ctypes looks at them through a pointer.
        held = tensor.held
        if isinstance(held, bytearray):
            return ctypes.addressof(ctypes.c_char.from_buffer(held)) if held else 0, held
        pointer = ctypes.c_char_p(held)
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0, held
    held = tensor.held
    return (int(held.ctypes.data), held) if held.flags.c_contiguous else None


def copy_into(tensor: Tensor, memory: memoryview) -> None:
    """Copy a tensor whose bytes lie elsewhere or otherwise: from a device, or with strides."""
    if tensor.kind == "torch":
        torch = _module("torch", "torch")
        target = torch.frombuffer(memory, dtype=tensor.held.dtype).view(tensor.shape)
        target.copy_(tensor.held)
        return
    numpy = _module("numpy", "minilm")
    numpy.copyto(numpy.frombuffer(memory, tensor.held.dtype).reshape(tensor.shape), tensor.held)


def view_of(tensor: Tensor) -> memoryview:
    """Its bytes; copied where they lie elsewhere or otherwise."""
    if not tensor.size_bytes:
        return memoryview(b"")
    found = address_of(tensor)
    if found is None:
        memory = memoryview(bytearray(tensor.size_bytes))
        copy_into(tensor, memory)
        return memory
    if tensor.kind == "bytes":
        return memoryview(tensor.held)
    address, held = found
    lent = (ctypes.c_char * tensor.size_bytes).from_address(address)
    lent._held = held  # pyright: ignore[reportAttributeAccessIssue] - the memory lives as long as the view
    return memoryview(lent)


def tensor_from(
    memory: memoryview, kind: str, dtype: str, shape: Sequence[int], framework: Literal["torch", "numpy"] | None
) -> Any:
    """A tensor over memory that may be written to.

    Args:
        framework: what to make of tensors and arrays; None: what was saved.

    Raises:
        MissingExtra: what it takes is not installed.
        ValueError: type, shape and size do not go together.
    """
    if kind not in get_args(Kind) or dtype not in _TYPES or prod(shape) * _TYPES[dtype][1] != memory.nbytes:
        raise ValueError(f"{memory.nbytes} bytes are no {kind} of type {dtype} with shape {list(shape)}")
    if kind == "bytes":
        return bytes(memory)
    wanted = framework or ("torch" if kind == "torch" else "numpy")
    if kind == "numpy scalar" and framework is None:
        return _numpy_array(memory, dtype, ())[()]
    if wanted == "torch":
        torch = _module("torch", "torch")
        if not memory.nbytes:
            return torch.empty(tuple(shape), dtype=getattr(torch, dtype))
        return torch.frombuffer(memory, dtype=torch.uint8).view(getattr(torch, dtype)).view(tuple(shape))
    return _numpy_array(memory, dtype, shape)


def _numpy_array(memory: memoryview, dtype: str, shape: Sequence[int]) -> Any:
    numpy = _module("numpy", "minilm")
    try:
        of_type = numpy.dtype(dtype)
    except TypeError:
        of_type = numpy.dtype(getattr(_module("ml_dtypes", "torch"), dtype))
    return numpy.frombuffer(memory, of_type).reshape(tuple(shape))


def _torch_tensor(torch: Any, value: Any, where: str) -> Tensor:
    tensor = value.detach()
    name = str(tensor.dtype).removeprefix("torch.")
    reason = ""
    if tensor.is_meta:
        reason = "has no content (it is on the device meta)"
    elif tensor.layout != torch.strided:
        reason = f"is stored as {tensor.layout}; make it dense"
    elif type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        reason = f"is a {type(tensor).__name__}; save its local part, or use torch.distributed.checkpoint"
    elif name not in _TYPES:
        reason = f"is of type {name}; make it one of {', '.join(_TYPES)}"
    if reason:
        raise NotAllowedNow(f"{where} can't be saved: it {reason}.")
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return Tensor("torch", tensor, name, tuple(tensor.shape))


def _module(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("a tensor in a checkpoint", extra=extra, module=name) from error
