"""llama2.c files that are malformed, hostile or of another kind: one clear error each, fast, with nothing allocated for them."""

import os
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import ModelFolderError, TokenizerError, TouchstoneError
from touchstone.models.llama2c import read_llama2c, read_llama2c_tokenizer

SIZES = {"dim": 12, "hidden_dim": 10, "n_layers": 2, "n_heads": 3, "n_kv_heads": 1, "vocab_size": 7, "seq_len": 5}
N_NUMBERS = 7 * 12 + 2 * (2 * 12 + 2 * 12 * 12 + 2 * 4 * 12 + 3 * 10 * 12) + 12
N_OLD_TABLES = 2 * 5 * 2

TOKENS = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256)), b" ", b"a", b" a"]


def checkpoint(version: int, n_numbers: int | None = None, *, flags: bytes = b"\x01", **sizes: int) -> bytes:
    """A file whose header says `sizes`, with the numbers of the sound one behind it, or as many as asked for."""
    header = struct.pack("<7i", *(SIZES | sizes).values())
    if version:
        header = (struct.pack("<Ii", 0x616B3432, version) + header + flags).ljust(256, b"\0")
    n_numbers = N_NUMBERS + (0 if version else N_OLD_TABLES) if n_numbers is None else n_numbers
    return header + np.full(n_numbers, 0.5, dtype="<f4").tobytes()


def tokenizer(tokens: list[bytes], longest: int = 7, score: float = -1.0) -> bytes:
    return struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(token)) + token for token in tokens)


