"""Bytes of files to text: decompression, decoding, line ends, and what is refused."""

import bz2
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.text import stream
from touchstone.text.stream import Notes, byte_chunks, lines, text_chunks

zstandard = pytest.importorskip("zstandard")

TEXT = "one\ntwo ünïcode 中文 😀\n\nlast without an end"


def joined(path, notes=None):
    return "".join(text_chunks(path, notes or Notes()))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)],
)
def test_a_packed_file_reads_as_the_plain_one(tmp_path, suffix, pack):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack(TEXT.encode()))
    assert joined(path) == TEXT


def test_all_frames_of_a_zst_file_are_read(tmp_path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"first ") + zstandard.compress(b"") + zstandard.compress(b"second"))
    assert b"".join(byte_chunks(path)) == b"first second"


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)],
)
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_archive_is_named(tmp_path, suffix, pack, damage):
    whole = pack(bytes(range(256)) * 50)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"no archive at all")
    with pytest.raises(DataError, match=rf"a\.txt\{suffix}: broken \{suffix} file"):
        list(byte_chunks(path))


@pytest.mark.slow
@given(pieces=st.lists(st.sampled_from(["a", "\r", "\n", "\r\n", "é", "中", "😀"]), max_size=40), size=st.integers(1, 7))
def test_line_ends_do_not_depend_on_where_chunks_end(tmp_path_factory, pieces, size):
    text = "".join(pieces)
    path = tmp_path_factory.mktemp("chunks") / "a.txt"
    path.write_bytes(text.encode())
    patch = pytest.MonkeyPatch()
    patch.setattr(stream, "_CHUNK_BYTES", size)
    try:
        notes = Notes()
        assert joined(path, notes) == text.replace("\r\n", "\n")
        assert notes.has_crlf == ("\r\n" in text)
    finally:
        patch.undo()


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfx\xef\xbb\xbf")
    notes = Notes()
    assert joined(path, notes) == "x\ufeff"
    assert notes == Notes(has_bom=True, has_crlf=False)


@pytest.mark.parametrize("n_before", [0, 3, 2000])
def test_invalid_utf8_is_placed_by_line(tmp_path, monkeypatch, n_before):
    monkeypatch.setattr(stream, "_CHUNK_BYTES", 64)
    path = tmp_path / "a.txt"
    path.write_bytes("é\n".encode() * n_before + b"caf\xe9 au lait\n")
    with pytest.raises(DataError, match=rf"a\.txt:{n_before + 1}: not valid UTF-8 \(bytes e9 20 61 75"):
        joined(path)


def test_utf8_that_ends_inside_a_character_is_invalid(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ok\n\xe4\xb8")
    with pytest.raises(DataError, match=r"a\.txt:2: not valid UTF-8"):
        joined(path)


def test_a_zero_byte_means_a_binary_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"text\nmore\0text")
    with pytest.raises(DataError, match=r"a\.txt:2: a zero byte"):
        joined(path)


def test_utf16_is_named_with_its_conversion(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello", encoding="utf-16")
    with pytest.raises(DataError, match="iconv -f UTF-16"):
        joined(path)


def test_only_line_feeds_end_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a\u2028b\x0bc\r\nd\n\ne".encode())
    assert list(lines(path, Notes())) == [(1, "a\u2028b\x0bc"), (2, "d"), (3, ""), (4, "e")]


def test_an_endless_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "MAX_LINE_CHARS", 100)
    path = tmp_path / "a.jsonl"
    path.write_text("x\n" + "y" * 101)
    with pytest.raises(DataError, match=r"a\.jsonl:2: a row of more than 100 characters"):
        list(lines(path, Notes()))
