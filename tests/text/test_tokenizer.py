"""Text to ids and back; files as Hugging Face opens them."""

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import BPE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, byte_pieces, spm_bytes, write_folder
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from touchstone.errors import ModelFolderError, TokenizerError
from touchstone.text.tokenizer import Tokenizer

CORPUS = [
    "def f(x):\n    if x > 10:\n        return 'it''s'  # ünïcode 中文 😀\n\n\nclass A:\n\tpass\n" * 3,
    "The quick brown fox jumps over the lazy dog. Don't panic; 1234567 times!\n" * 3,
    Path(textwrap.__file__).read_text(encoding="utf-8"),
]
KINDS = {
    "code": {"kind": "bpe", "pattern": "code", "vocab_size": 400},
    "gpt2": {"kind": "bpe", "pattern": "gpt2", "vocab_size": 400},
    "unigram": {"kind": "unigram", "pattern": "code", "vocab_size": 340},
    "bytes": {"kind": "bytes"},
}
PIECES = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *byte_pieces(),
    *((text, -float(number), NORMAL) for number, text in enumerate(("▁", "a", "b", "é", "ab", "▁a", "▁ab", "中"))),
]
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=" \n\t\r\x0b\u3000aZ_0é中😀'<|>"),
    st.lists(st.sampled_from(["<|endoftext|>", "<|pad|>", "def f(x):", "\n", "    ", "Ġ", "\u200d", "e\u0301", "return"])).map("".join),
)


@pytest.fixture(scope="module")
def trained():
    return {name: Tokenizer.train(CORPUS, **settings) for name, settings in KINDS.items()}


