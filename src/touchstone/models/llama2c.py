"""llama2.c checkpoints and tokenizers: one file of bare numbers each, whose whole layout follows from a few integers at its front.

The files turn rotary pairs of neighbours; Hugging Face's turn the first half of a head with the second. So the rows of the query and
key weights are put in the other order here, which leaves every score as it was. The int8 files (version 2) are refused: two layouts
go by that number, and nothing in a file says which one it has.
Source: karpathy/llama2.c `export.py`, `run.c`, `tokenizer.py`; the row order as in transformers' `convert_llama_weights_to_hf.py`.
"""

import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from touchstone.errors import ModelFolderError, TokenizerError, Unsupported
from touchstone.files import open_regular
from touchstone.models.families.family import MAX_LAYERS
from touchstone.models.shorthand import decoder_spec
from touchstone.models.spec import ModelSpec
from touchstone.text.segmentation import rebuild
from touchstone.text.sentencepiece import SPACE, Piece, PieceKind, SentencePieceModel
from touchstone.text.tokenizer import Tokenizer

__all__ = ["END_IDS", "START_ID", "Llama2cModel", "read_llama2c", "read_llama2c_tokenizer"]

START_ID = 1
"""The token that `run.c` begins every text with."""

END_IDS = (1, 2)
"""What ends a text: `run.c` stops at 1 when it generates, and at 2, SentencePiece's `</s>`, when it chats."""

_MAGIC = 0x616B3432  # "ak42"
_SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_HEADER_BYTES = {0: 28, 1: 256}
_ORDER = {
    0: ("embed", "norm1", "q", "k", "v", "o", "norm2", "gate", "down", "up", "final_norm", "freq_cis_real", "freq_cis_imag", "head"),
    1: ("norm1", "norm2", "final_norm", "embed", "q", "k", "v", "o", "gate", "down", "up", "head"),
}
_LAYER = "decoder.layers.{i}."
_OURS = {
    "embed": "embed.weight",
    "norm1": f"{_LAYER}norm1.weight",
    **{part: f"{_LAYER}attn.{part}_proj.weight" for part in "qkvo"},
    "norm2": f"{_LAYER}norm2.weight",
    **{part: f"{_LAYER}mlp.{part}_proj.weight" for part in ("gate", "down", "up")},
    "final_norm": "decoder.final_norm.weight",
    "head": "lm_head.weight",
}
_LEFT_OUT = "is a table of rotary angles, which llama2.c and we compute"

_SPECIALS = ("<unk>", "<s>", "</s>")
_MAX_TOKENIZER_BYTES = 16 << 20  # Llama 2's 32000 tokens take 434 kB
_MAX_TOKEN_BYTES = 128  # Llama 2's longest token has 27 bytes; every token is cut at every place
_NEVER_MERGED = -1e10  # run.c merges above this score only


@dataclass(frozen=True)
class Llama2cModel:
    """A checkpoint in memory, named and ordered as our networks are.

    ignored: what of the file is not used, and why.
    """

    spec: ModelSpec
    state: dict[str, Tensor]
    version: int
    ignored: dict[str, str] = field(default_factory=dict)


def read_llama2c(path: Path | str) -> Llama2cModel:
    """Read a checkpoint of version 0 or 1, in fp32; the file must be as long as its header says, to the byte.

    Raises ModelFolderError for a file that is no such checkpoint, before anything is allocated for it; Unsupported for version 2.
    """
    path = Path(path)
    with os.fdopen(open_regular(path), "rb") as file:
        header = _read_header(file, path)
        file.seek(_HEADER_BYTES[header.version])
        state: dict[str, Tensor] = {}
        ignored: dict[str, str] = {}
        for name in header.order:
            if name in _OURS:
                state |= dict(_read_tensors(file, name, header))
            else:
                file.seek(4 * math.prod(header.shapes[name]), os.SEEK_CUR)
                ignored[name] = _LEFT_OUT
    return Llama2cModel(_spec(header), state, header.version, ignored)