def refused(read: Callable[[], object], kind: type[TouchstoneError]) -> str:
    """The one error, in under a second and 30 MB."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(kind) as error:
            read()
        assert time.perf_counter() - began < 1.0
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    return str(error.value)


@pytest.mark.parametrize("version", [0, 1])
def test_the_sound_files_are_read(version: int, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(checkpoint(version))
    assert read_llama2c(path).spec.n_parameters() == N_NUMBERS
    path.write_bytes(tokenizer(TOKENS))
    assert read_llama2c_tokenizer(path, len(TOKENS)).vocab_size == len(TOKENS)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"dim": -12}, "`dim` (-12) must be at least 1"),
        ({"n_layers": 0}, "`n_layers` (0) must be at least 1"),
        ({"vocab_size": 0}, "`vocab_size` (0) must be at least 1"),
        ({"dim": -1, "seq_len": -5}, "`dim` (-1) must be at least 1; `seq_len` (-5) must be at least 1"),
        ({"n_heads": 5}, "`dim` (12) must be `n_heads` (5) times an even number"),
        ({"n_heads": 12}, "`dim` (12) must be `n_heads` (12) times an even number"),
        ({"n_kv_heads": 2}, "`n_heads` (3) must be a multiple of `n_kv_heads` (2)"),
        ({"n_kv_heads": 6}, "`n_heads` (3) must be a multiple of `n_kv_heads` (6)"),
        ({"n_layers": 2**31 - 1}, "`n_layers` (2147483647) must be at most"),
        ({"vocab_size": 2**31 - 1}, "its header describes 103,079,"),
        ({"hidden_dim": 2**31 - 1}, "is cut short"),
        ({"vocab_size": 6}, "goes on behind its last tensor"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_sizes_that_cannot_be_are_named(version: int, sizes: dict[str, int], says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(checkpoint(version, **sizes))
    message = refused(lambda: read_llama2c(path), ModelFolderError)
    assert says in message
    assert str(path) in message


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_with_a_byte_too_few_or_too_many_is_refused(version: int, tmp_path: Path) -> None:
    path, sound = tmp_path / "m.bin", checkpoint(version)
    for data, says in (
        (sound[:-1], "cut short"),
        (sound[:-400], "cut short"),
        (sound + b"\0", "goes on"),
        (sound[:20], "no llama2.c header"),
    ):
        path.write_bytes(data)
        assert says in refused(lambda: read_llama2c(path), ModelFolderError)


def test_a_separate_head_that_is_not_there_is_missed(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(checkpoint(0, vocab_size=-7))
    assert "is cut short" in refused(lambda: read_llama2c(tmp_path / "m.bin"), ModelFolderError)
    (tmp_path / "m.bin").write_bytes(checkpoint(0, N_NUMBERS + N_OLD_TABLES + 7 * 12, vocab_size=-7))
    assert not read_llama2c(tmp_path / "m.bin").spec.head.tied


def test_a_header_of_another_version_or_with_unknown_flags_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for version in (3, -1, 2**31 - 1):
        path.write_bytes(checkpoint(version))
        assert f"version {version}" in refused(lambda: read_llama2c(path), ModelFolderError)
    for flags in (b"\x02", b"\x01\x40"):
        path.write_bytes(checkpoint(1, flags=flags))
        assert "neither a flag nor padding" in refused(lambda: read_llama2c(path), ModelFolderError)
    path.write_bytes(checkpoint(1)[:100])
    assert "in 100 bytes" in refused(lambda: read_llama2c(path), ModelFolderError)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps({"model": list(range(100))}, protocol=4), "like a pickle"),
        (b"PK\x03\x04" + bytes(200), "like a pickle"),
        (b"GGUF" + bytes(200), "GGUF"),
        (b"", "0 bytes hold no llama2.c header"),
        (b"once upon a time there was a text file", "is no llama2.c checkpoint"),
    ],
    ids=["pickle", "zip", "gguf", "empty", "text"],
)
def test_files_of_another_kind_are_recognised(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(data)
    assert says in refused(lambda: read_llama2c(tmp_path / "m.bin"), ModelFolderError)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "folder", "link"])
def test_only_a_regular_file_is_opened(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "m.bin")
    refused(lambda: read_llama2c(tmp_path / "m.bin"), ModelFolderError)
    refused(lambda: read_llama2c_tokenizer(tmp_path / "m.bin", 7), TokenizerError)


@pytest.mark.slow
@given(header=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 40), min_size=7, max_size=7), n_numbers=st.integers(0, 2000))
def test_any_header_gives_a_model_as_large_as_its_file_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, header: list[int], n_numbers: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(struct.pack("<7i", *header) + bytes(4 * n_numbers))
    try:
        found = read_llama2c(path)
    except TouchstoneError:
        return
    assert sum(tensor.numel() for tensor in found.state.values()) <= n_numbers


# Tokenizers


def test_token_lengths_are_held_against_the_file(tmp_path: Path) -> None:
    path, sound = tmp_path / "tok.bin", tokenizer(TOKENS)
    start = len(sound) - 2  # of the last token's bytes
    for length in (-1, 0, 3, 8, 2**31 - 1, -(2**31)):
        path.write_bytes(sound[: start - 4] + struct.pack("<i", length) + sound[start:])
        assert f"token {len(TOKENS) - 1} says {length} bytes" in refused(lambda: read_llama2c_tokenizer(path, len(TOKENS)), TokenizerError)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes hold no llama2.c tokenizer"),
        (tokenizer(TOKENS)[:-1], "the file is damaged"),
        (tokenizer(TOKENS) + b"\0", "the file is damaged"),
        (tokenizer(TOKENS, longest=-1), "token 0 says 5 bytes"),
        (tokenizer([*TOKENS, b"x" * 500], longest=500), "from 1 to 128"),
        (tokenizer(TOKENS, score=float("nan")), "has the score nan; scores are numbers above -1e+10"),
        (tokenizer(TOKENS, score=-2e10), "has the score -2"),
        (tokenizer(TOKENS, score=float("inf")), "has the score inf; scores"),
        (tokenizer([*TOKENS[:-1], b"\xff\xfe"]), "is not UTF-8"),
        (tokenizer([*TOKENS[:-1], b"a"]), "the token 'a' twice"),
        (tokenizer([*TOKENS[:-1], "▁".encode()]), "the token '▁' twice"),
        (tokenizer([TOKENS[1], TOKENS[0], *TOKENS[2:]]), "token 0 should be '<unk>'"),
        (tokenizer([b"q" * (n % 5 + 1) for n in range(len(TOKENS))]), "token 0 should be '<unk>'"),
        (tokenizer(TOKENS[:-1]), f"has {len(TOKENS) - 1} tokens, and the model {len(TOKENS)}"),
    ],
)
def test_a_damaged_tokenizer_is_named(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "tok.bin").write_bytes(data)
    message = refused(lambda: read_llama2c_tokenizer(tmp_path / "tok.bin", len(TOKENS)), TokenizerError)
    assert says.lower() in message.lower()
    assert "tok.bin" in message


def test_a_tokenizer_of_more_bytes_than_any_has_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tok.bin").open("wb") as file:
        file.truncate(1 << 40)
    assert "is at most 16777216 bytes" in refused(lambda: read_llama2c_tokenizer(tmp_path / "tok.bin", 9), TokenizerError)


@pytest.mark.slow
@given(data=st.binary(min_size=1, max_size=80))
def test_any_bytes_behind_a_tokenizer_are_a_token_more_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-tok.bin"
    path.write_bytes(tokenizer(TOKENS) + data)
    try:
        found = read_llama2c_tokenizer(path, len(TOKENS) + 1)
    except TokenizerError:
        return
    assert found.token_bytes(len(TOKENS)) == data[8:]