@pytest.fixture(scope="module")
def wordpiece():
    return Tokenizer.train(CORPUS, kind="wordpiece", vocab_size=150, specials=("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=150)
@given(text=TEXTS)
def test_every_text_comes_back(trained, name, text):
    tokenizer = trained[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not tokenizer.special_ids & set(ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_stream_of_any_ids_joins_to_the_decoded_whole(trained, name, data):
    tokenizer = trained[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=30))
    for skip_special in (True, False):
        stream = tokenizer.stream_decoder(skip_special=skip_special)
        pieces = [stream.push(token_id) for token_id in ids]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids, skip_special=skip_special)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_stream_of_wordpieces_joins_to_the_decoded_whole(wordpiece, data):
    ids = data.draw(st.lists(st.integers(0, wordpiece.vocab_size - 1), max_size=20))
    stream = wordpiece.stream_decoder()
    assert "".join(stream.push(token_id) for token_id in ids) + stream.finish() == wordpiece.decode(ids)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Tokenizers from SentencePiece files of both kinds, with bytes for what has no piece."""
    root = tmp_path_factory.mktemp("pieces")
    return {
        algorithm: Tokenizer.load(
            write_folder(
                root / str(algorithm),
                {"tokenizer.model": spm_bytes(PIECES, algorithm=algorithm, byte_fallback=True, collapses_spaces=False)},
                model_type="llama",
            )
        )
        for algorithm in (UNIGRAM, BPE)
    }


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [UNIGRAM, BPE])
@settings(deadline=None, max_examples=150)
@given(text=TEXTS, data=st.data())
def test_pieces_spell_every_text_and_stream_to_the_decoded_whole(pieces, algorithm, text, data):
    tokenizer = pieces[algorithm]
    ids = tokenizer.encode(text.replace("▁", " "))
    assert tokenizer.decode(ids) == text.replace("▁", " ")
    assert not tokenizer.special_ids & set(ids)
    ids = data.draw(st.just(ids) | st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    stream = tokenizer.stream_decoder()
    assert "".join(stream.push(token_id) for token_id in ids) + stream.finish() == tokenizer.decode(ids)


def test_bytes_that_are_no_character_leave_those_beside_them_as_they_are(pieces):
    """Expected: what sentencepiece writes."""
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=spm_bytes(PIECES, algorithm=BPE, byte_fallback=True, collapses_spaces=False))
    for data in (b"\x00\x80", "é".encode() + b"\xe4\xb8", b"\xe4\xb8\xad\xff", b"\xf0\x9f\x98", b"\xc3a"):
        ids = [3 + byte for byte in data]
        assert pieces[BPE].decode(ids) == theirs.decode(ids)


@pytest.mark.slow
def test_a_stream_gives_no_part_of_a_character(trained):
    stream = trained["bytes"].stream_decoder()
    assert [stream.push(byte) for byte in "é😀!".encode()] == ["", "é", "", "", "", "😀", "!"]
    assert stream.push(0xF0) == ""
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("name", KINDS)
def test_a_special_token_in_a_text_is_text_unless_allowed(trained, name):
    tokenizer = trained[name]
    text = "a<|endoftext|>b"
    assert tokenizer.eos_id not in tokenizer.encode(text)
    assert tokenizer.eos_id not in tokenizer.encode_batch([text])[0]
    assert tokenizer.eos_id not in tokenizer.encode_offsets(text)[0]
    allowed = tokenizer.encode(text, allow_special=True)
    assert allowed == [*tokenizer.encode("a"), tokenizer.eos_id, *tokenizer.encode("b")]
    assert tokenizer.decode(allowed) == "ab"
    assert tokenizer.decode(allowed, skip_special=False) == text
    assert tokenizer.encode(text) != allowed


def test_roles_go_to_the_tokens_with_usual_names(trained, wordpiece):
    code = trained["code"]
    assert (code.bos_id, code.eos_id, code.pad_id, code.unk_id, code.mask_id) == (0, 0, 1, None, None)
    assert (code.cls_id, code.sep_id, wordpiece.cls_id, wordpiece.sep_id) == (None, None, wordpiece.bos_id, wordpiece.eos_id)
    assert code.special_ids == {0, 1}
    bert = wordpiece
    assert [bert.token_text(i) for i in (bert.bos_id, bert.eos_id, bert.pad_id, bert.unk_id, bert.mask_id)] == [
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
    ]


def test_bytes_are_their_own_ids(trained):
    tokenizer = trained["bytes"]
    assert tokenizer.vocab_size == 258
    assert tokenizer.encode("é\n") == [0xC3, 0xA9, 0x0A]
    assert (tokenizer.eos_id, tokenizer.pad_id) == (256, 257)


def test_newlines_and_indentation_have_borders_in_code(trained):
    """So a prompt that ends after a newline or an indentation is the beginning of what the model has seen."""
    tokenizer = trained["code"]
    whole = tokenizer.encode("def f(x):\n    return x\n\n        y")
    for prompt in ("def f(x):", "def f(x):\n", "def f(x):\n    ", "def f(x):\n    return x\n", "def f(x):\n    return x\n\n        "):
        ids = tokenizer.encode(prompt)
        assert whole[: len(ids)] == ids
    newline = tokenizer.encode("\n")
    assert len(newline) == 1
    assert all(b"\n" not in tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size) if i not in [*newline, *tokenizer.special_ids])


@pytest.mark.slow
@given(text=TEXTS)
@settings(deadline=None, max_examples=60)
def test_offsets_are_the_characters_a_token_spells(trained, text):
    tokenizer = trained["code"]
    ids, offsets = tokenizer.encode_offsets(text)
    assert ids == tokenizer.encode(text)
    assert len(offsets) == len(ids)
    for token_id, (start, end) in zip(ids, offsets, strict=True):
        assert 0 <= start < end <= len(text)
        assert tokenizer.token_bytes(token_id) in text[start:end].encode()


def test_a_batch_is_encoded_as_its_texts(trained):
    for tokenizer in trained.values():
        assert tokenizer.encode_batch(CORPUS) == [tokenizer.encode(text) for text in CORPUS]


@pytest.mark.parametrize(
    ("text", "reason"), [("a\ud800b", "character 1 is half of a surrogate pair"), (b"x", "must be a str, this is a bytes")]
)
def test_what_is_no_text_is_refused(trained, text, reason):
    for encode in (trained["code"].encode, trained["code"].encode_offsets, lambda text: trained["code"].encode_batch(["fine", text])):
        with pytest.raises(TokenizerError, match=reason):
            encode(text)


def test_an_id_without_a_token_has_no_text(trained):
    tokenizer = trained["code"]
    assert tokenizer.decode([10_000, *tokenizer.encode("x"), -1]) == "x"
    assert (tokenizer.token_bytes(10_000), tokenizer.token_text(10_000)) == (b"", "")


def test_a_saved_tokenizer_loads_equal_and_saves_the_same_bytes(trained, wordpiece, tmp_path):
    for number, tokenizer in enumerate([*trained.values(), wordpiece]):
        first, second = tmp_path / f"{number}a", tmp_path / f"{number}b"
        first.mkdir()
        second.mkdir()
        tokenizer.save(first)
        loaded = Tokenizer.load(first)
        loaded.save(second)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
        roles = ("bos_id", "eos_id", "pad_id", "unk_id", "mask_id", "vocab_size", "special_ids")
        assert [getattr(loaded, role) for role in roles] == [getattr(tokenizer, role) for role in roles]
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_opens_the_folder_with_equal_ids(trained, wordpiece, tmp_path):
    transformers = pytest.importorskip("transformers")
    text = CORPUS[0] + CORPUS[1] + "  \n\n\n   trailing   \r\n\x0b é中😀"
    for name, tokenizer in {**trained, "wordpiece": wordpiece}.items():
        (tmp_path / name).mkdir()
        tokenizer.save(tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text), skip_special_tokens=True) == tokenizer.decode(tokenizer.encode(text))
        assert len(theirs) == tokenizer.vocab_size
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        assert transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / name).encode(
            "<|endoftext|>", add_special_tokens=False
        ) == tokenizer.encode("<|endoftext|>", allow_special=True)


@pytest.mark.slow
def test_gpt2_ids_equal_published_ones(test_data):
    """Vectors of llama.cpp; the vocabulary and merges are OpenAI's."""
    folder = test_data / "tokenizers"
    vocab = json.loads((folder / "gpt2/encoder.json").read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ")) for line in (folder / "gpt2/vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]]
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend.to_str(), {})
    texts = (
        (folder / "llama_cpp_vectors/gpt-2.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")[:-1]
    )  # the last mark ends the file
    expected = [[int(word) for word in line.split()] for line in (folder / "llama_cpp_vectors/gpt-2.out").read_text().splitlines()]
    assert len(texts) == len(expected) > 40
    assert tokenizer.encode_batch(texts) == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts
    assert tokenizer.eos_id == 50256  # no file names it; it has the usual name


