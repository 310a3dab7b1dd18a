"""The weight files of a model folder: one `model.safetensors`, or shards with an index; pickles are refused unopened.

Layout: transformers' `model.safetensors.index.json`, {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from touchstone.errors import ModelFolderError, printable
from touchstone.files import (
    MAX_HEADER_BYTES,
    TensorEntry,
    load_tensors,
    open_regular,
    read_json,
    refuse_pointer,
    tensor_header,
)

__all__ = ["MAX_SHARD_BYTES", "Shards", "WeightFiles", "find_weights", "split_shards"]

MAX_SHARD_BYTES = 5 * 10**9
"""Size at which a second file is begun; below the 5 GiB that simple object stores take in one piece."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_MOST_TENSORS = 1 << 17  # in all files; the largest published mixtures of experts name about 90,000
_MOST_SHOWN = 6  # names of one kind of problem; the rest is counted
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """Where every tensor of a folder is, known from headers alone."""

    files: tuple[Path, ...]
    header: Mapping[str, TensorEntry]
    ignored: Mapping[str, str]  # other files -> why they are not opened

    def load(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """The tensors with these names, None = all, each in its stored type; ModelFolderError if a number in them is not finite."""
        wanted = None if names is None else frozenset(names)
        tensors: dict[str, Tensor] = {}
        damaged: list[str] = []
        for path in self.files:
            for name, tensor in load_tensors(path, names=wanted).items():
                tensors[name] = _aligned(tensor)
                if (n_wrong := _n_not_finite(tensors[name])) > 0:
                    damaged.append(f"`{printable(name)}` in {path.name} ({n_wrong} of {tensor.numel()} numbers)")
        if damaged:
            more = f" and {len(damaged) - _MOST_SHOWN} more" if len(damaged) > _MOST_SHOWN else ""
            raise ModelFolderError(
                f"{self.files[0].parent}: weights that are not finite: {', '.join(damaged[:_MOST_SHOWN])}{more}. Every output would be "
                "not a number; take the files from their source again, or a checkpoint from before the training diverged."
            )
        return tensors

    def types(self) -> dict[str, int]:
        """How many numbers are stored in each type."""
        counted: Counter[str] = Counter()
        for entry in self.header.values():
            counted[entry.dtype] += math.prod(entry.shape)
        return dict(counted)

    def n_numbers(self) -> int:
        """Numbers stored, all tensors together."""
        return sum(self.types().values())


@dataclass(frozen=True)
class Shards:
    """Tensors divided among files, and the index if there is more than one."""

    files: dict[str, dict[str, Tensor]]
    index: dict[str, Any] | None


def find_weights(folder: Path) -> WeightFiles:
    """The weight files of a folder, their headers checked; ModelFolderError if there are none, two kinds, or unsafe ones."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _PICKLES)
    single, index = (os.path.lexists(folder / name) for name in (_SINGLE, _INDEX))
    if single and index:
        raise ModelFolderError(f"{folder}: has both {_SINGLE} and {_INDEX}; remove the one that is stale.")
    if not single and not index:
        if pickles:
            raise ModelFolderError(_convert_hint(folder, min(pickles, key=lambda name: not name.startswith("pytorch_model"))))
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        found = f" It has {', '.join(map(printable, others[:5]))}, which no name rule makes the model's weights." if others else ""
        raise ModelFolderError(f"{folder}: has no {_SINGLE} and no {_INDEX}.{found}")
    placed = _read_index(folder) if index else None
    names = sorted(set(placed.values())) if placed is not None else [_SINGLE]
    headers = {name: _header(folder / name) for name in names}
    if placed is not None:
        _check_index(folder, placed, headers)
    merged = {tensor: entry for header in headers.values() for tensor, entry in header.items()}
    ignored = dict.fromkeys(pickles, "is a pickle, which is never opened")
    return WeightFiles(tuple(folder / name for name in names), merged, ignored)


def split_shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Shards:
    """Divide tensors, in their order, among files of at most max_bytes (a larger tensor gets a file of its own)."""
    groups: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if groups[-1] and filled + size > max_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += size
    if len(groups) == 1:
        return Shards({_SINGLE: groups[0]}, None)
    files = {f"model-{place:05d}-of-{len(groups):05d}.safetensors": group for place, group in enumerate(groups, start=1)}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map = {name: file for file, group in files.items() for name in group}
    return Shards(files, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / _INDEX
    data = read_json(path, max_bytes=MAX_HEADER_BYTES)
    placed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise ModelFolderError(f"{path}: `weight_map` should map tensor names to file names.")
    if len(placed) > _MOST_TENSORS:
        raise ModelFolderError(f"{path}: names {len(placed)} tensors; at most {_MOST_TENSORS} are read.")
    for name in sorted(set(placed.values())):
        if not _FILE_NAME.fullmatch(name):
            raise ModelFolderError(
                f"{path}: `{printable(name)}` should be the name of a .safetensors file in the same folder, without a path."
            )
    return placed


def _check_index(folder: Path, placed: Mapping[str, str], headers: Mapping[str, Mapping[str, TensorEntry]]) -> None:
    absent = [(tensor, name) for tensor, name in placed.items() if tensor not in headers[name]]
    extra = [(tensor, name) for name, header in headers.items() for tensor in header if placed.get(tensor) != name]
    if absent or extra:
        first = [f"`{printable(tensor)}` is not in {name}" for tensor, name in absent[:_MOST_SHOWN]]
        first += [f"{name} has `{printable(tensor)}`" for tensor, name in extra[:_MOST_SHOWN]]
        more = f" and {len(absent) + len(extra) - len(first)} more" if len(absent) + len(extra) > len(first) else ""
        raise ModelFolderError(f"{folder / _INDEX}: does not agree with the files: {'; '.join(first)}{more}.")


def _header(path: Path) -> dict[str, TensorEntry]:
    with os.fdopen(open_regular(path), "rb") as file:
        start = file.read(64)
    refuse_pointer(start, path, ModelFolderError)
    if _is_pickle(start):
        raise ModelFolderError(_convert_hint(path.parent, path.name))
    return tensor_header(path)


def _is_pickle(start: bytes) -> bool:
    """True if a file begins as a pickle does, alone or in a zip, and not as a safetensors header whose length is those two bytes."""
    begins = start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
    return begins and start[8:9] != b"{"


def _convert_hint(folder: Path, name: str) -> str:
    target = f"{folder}-safetensors"
    return (
        f"{folder}: `{name}` is a pickle, and reading a pickle runs the code in it. If you trust its source, convert it yourself:\n"
        f"    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'    AutoModelForCausalLM.from_pretrained("{folder}").save_pretrained("{target}")\n'
        f'    AutoTokenizer.from_pretrained("{folder}").save_pretrained("{target}")'
    )


def _n_not_finite(tensor: Tensor) -> int:
    """How many numbers are infinite or not a number; the least and the greatest show it, so a sound tensor is read once and not copied."""
    if not tensor.is_floating_point() or not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax()):
        return 0
    return int(tensor.numel() - tensor.isfinite().sum())


def _aligned(tensor: Tensor) -> Tensor:
    """Tensors lie where the file has them, and old writers began the data at any byte; not every kernel reads from there."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
