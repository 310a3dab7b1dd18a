"""llama2.c files: the numbers of `run.c` from a network of ours, and the token ids of its `encode`."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from touchstone.errors import TokenizerError, Unsupported
from touchstone.models import LanguageNet, build
from touchstone.models.llama2c import read_llama2c, read_llama2c_tokenizer
from touchstone.text.tokenizer import Tokenizer

SIZES = {"dim": 24, "hidden_dim": 20, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 31, "seq_len": 17}
PIECES = ["▁t", "he", "▁the", "re", "▁there", "▁", "t", "h", "e", "r", "é", "天", "aa", "aaa", "a", "▁▁", "▁▁▁▁"]

Weights = dict[str, NDArray[np.float32]]


def random_weights(tied: bool) -> Weights:
    """Numbers for every tensor, those of all layers in one array."""
    rng = np.random.default_rng(7)
    dim, hidden, layers, _, _, vocab, seq_len = SIZES.values()
    d_kv, pairs = dim // SIZES["n_heads"] * SIZES["n_kv_heads"], dim // SIZES["n_heads"] // 2
    shapes = {
        **{"tok_embeddings": (vocab, dim), "output": (vocab, dim), "norm": (dim,)},
        **{"attention_norm": (layers, dim), "ffn_norm": (layers, dim)},
        **{"wq": (layers, dim, dim), "wk": (layers, d_kv, dim), "wv": (layers, d_kv, dim), "wo": (layers, dim, dim)},
        **{"w1": (layers, hidden, dim), "w2": (layers, dim, hidden), "w3": (layers, hidden, dim)},
        **{"freqs_cos": (seq_len, pairs), "freqs_sin": (seq_len, pairs)},
    }
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return {**weights, "output": weights["tok_embeddings"]} if tied else weights


def exported(weights: Weights, version: int, tied: bool) -> bytes:
    """The file as llama2.c's `export.py` writes it."""
    sizes = dict(SIZES)
    if version == 0 and not tied:
        sizes["vocab_size"] *= -1
    header = struct.pack("<7i", *sizes.values())
    if version == 0:
        order = ["tok_embeddings", "attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm", "freqs_cos", "freqs_sin"]
    else:
        header = (struct.pack("<Ii", 0x616B3432, version) + header + struct.pack("<B", tied)).ljust(256, b"\0")
        order = ["attention_norm", "ffn_norm", "norm", "tok_embeddings", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    return header + b"".join(weights[name].tobytes() for name in [*order, *([] if tied else ["output"])])


def run_c(weights: Weights, token_ids: list[int]) -> NDArray[np.float64]:
    """The logits of `forward` in run.c at every place, in double precision."""
    dim, _, layers, heads, kv_heads, _, _ = SIZES.values()
    size = dim // heads
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    n = len(token_ids)
    x = w["tok_embeddings"][token_ids]

    def rmsnorm(x: Any, weight: Any) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def turned(x: Any) -> Any:  # (T, heads, size): neighbours are a pair
        angle = np.arange(n)[:, None, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * np.cos(angle) - odd * np.sin(angle), even * np.sin(angle) + odd * np.cos(angle)], axis=-1).reshape(x.shape)

    for layer in range(layers):
        h = rmsnorm(x, w["attention_norm"][layer])
        q = turned((h @ w["wq"][layer].T).reshape(n, heads, size))
        k = turned((h @ w["wk"][layer].T).reshape(n, kv_heads, size)).repeat(heads // kv_heads, axis=1)
        v = (h @ w["wv"][layer].T).reshape(n, kv_heads, size).repeat(heads // kv_heads, axis=1)
        scores = np.einsum("thk,shk->hts", q, k) / math.sqrt(size) + np.where(np.tri(n, dtype=bool), 0.0, -np.inf)
        att = np.exp(scores - scores.max(-1, keepdims=True))
        att /= att.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shk->thk", att, v).reshape(n, dim) @ w["wo"][layer].T
        h = rmsnorm(x, w["ffn_norm"][layer])
        gate = h @ w["w1"][layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["w3"][layer].T)) @ w["w2"][layer].T
    return np.asarray(rmsnorm(x, w["norm"]) @ w["output"].T)


def network(path: Path) -> LanguageNet:
    found = read_llama2c(path)
    net = build(found.spec, seed=None)
    net.load_state_dict(found.state, assign=True)
    return net.eval()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_network_computes_what_run_c_does(version: int, tied: bool, tmp_path: Path) -> None:
    weights, token_ids = random_weights(tied), [1, 30, 7, 7, 0, 19, 4, 25, 11, 2]
    (tmp_path / "m.bin").write_bytes(exported(weights, version, tied))
    net = network(tmp_path / "m.bin")
    with torch.no_grad():
        found = net.double()(torch.tensor([token_ids])).logits[0].numpy()
    np.testing.assert_allclose(found, run_c(weights, token_ids), rtol=0, atol=1e-6)  # angles are made in fp32
    assert read_llama2c(tmp_path / "m.bin").version == version
    assert net.spec.head.tied == tied


def test_the_sizes_are_those_of_the_header_and_the_old_tables_are_said_to_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(exported(random_weights(True), 0, True))
    found = read_llama2c(tmp_path / "m.bin")
    assert (found.spec.d_model, found.spec.n_layers, found.spec.vocab_size, found.spec.max_seq_len) == (24, 3, 31, 17)
    assert list(found.ignored) == ["freq_cis_real", "freq_cis_imag"]
    (tmp_path / "m.bin").write_bytes(exported(random_weights(True), 1, True))
    assert read_llama2c(tmp_path / "m.bin").ignored == {}


def test_int8_files_are_refused_with_the_reason_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(struct.pack("<Ii7iBi", 0x616B3432, 2, *SIZES.values(), 1, 4).ljust(256, b"\0"))
    with pytest.raises(Unsupported, match=r"two layouts.*`--version 1`"):
        read_llama2c(tmp_path / "m.bin")


# Tokenizers

Token = tuple[bytes, float]


def tokenizer_file(pieces: list[str]) -> bytes:
    """The file as llama2.c's `tokenizer.py` writes it, the earlier of the pieces with the higher score."""
    plain = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = [(text.encode(), 0.0) for text in plain] + [(p.replace("▁", " ").encode(), -float(place)) for place, p in enumerate(pieces)]
    longest = max(len(text) for text, _ in tokens)
    return struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(text)) + text for text, score in tokens)


