"""Tensors on disk as safetensors, with headers checked against our own limits before the library sees a file.

Layout: https://github.com/huggingface/safetensors#format. torch is imported only where tensors are made or written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from touchstone.errors import ModelFolderError, printable
from touchstone.files.atomic import open_regular, parse_json, write_chunks

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_HEADER_BYTES", "MAX_TENSORS", "TensorEntry", "load_tensors", "save_tensors", "tensor_header", "tensor_metadata"]

MAX_HEADER_BYTES = 16 << 20
"""Largest header read; the library allows 100 MB, which a hostile file fills."""

MAX_TENSORS = 1 << 15
"""Most tensors in one file; the largest published shards hold a few thousand, and so many are checked in a fraction of a second."""

_MAX_DIMENSIONS = 16
_MOST_MARKS = {b"{": MAX_TENSORS + 2, b"[": 2 * MAX_TENSORS + 2, b",": 10 * MAX_TENSORS}  # in the header of so many tensors
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


def load_tensors(path: Path | str, device: str = "cpu", *, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, after every check of `tensor_header`; names: those wanted of them, None = all."""
    from safetensors import SafetensorError, safe_open

    tensor_header(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118 - no mapping, it has only keys()
            return {name: file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise ModelFolderError(f"{path}: not readable as safetensors: {error}.") from None


def tensor_header(path: Path | str) -> dict[str, TensorEntry]:
    """Names, types and shapes in a safetensors file, in the order of their bytes; nothing is allocated for the tensors.

    Raises ModelFolderError on anything but a well-formed file within MAX_HEADER_BYTES and MAX_TENSORS: offsets must cover the
    data exactly, without holes or overlaps, and every size must follow from its shape.
    """
    header, data_bytes = _read_header(Path(path))
    _metadata(header, path)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelFolderError(f"{path}: holds {len(header)} tensors; at most {MAX_TENSORS} are read.")
    spans = sorted((*_span(name, entry, path), name) for name, entry in header.items())
    place = 0
    for begin, end, name in spans:
        if begin != place:
            raise ModelFolderError(
                f"{path}: tensor `{printable(name)}` begins at byte {begin} of the data, the one before ends at {place}."
            )
        place = end
    if place != data_bytes:
        raise ModelFolderError(f"{path}: the header describes {place} bytes of data, the file has {data_bytes}.")
    return {name: TensorEntry(header[name]["dtype"], tuple(header[name]["shape"])) for _, _, name in spans}


def tensor_metadata(path: Path | str) -> dict[str, str]:
    """The texts under `__metadata__` of a safetensors file; empty if it has none."""
    return _metadata(_read_header(Path(path))[0], path)


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
        text = file.read(n_bytes)
    if any(text.count(mark) > most for mark, most in _MOST_MARKS.items()):  # parsed, such a header takes many times its size
        raise ModelFolderError(f"{path}: its header lists more than {MAX_TENSORS} tensors, the most that are read.")
    header = parse_json(text, path, ModelFolderError)
    if not isinstance(header, dict):
        raise ModelFolderError(f"{path}: a safetensors header is a mapping, this one is a {type(header).__name__}.")
    return header, size - 8 - n_bytes


def _metadata(header: Mapping[str, Any], path: Path | str) -> dict[str, str]:
    found = header.get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ModelFolderError(f"{path}: `__metadata__` must map names to texts.")
    return found


def _span(name: str, entry: Any, path: Path | str) -> tuple[int, int]:
    """Where the bytes of a tensor begin and end, checked against its type and shape (Python integers do not overflow)."""
    if fault := _fault(entry):
        raise ModelFolderError(f"{path}: tensor `{printable(name)}` {fault}")
    begin, end = entry["data_offsets"]
    return begin, end


def _fault(entry: Any) -> str:
    """What is wrong with an entry of a header; empty if nothing is."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "must have dtype, shape and data_offsets, and nothing else."
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        return f"has type `{printable(dtype)}`; known: {', '.join(_ITEM_BYTES)}."
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        return f"must have a shape of at most {_MAX_DIMENSIONS} whole numbers from 0, not {printable(shape)}."
    if not _counts(offsets) or len(offsets) != 2:
        return f"must have two data_offsets from 0, not {printable(offsets)}."
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        return f"of {dtype} {printable(shape)} does not fill bytes {offsets[0]} to {offsets[1]}."
    return ""


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