def write(folder, value, name="tokenizer.json"):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_files_that_are_no_tokenizer_are_refused(trained, tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    for content in ("{", "[]", '{"version": "1.0"}', '{"a": 1, "a": 2}'):
        write(tmp_path, content)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)


def test_two_tokens_with_one_id_are_refused(trained, tmp_path):
    data = json.loads(trained["code"]._json)
    data["model"]["vocab"]["another"] = 7
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match="gives one id to two tokens"):
        Tokenizer.load(tmp_path)


def test_an_added_token_with_an_id_that_another_has_is_refused(trained, tmp_path):
    data = json.loads(trained["code"]._json)
    data["added_tokens"].append({**data["added_tokens"][0], "content": "<more>", "id": 7})
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match=r"adds 1 tokens with ids that others have or that leave a gap: `<more>` \(id 7\)"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_without_tokens_is_refused(trained, tmp_path):
    write(tmp_path, {**json.loads(trained["bytes"]._json), "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    with pytest.raises(TokenizerError, match="no token at all"):
        Tokenizer.load(tmp_path)


def test_more_ids_than_rows_are_refused_before_the_vocabulary_is_built(trained, tmp_path, monkeypatch):
    trained["code"].save(tmp_path)
    assert Tokenizer.load(tmp_path, n_rows=trained["code"].vocab_size).vocab_size == trained["code"].vocab_size
    monkeypatch.setattr("touchstone.text.tokenizer.Backend", None)
    with pytest.raises(ModelFolderError, match=f"has ids up to {trained['code'].vocab_size - 1}, and the model has 9 rows"):
        Tokenizer.load(tmp_path, n_rows=9)


@pytest.mark.slow
def test_a_pattern_that_runs_for_ever_ends_in_an_error(trained, tmp_path, capfd):
    data = json.loads(trained["code"]._json)
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "(a+)+b"}
    write(tmp_path, data)
    with pytest.raises(TokenizerError, match="the tokenizer gives up on this text"):
        Tokenizer.load(tmp_path).encode("a" * 40)


def test_padding_and_truncation_of_the_file_are_not_applied(trained, tmp_path):
    backend = Backend.from_str(trained["code"]._json)
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    write(tmp_path, backend.to_str())
    assert Tokenizer.load(tmp_path).encode(CORPUS[0]) == trained["code"].encode(CORPUS[0])


@pytest.mark.parametrize("token", ["<|pad|>", {"content": "<|pad|>", "special": True, "lstrip": False}])
def test_roles_are_read_from_either_file_in_either_form(trained, tmp_path, token):
    write(tmp_path, trained["code"]._json)
    write(tmp_path, {"eos_token": token, "bos_token": None}, "special_tokens_map.json")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos_id, loaded.bos_id, loaded.pad_id) == (1, None, None)
    write(tmp_path, {"eos_token": "<|endoftext|>"}, "tokenizer_config.json")
    assert Tokenizer.load(tmp_path).eos_id == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "specials", "vocab_size"),
    [("wordpiece", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), 30), ("bpe", ("<s>", "<pad>", "</s>", "<mask>"), 263)],
)
def test_transformers_makes_the_token_types_of_a_trained_vocabulary(tmp_path, kind, specials, vocab_size):
    """Its generic class makes none unless the folder says so, and a model trained on pairs would read other input there."""
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.train([f"{number} a cat sat" for number in range(30)], kind=kind, vocab_size=vocab_size, specials=specials)
    tokenizer.save(tmp_path)
    ours, theirs = tokenizer.encode_special("a cat", "sat"), AutoTokenizer.from_pretrained(tmp_path)("a cat", "sat")
    assert theirs["input_ids"] == list(ours.token_ids)
    assert theirs.get("token_type_ids", [0] * len(ours.token_ids)) == list(ours.token_types)
    assert any(ours.token_types) == (kind == "wordpiece")