def tokens_of(data: bytes) -> list[Token]:
    tokens, place = [], 4
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        tokens.append((data[place + 8 : place + 8 + length], score))
        place += 8 + length
    return tokens


def run_c_encode(tokens: list[Token], text: str) -> list[int]:
    """`encode` of run.c with `<s>` before the text and nothing behind it."""
    ids = {token: token_id for token_id, (token, _) in enumerate(tokens)}
    found = [1, *([ids[b" "]] if text else [])]
    for char in text:
        spelled = char.encode()
        found += [ids[spelled]] if spelled in ids else [byte + 3 for byte in spelled]
    while True:
        best_score, best_id, best_place = -1e10, -1, -1
        for place in range(len(found) - 1):
            joined = ids.get(tokens[found[place]][0] + tokens[found[place + 1]][0])
            if joined is not None and tokens[joined][1] > best_score:
                best_score, best_id, best_place = tokens[joined][1], joined, place
        if best_place < 0:
            return found
        found[best_place : best_place + 2] = [best_id]


def run_c_decode(tokens: list[Token], token_ids: list[int]) -> str:
    """What `generate` of run.c prints of the tokens behind `<s>`."""
    printed, before = b"", 1
    for token_id in token_ids:
        piece = tokens[token_id][0]
        piece = piece[1:] if before == 1 and piece[:1] == b" " else piece
        printed += bytes([token_id - 3]) if 3 <= token_id < 259 else piece
        before = token_id
    return printed.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, list[Token]]:
    path = tmp_path_factory.mktemp("tokenizers") / "tok.bin"
    path.write_bytes(tokenizer_file(PIECES))
    return read_llama2c_tokenizer(path, 259 + len(PIECES)), tokens_of(path.read_bytes())


@given(text=st.text(st.sampled_from("there é天aa  \n\t🙂<s>\0x0")))
def test_the_ids_of_any_text_are_those_of_run_c(small: tuple[Tokenizer, list[Token]], text: str) -> None:
    tokenizer, tokens = small
    assert [*tokenizer.prefix_ids, *tokenizer.encode(text)] == run_c_encode(tokens, text)


@given(text=st.text(st.sampled_from("there é天aa  \n\t🙂<s>\0x0")))
def test_decoding_gives_the_text_that_run_c_prints(small: tuple[Tokenizer, list[Token]], text: str) -> None:
    tokenizer, tokens = small
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode(token_ids) == run_c_decode(tokens, token_ids) == text
    decoder = tokenizer.stream_decoder()
    assert "".join([*map(decoder.push, token_ids), decoder.finish()]) == text


@pytest.mark.slow
def test_a_saved_tokenizer_opens_in_transformers_and_begins_a_text_with_s(small: tuple[Tokenizer, list[Token]], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, _ = small
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("there is  天 here", "", " the\n"):
        assert theirs(text).input_ids == [1, *tokenizer.encode(text)]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)


def test_the_spelling_of_a_special_in_a_text_is_text(small: tuple[Tokenizer, list[Token]]) -> None:
    assert small[0].special_ids.isdisjoint(small[0].encode("a</s><s><unk>"))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tok.bin").write_bytes(tokenizer_file(PIECES))
    with pytest.raises(TokenizerError, match=f"has {259 + len(PIECES)} tokens, and the model 512"):
        read_llama2c_tokenizer(tmp_path / "tok.bin", 512)


# Real files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "vocab_size"), [("weights/stories260K/tok512.bin", 512), ("tokenizers/llama2/tokenizer.bin", 32000)], ids=["tok512", "llama2"]
)
def test_the_ids_of_real_text_are_those_of_run_c(test_data: Path, file: str, vocab_size: int) -> None:
    tokenizer, tokens = read_llama2c_tokenizer(test_data / file, vocab_size), tokens_of((test_data / file).read_bytes())
    texts = (test_data / "tokenizers/llama_cpp_vectors/llama-spm.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    texts += (test_data / "lm_text/tinyshakespeare.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:300]
    texts += ["a" + " " * n + "b" for n in range(40)] + ["\n" * n for n in range(20)] + ["x" * n for n in range(20)]
    assert "▁" not in "".join(texts)  # which SentencePiece reads as a space, and run.c does not
    for text in texts:
        assert [1, *tokenizer.encode(text)] == run_c_encode(tokens, text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_the_llama2_tokenizer_gives_the_ids_that_llama_cpp_publishes(test_data: Path) -> None:
    tokenizer = read_llama2c_tokenizer(test_data / "tokenizers/llama2/tokenizer.bin", 32000)
    vectors = test_data / "tokenizers/llama_cpp_vectors"
    *texts, rest = (vectors / "llama-spm.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (vectors / "llama-spm.out").read_text(encoding="utf-8").splitlines()
    assert (rest, len(texts)) == ("", len(lines))
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(token_id) for token_id in line.split()], text