def read_llama2c_tokenizer(path: Path | str, vocab_size: int) -> Tokenizer:
    """Read a tokenizer file of as many tokens as its model has; it begins every text with `<s>` where specials are asked for.

    The text U+2581 is read as a space, as SentencePiece reads it; `run.c` spells it in bytes.
    Raises TokenizerError for a file of another kind or of another number of tokens.
    """
    path = Path(path)
    with os.fdopen(open_regular(path, error=TokenizerError), "rb") as file:
        data = file.read(_MAX_TOKENIZER_BYTES + 1)
    if len(data) > _MAX_TOKENIZER_BYTES:
        raise TokenizerError(f"{path}: a llama2.c tokenizer is at most {_MAX_TOKENIZER_BYTES} bytes, this one is larger.")
    pieces = tuple(_read_pieces(data, path))
    if len(pieces) != vocab_size:
        raise TokenizerError(f"{path}: has {len(pieces)} tokens, and the model {vocab_size}; use the tokenizer it was trained with.")
    texts = [piece.text for piece in pieces]
    wanted = [*_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]  # at these places run.c reckons with them
    if wrong := [place for place, text in enumerate(wanted) if texts[place : place + 1] != [text]]:
        raise TokenizerError(f"{path}: token {wrong[0]} should be {wanted[wrong[0]]!r}; this is no tokenizer that `tokenizer.py` exported.")
    if twice := [text for text, n in Counter(texts).items() if n > 1]:
        raise TokenizerError(f"{path}: holds the token {twice[0]!r} twice.")
    model = SentencePieceModel(pieces, "bpe", byte_fallback=True, charsmap=b"", adds_space=True, collapses_spaces=False)
    backend = rebuild(model, pieces, "always")
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in _SPECIALS])
    backend.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", START_ID)])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return Tokenizer(backend.to_str(pretty=False), config)


