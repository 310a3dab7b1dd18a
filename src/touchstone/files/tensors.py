"""Tensors on disk as safetensors, with headers checked against our own limits before the library sees a file.

Layout: https://github.com/huggingface/safetensors#format. torch is imported only where tensors are made or written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from touchstone.errors import ModelFolderError
from touchstone.files.atomic import open_regular, parse_json, write_chunks

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_HEADER_BYTES", "MAX_TENSORS", "TensorEntry", "load_tensors", "save_tensors", "tensor_header", "tensor_metadata"]

MAX_HEADER_BYTES = 16 << 20
"""Largest header read; the library allows 100 MB, which a hostile file fills."""

MAX_TENSORS = 100_000
"""Most tensors in one file; the largest published shards hold a few thousand."""

_MAX_DIMENSIONS = 16
_ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8, "BOOL": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1},
}


class TensorEntry(NamedTuple):
    """What a safetensors header says of one tensor; `dtype` is the file's own word, such as "F32"."""

    dtype: str
    shape: tuple[int, ...]


def save_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically; the same tensors give the same bytes.

    Tensors that share memory are written once each; tensors are read one at a time, so a save needs no second copy of a model.
    """
    names = {_torch_dtype(word): word for word in _ITEM_BYTES}
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # widest first keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in names:
            raise ModelFolderError(f"{path}: tensor `{name}` is {tensor.dtype}; safetensors files hold {', '.join(_ITEM_BYTES)}.")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    write_chunks(Path(path), _tensor_chunks(len(text).to_bytes(8, "little") + text, (tensors[name] for name in order)))


def load_tensors(path: Path | str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, after every check of `tensor_header`."""
    from safetensors import SafetensorError, safe_open

    tensor_header(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, it has only keys()
    except SafetensorError as error:
        raise ModelFolderError(f"{path}: not readable as safetensors: {error}.") from None


def tensor_header(path: Path | str) -> dict[str, TensorEntry]:
    """Names, types and shapes in a safetensors file, in the order of their bytes; nothing is allocated for the tensors.

    Raises ModelFolderError on anything but a well-formed file within MAX_HEADER_BYTES and MAX_TENSORS: offsets must cover the
    data exactly, without holes or overlaps, and every size must follow from its shape.
    """
    header, data_bytes = _read_header(Path(path))
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelFolderError(f"{path}: holds {len(header)} tensors; at most {MAX_TENSORS} are read.")
    spans = sorted((*_span(name, entry, path), name) for name, entry in header.items())
    place = 0
    for begin, end, name in spans:
        if begin != place:
            raise ModelFolderError(f"{path}: tensor `{name}` begins at byte {begin} of the data, the one before ends at {place}.")
        place = end
    if place != data_bytes:
        raise ModelFolderError(f"{path}: the header describes {place} bytes of data, the file has {data_bytes}.")
    return {name: TensorEntry(header[name]["dtype"], tuple(header[name]["shape"])) for _, _, name in spans}


def tensor_metadata(path: Path | str) -> dict[str, str]:
    """The texts under `__metadata__` of a safetensors file; empty if it has none."""
    found = _read_header(Path(path))[0].get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ModelFolderError(f"{path}: `__metadata__` must map names to texts.")
    return found


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and the number of bytes behind it."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        n_bytes = int.from_bytes(head, "little")
        if len(head) < 8 or n_bytes > size - 8:
            raise ModelFolderError(f"{path}: not a whole safetensors file: {size} bytes hold no header of {n_bytes}.")
        if n_bytes > MAX_HEADER_BYTES:
            raise ModelFolderError(f"{path}: its header is {n_bytes} bytes; at most {MAX_HEADER_BYTES} are read.")
        header = parse_json(file.read(n_bytes), path, ModelFolderError)
    if not isinstance(header, dict):
        raise ModelFolderError(f"{path}: a safetensors header is a mapping, this one is a {type(header).__name__}.")
    return header, size - 8 - n_bytes


def _span(name: str, entry: Any, path: Path | str) -> tuple[int, int]:
    """Where the bytes of a tensor begin and end, checked against its type and shape (Python integers do not overflow)."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFolderError(f"{path}: the entry of tensor `{name}` must have dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ModelFolderError(f"{path}: tensor `{name}` has type `{dtype}`; known: {', '.join(_ITEM_BYTES)}.")
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ModelFolderError(f"{path}: tensor `{name}` must have a shape of at most {_MAX_DIMENSIONS} whole numbers from 0.")
    if not _counts(offsets) or len(offsets) != 2:
        raise ModelFolderError(f"{path}: tensor `{name}` must have two data_offsets from 0.")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ModelFolderError(f"{path}: tensor `{name}` of {dtype} {shape} does not fill bytes {offsets[0]} to {offsets[1]}.")
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _torch_dtype(word: str) -> torch.dtype:
    import torch

    kinds = {"F": "float", "I": "int", "U": "uint"}
    special = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64", "BOOL": "bool"}
    return getattr(torch, special.get(word) or kinds[word[0]] + word[1:])


def _tensor_chunks(head: bytes, tensors: Iterable[torch.Tensor]) -> Iterator[Any]:
    import torch

    yield head
    for tensor in tensors:
        if tensor.numel():
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
