"""Bad text: one clear line that says what, where and what to do; and what looks odd but is normal."""

import gzip
import json
import random

import pytest

from touchstone.errors import DataError, TokenizerError, TouchstoneError
from touchstone.text.prepare import DataConfig, TokenizerConfig, prepare
from touchstone.text.tokenizer import Tokenizer

BYTES = TokenizerConfig(kind="bytes")


def words(n, seed=0):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghijklm", k=rng.randint(2, 8))) for _ in range(n))


def refusal(folder, path, tokenizer=BYTES, **settings):
    """The message of the one error, after checking that nothing is left in the cache and what was there before still is."""
    good = folder / "good.txt"
    good.write_text(words(2000, 77))
    cache = folder / "cache"
    before = prepare(DataConfig(sources=(str(good),)), BYTES, cache)
    with pytest.raises(TouchstoneError) as caught:
        prepare(DataConfig(sources=(str(path),), **settings), tokenizer, cache)
    assert caught.value.exit_code != 0
    message = str(caught.value)
    assert "\n" not in message
    assert [entry.name for entry in (cache / "prepared").iterdir()] == [before.fingerprint]
    assert prepare(DataConfig(sources=(str(good),)), BYTES, cache).train.fingerprint == before.train.fingerprint
    return message


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    message = refusal(tmp_path, path)
    assert "empty.txt: no text to read" in message
    assert "empty.txt (empty)" in message


def test_invalid_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("first line\nun café\n".encode("latin-1"))
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}:2: not valid UTF-8 (bytes e9 0a")
    assert "iconv" in message


def test_a_binary_file(tmp_path):
    path = tmp_path / "program.txt"
    path.write_bytes(b"\x7fELF\x02\x01\x01\0\0\0")
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}:1: a zero byte: this is a binary file")
    assert "leave it out" in message


@pytest.mark.parametrize("damage", ["cut short", "not gzip", "checksum"])
def test_a_broken_gz(tmp_path, damage):
    packed = gzip.compress(words(5000).encode())
    path = tmp_path / "texts.txt.gz"
    path.write_bytes({"cut short": packed[:-20], "not gzip": b"plain", "checksum": packed[:-8] + b"\0" * 8}[damage])
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}: broken .gz file")
    assert "download it again" in message


def test_a_row_without_the_text_field(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps({"txt": "no", "id": 3}) + "\n")
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}:2: no field `text`; fields: `txt`, `id`; did you mean `txt`?")
    assert "`text_field`" in message


def test_a_row_that_is_not_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "open\n')
    message = refusal(tmp_path, path)
    assert message.startswith(f"{path}:2: not JSON")
    assert '{"text": "…"}' in message


def test_a_folder_with_nothing_readable(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.docx", ".hidden.txt"):
        (folder / name).write_bytes(b"x")
    message = refusal(tmp_path, folder)
    assert message.startswith(f"{folder}: no text to read")
    for seen in ("a.png (suffix `.png` is not known)", "b.docx", ".hidden.txt (hidden)", ".jsonl"):
        assert seen in message


def test_an_empty_folder(tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "seen: no files" in refusal(tmp_path, tmp_path / "nothing")


def test_a_path_that_is_not_there(tmp_path):
    assert "nowhere: no such file or folder" in refusal(tmp_path, tmp_path / "nowhere")


def test_too_little_text_to_split(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("hello world\n" * 20)
    message = refusal(tmp_path, path)
    assert message.startswith("too little text to split: 240 characters, at least 3072 are needed")
    assert "give more text" in message


def test_text_that_only_repeats_itself_cannot_be_split(tmp_path):
    path = tmp_path / "repeated.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 500)
    message = refusal(tmp_path, path)
    assert "in 1 groups of near-copies, 3 groups are needed" in message


@pytest.mark.slow
def test_a_vocabulary_larger_than_the_data_supports(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(words(2000))
    message = refusal(tmp_path, path, TokenizerConfig(vocab_size=50_000))
    assert message.startswith("`vocab_size` (50000) is larger than this text supports; the largest possible is ")
    largest = int(message.split("possible is ")[1].split(",")[0])
    data = DataConfig(sources=(str(path),))
    assert prepare(data, TokenizerConfig(vocab_size=largest), tmp_path / "cache").tokenizer.vocab_size == largest


def test_a_file_that_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_damaged_cache_is_made_again(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(words(2000))
    data = DataConfig(sources=(str(path),))
    first = prepare(data, BYTES, tmp_path / "cache")
    tokens = first.folder / "train/tokens-00000.bin"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-2])
    again = prepare(data, BYTES, tmp_path / "cache")
    assert (again.folder / "train/tokens-00000.bin").read_bytes() == whole


def test_a_byte_order_mark_crlf_and_one_long_line_are_normal(tmp_path):
    text = words(3000)
    (tmp_path / "plain").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "plain/a.txt").write_bytes((text + "\nlast\n").encode())
    (tmp_path / "odd/a.txt").write_bytes(b"\xef\xbb\xbf" + (text + "\r\nlast\r\n").encode())
    plain, odd = (prepare(DataConfig(sources=(str(tmp_path / name),)), BYTES, tmp_path / "cache") for name in ("plain", "odd"))
    assert [document.text for document in odd.train_documents()] == [document.text for document in plain.train_documents()]
    assert odd.train.fingerprint == plain.train.fingerprint
    assert (odd.report.n_bom, odd.report.n_crlf) == (1, 1)
    assert (plain.report.n_bom, plain.report.n_crlf) == (0, 0)
    assert odd.report.n_documents["train"] > 10


@pytest.mark.slow
def test_the_message_is_the_same_kind_of_error_for_every_reader(tmp_path):
    for name, content in [("a.csv", b"text\n\xff"), ("a.md", b"\0"), ("a.html", b"\xff"), ("a.xml", b"<a>"), ("a.parquet", b"x")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            prepare(DataConfig(sources=(str(tmp_path / name),)), BYTES, tmp_path / "cache")