class _Header(NamedTuple):
    version: int
    is_tied: bool
    sizes: dict[str, int]

    @property
    def order(self) -> tuple[str, ...]:
        """The tensors in the file, one behind the other; those of a layer lie together for all layers."""
        return tuple(name for name in _ORDER[self.version] if name != "head" or not self.is_tied)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one layer where there are layers."""
        d_model, d_ff, _, n_heads, n_kv_heads, vocab_size, seq_len = self.sizes.values()
        d_kv, pairs = d_model // n_heads * n_kv_heads, d_model // n_heads // 2
        return {
            **{"embed": (vocab_size, d_model), "head": (vocab_size, d_model)},
            **dict.fromkeys(("norm1", "norm2", "final_norm"), (d_model,)),
            **{"q": (d_model, d_model), "k": (d_kv, d_model), "v": (d_kv, d_model), "o": (d_model, d_model)},
            **{"gate": (d_ff, d_model), "down": (d_model, d_ff), "up": (d_ff, d_model)},
            **dict.fromkeys(("freq_cis_real", "freq_cis_imag"), (seq_len, pairs)),
        }

    def n_layers_of(self, name: str) -> int:
        return self.sizes["n_layers"] if "{i}" in _OURS.get(name, "") else 1

    def n_bytes(self) -> int:
        shapes = self.shapes
        return _HEADER_BYTES[self.version] + sum(4 * math.prod(shapes[name]) * self.n_layers_of(name) for name in self.order)


def _read_header(file: IO[bytes], path: Path) -> _Header:
    size = os.fstat(file.fileno()).st_size
    front = file.read(_HEADER_BYTES[1])
    if len(front) < _HEADER_BYTES[0]:
        raise ModelFolderError(f"{path}: {len(front)} bytes hold no llama2.c header.")
    version = 0
    if struct.unpack_from("<I", front)[0] == _MAGIC:
        version = struct.unpack_from("<i", front, 4)[0]
        if version == 2:
            raise Unsupported(
                f"{path}: is a llama2.c file of version 2 (int8), of which there are two layouts that it does not tell apart;"
                f" export the model again with `--version 1`."
            )
        if version != 1 or len(front) < _HEADER_BYTES[1]:
            raise ModelFolderError(f"{path}: a llama2.c header of version {version} in {size} bytes; versions 0 and 1 are read.")
    sizes = dict(zip(_SIZES, struct.unpack_from("<7i", front, 8 if version else 0), strict=True))
    is_tied = front[36] == 1 if version else sizes["vocab_size"] > 0
    if not version:
        sizes["vocab_size"] = abs(sizes["vocab_size"])  # below zero: the head has weights of its own
    header = _Header(version, is_tied, sizes)
    problems = _problems(header)
    if version and (front[36] > 1 or any(front[37:])):
        problems.append("what follows the sizes is neither a flag nor padding")
    if problems:
        raise ModelFolderError(f"{path}: is no llama2.c checkpoint: {'; '.join(problems)}.{_kind_hint(front)}")
    if header.n_bytes() != size:
        what = "is cut short" if size < header.n_bytes() else "goes on behind its last tensor"
        raise ModelFolderError(
            f"{path}: {what}, or is no llama2.c checkpoint: its header describes {header.n_bytes():,} bytes, it has {size:,}."
        )
    return header


def _problems(header: _Header) -> list[str]:
    sizes = header.sizes
    if low := [f"`{name}` ({value}) must be at least 1" for name, value in sizes.items() if value < 1]:
        return low
    dim, n_heads, n_kv_heads, n_layers = (sizes[name] for name in ("dim", "n_heads", "n_kv_heads", "n_layers"))
    problems = []
    if dim % n_heads or dim // n_heads % 2:
        problems.append(f"`dim` ({dim}) must be `n_heads` ({n_heads}) times an even number")
    if n_heads % n_kv_heads:
        problems.append(f"`n_heads` ({n_heads}) must be a multiple of `n_kv_heads` ({n_kv_heads})")
    if n_layers > MAX_LAYERS:
        problems.append(f"`n_layers` ({n_layers}) must be at most {MAX_LAYERS}")
    return problems


def _kind_hint(front: bytes) -> str:
    """What else the file seems to be."""
    if front[:2] == b"PK" or (front[:1] == b"\x80" and front[1:2] in b"\x02\x03\x04\x05"):
        return " It begins like a pickle of PyTorch, which is never opened; export it with llama2.c's `export.py`."
    return " It begins like a GGUF file." if front[:4] == b"GGUF" else ""


def _read_tensors(file: IO[bytes], name: str, header: _Header) -> Iterator[tuple[str, Tensor]]:
    shape = header.shapes[name]
    n_turned = {"q": header.sizes["n_heads"], "k": header.sizes["n_kv_heads"]}.get(name)
    for layer in range(header.n_layers_of(name)):
        numbers = np.fromfile(file, dtype="<f4", count=math.prod(shape)).astype(np.float32, copy=False)
        tensor = torch.from_numpy(numbers).view(shape)
        yield _OURS[name].replace("{i}", str(layer)), tensor if n_turned is None else _halves(tensor, n_turned)


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """The rows of each head with the even ones first, then the odd ones: pairs of neighbours become pairs of halves."""
    rows, d_model = weight.shape
    pairs = weight.view(n_heads, rows // n_heads // 2, 2, d_model)  # (H, K/2, 2, D)
    return pairs.transpose(1, 2).reshape(rows, d_model)


def _spec(header: _Header) -> ModelSpec:
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = header.sizes.values()
    return decoder_spec(
        vocab_size=vocab_size,
        d_model=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ff=hidden_dim,
        max_seq_len=seq_len,
        norm_eps=1e-5,  # this and theta stand in run.c, not in the file
        rope_theta=10_000.0,
        tied=header.is_tied,
    )


def _read_pieces(data: bytes, path: Path) -> Iterator[Piece]:
    """The tokens, with SentencePiece's spelling brought back: `▁` for a space, and no line ends around `<s>` and `</s>`."""
    if len(data) < 4:
        raise TokenizerError(f"{path}: {len(data)} bytes hold no llama2.c tokenizer.")
    (longest,) = struct.unpack_from("<i", data)
    place, token_id = 4, 0
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place) if place + 8 <= len(data) else (0.0, -1)
        place += 8
        if not 0 < length <= min(longest, _MAX_TOKEN_BYTES, len(data) - place):
            raise TokenizerError(
                f"{path}: token {token_id} says {length} bytes; it should have from 1 to {min(longest, _MAX_TOKEN_BYTES)},"
                f" and {max(len(data) - place, 0)} are left. The file is damaged or no llama2.c tokenizer."
            )
        if not _NEVER_MERGED < score < math.inf:
            raise TokenizerError(f"{path}: token {token_id} has the score {score}; scores are numbers above {_NEVER_MERGED:g}.")
        try:
            text = data[place : place + length].decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError(f"{path}: token {token_id} is not UTF-8.") from None
        kind: PieceKind = "unknown" if not token_id else "control" if token_id in END_IDS else "byte" if token_id < 259 else "normal"
        yield Piece(text.strip("\n") if kind == "control" else text.replace(" ", SPACE), score, kind)
        place, token_id = place + length, token_id + 1
