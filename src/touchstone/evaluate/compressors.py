"""General-purpose compressors as language models: bits per byte of held-out documents, with and without the training text.

Every document is compressed on its own; containers (magic numbers, checksums, sizes) are left out where the format lets them be, as a
model's own figure has none. What each figure is:
- given nothing: 8 * len(C(document)) / bytes, for xz -9e (LZMA2), bz2 -9, zlib -9 (deflate) and zstd -19.
- given the training text, xz: 8 * (len(C(training + document)) - len(C(training))) / bytes, the dictionary reaching over all of it.
- given the training text, zstd: 8 * len(C(document)) / bytes with the training text as a raw dictionary of level 19.
zlib looks back 32 KiB and bz2 begins anew every 900 kB, so the training text would only tell them about its last file: not measured.
xz needs about 12 times the training text in memory (liblzma's figure for its bt4 match finder) and one pass over it, whatever the
number of documents; no document sees another one.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.stats import Interval, bootstrap_ratio

__all__ = ["CompressorReport", "CompressorScore", "score_compressors"]

MAX_TRAINING_BYTES = 32 << 20
"""Default limit of the training text given to a compressor: with it xz takes about 400 MB of memory."""

_AT_ONCE = 2  # documents compressed side by side by xz


@dataclass(frozen=True, slots=True)
class CompressorScore:
    """What one compressor made of each document. given_bytes: training text it had read; 0 for nothing."""

    name: str
    setting: str
    given_bytes: int
    n_bytes: tuple[int, ...]  # UTF-8 bytes of each document
    compressed_bytes: tuple[int, ...]

    def bits_per_byte(
        self, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0, clusters: Sequence[Any] | None = None
    ) -> Interval:
        """Compressed bits over bytes of all documents, resampling documents or their clusters."""
        bits = [8 * size for size in self.compressed_bytes]
        return bootstrap_ratio(bits, self.n_bytes, level=level, n_resamples=n_resamples, seed=seed, clusters=clusters)


@dataclass(frozen=True, slots=True)
class CompressorReport:
    """The scores, and the reason for each compressor that could not be run here."""

    scores: tuple[CompressorScore, ...]
    missing: dict[str, str]


def score_compressors(
    documents: Sequence[str], training: Sequence[str] = (), *, max_training_bytes: int = MAX_TRAINING_BYTES
) -> CompressorReport:
    """Score every compressor that this Python has, first given nothing, then given the training text if there is any.

    training: texts in the order they are given; of more than `max_training_bytes` the last part is, which `given_bytes` shows.
    """
    texts = [document.encode() for document in documents]
    if not texts or not all(texts):
        raise DataError("Compressors are scored on one document or more, none of them empty.")
    if max_training_bytes < 1:
        raise ConfigError(f"`max_training_bytes` must be at least 1, not {max_training_bytes}; leave `training` empty to give nothing.")
    given = b"".join(text.encode() for text in training)[-max_training_bytes:]
    modules, missing = _modules()
    n_bytes = tuple(len(text) for text in texts)
    scores: list[CompressorScore] = []

    def add(name: str, setting: str, given_bytes: int, compressed: Sequence[int]) -> None:
        scores.append(CompressorScore(name, setting, given_bytes, n_bytes, tuple(compressed)))

    with tempfile.TemporaryDirectory() as folder:
        pending = _start_xz(Path(folder), given, texts) if given and "xz" in modules else None
        for name, (setting, size) in _ALONE.items():
            if name in modules:
                add(name, setting, 0, [size(modules[name], text) for text in texts])
        zstd = _zstd_given(modules["zstd"], given, texts) if given and "zstd" in modules else None
        if pending is not None:
            add("xz", "-9e, its dictionary over all of the text", len(given), _finish_xz(pending))
        if zstd is not None:
            add("zstd", "-19, the text as its dictionary", len(given), zstd)
    return CompressorReport(tuple(scores), missing)


def _modules() -> tuple[dict[str, ModuleType], dict[str, str]]:
    found: dict[str, ModuleType] = {}
    missing: dict[str, str] = {}
    for name, module in {"xz": "lzma", "bz2": "bz2", "zlib": "zlib", "zstd": "zstandard"}.items():
        try:
            found[name] = importlib.import_module(module)
        except ImportError:
            missing[name] = "pip install zstandard" if name == "zstd" else f"this Python was built without `{module}`"
    return found, missing


def _xz_alone(lzma: ModuleType, text: bytes) -> int:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(4096, len(text))}]
    return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters))


def _zlib_alone(zlib: ModuleType, text: bytes) -> int:
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return len(encoder.compress(text)) + len(encoder.flush())


def _zstd_parameters(zstandard: ModuleType, n_bytes: int, n_given: int) -> Any:
    return zstandard.ZstdCompressionParameters.from_level(
        19,
        source_size=n_given + n_bytes,
        dict_size=n_given,
        write_content_size=False,
        write_dict_id=False,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )


def _zstd_alone(zstandard: ModuleType, text: bytes) -> int:
    return len(zstandard.ZstdCompressor(compression_params=_zstd_parameters(zstandard, len(text), 0)).compress(text))


_ALONE: dict[str, tuple[str, Callable[[ModuleType, bytes], int]]] = {
    "xz": ("-9e", _xz_alone),
    "bz2": ("-9", lambda bz2, text: len(bz2.compress(text, 9))),
    "zlib": ("-9", _zlib_alone),
    "zstd": ("-19", _zstd_alone),
}


def _zstd_given(zstandard: ModuleType, given: bytes, texts: Sequence[bytes]) -> list[int]:
    parameters = _zstd_parameters(zstandard, max(len(text) for text in texts), len(given))
    dictionary = zstandard.ZstdCompressionDict(given, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    dictionary.precompute_compress(compression_params=parameters)  # else every document would read it again
    encoder = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    return [len(encoder.compress(text)) for text in texts]


def _start_xz(folder: Path, given: bytes, texts: Sequence[bytes]) -> "subprocess.Popen[bytes]":
    """Runs beside what follows, in a process that may fork: this one may hold threads."""
    if not hasattr(os, "fork"):
        raise Unsupported("xz given a training text is measured by forking its encoder, which this system cannot; use Linux, macOS or WSL.")
    path = folder / "texts"
    header = json.dumps({"training": len(given), "documents": [len(text) for text in texts], "at_once": _AT_ONCE})
    with path.open("wb") as file:
        file.writelines([header.encode(), b"\n", given, *texts])
    command = [sys.executable, "-I", str(Path(__file__).with_name("xz_worker.py")), str(path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish_xz(process: "subprocess.Popen[bytes]") -> list[int]:
    output, error = process.communicate()
    if process.returncode != 0:
        last = error.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise Unsupported(f"xz could not read the training text: {last[0]}. Give less of it with `max_training_bytes`.")
    sizes: list[int] = json.loads(output)
    return sizes
