"""Single files: what a crash leaves, what JSON refuses, what is opened and what hashes say."""

import hashlib
import json
import os

import pytest

from touchstone import files
from touchstone.errors import DataError, ModelFolderError

BEFORE, AFTER = b"what was there before", b"what comes after, of another length"


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_crash_at_any_effect_of_a_write_leaves_the_old_bytes_or_the_new(tmp_path, every_crash, torn, error):
    def save(k):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "note.txt").write_bytes(BEFORE)
        files.write_bytes(tmp_path / str(k) / "note.txt", AFTER)

    seen = []
    for k, crashed in every_crash(save, torn=torn, error=error):
        found = (tmp_path / str(k) / "note.txt").read_bytes()
        seen.append(found)
        assert found in (BEFORE, AFTER)
        assert crashed or found == AFTER
        assert [path.name for path in (tmp_path / str(k)).iterdir()] == ["note.txt"]
    assert seen.count(BEFORE) == 3  # write, fsync and replace of the file fail; the fsync of the folder comes after
    assert seen.count(AFTER) == 2


@pytest.mark.slow
def test_a_process_that_ends_at_any_effect_of_a_write_leaves_a_whole_file(tmp_path, dies_at):
    for k in range(4):
        path = tmp_path / f"{k}.txt"
        path.write_bytes(BEFORE)
        assert dies_at(k, lambda path=path: files.write_bytes(path, AFTER))
        assert path.read_bytes() == (AFTER if k == 3 else BEFORE)
        files.write_bytes(path, AFTER)  # a later process is not hindered by what the dead one left
        assert path.read_bytes() == AFTER
    assert not dies_at(4, lambda: files.write_bytes(path, BEFORE))


def test_many_small_writes_by_the_system_add_up_to_the_whole_file(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    files.write_bytes(tmp_path / "a", AFTER)
    assert (tmp_path / "a").read_bytes() == AFTER


def test_text_is_written_as_utf8_with_its_own_line_ends(tmp_path):
    files.write_text(tmp_path / "a.txt", "试\r\n金\n")
    assert (tmp_path / "a.txt").read_bytes() == "试\r\n金\n".encode()


def test_json_comes_back_with_its_key_order(tmp_path):
    data = {"z": [1, 2.5, None, True], "a": {"文": "字", "half": "\ud800"}}
    files.write_json(tmp_path / "a.json", data)
    found = files.read_json(tmp_path / "a.json")
    assert found == data
    assert list(found) == ["z", "a"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1, 2}, object()])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path, bad):
    files.write_json(tmp_path / "a.json", {"ok": 1})
    with pytest.raises(DataError, match=r"a.json"):
        files.write_json(tmp_path / "a.json", {"bad": bad})
    assert files.read_json(tmp_path / "a.json") == {"ok": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate key `a`"),
        (b'{"x": {"deep": 1, "deep": 1}}', "duplicate key `deep`"),
        (b"{", "not readable as JSON"),
        (b'{"a": "\xff"}', "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b"1" * 10_000, "not readable as JSON"),
        (b'{"a": NaN}', "`NaN` is no number of JSON"),
        (b'{"a": [-Infinity]}', "`-Infinity` is no number of JSON"),
        ('{"a": 1}'.encode("utf-16"), "save the file as UTF-8"),
        (b'{"\\u001b[2J": 1, "\\u001b[2J": 2}', r"duplicate key `\\x1b\[2J`"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (b"[" + b" " * 2000 + b"]", "at most 1000 bytes"),
    ],
)
def test_json_that_is_not_to_be_trusted_is_one_error_that_names_the_file(tmp_path, content, says):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    limit = 1000 if "at most" in says else 1 << 20
    with pytest.raises(ModelFolderError, match=f"settings.json.*{says}"):
        files.read_json(path, max_bytes=limit)


def test_a_caller_chooses_the_kind_of_error_for_a_json_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.json: no such file"):
        files.read_json(tmp_path / "none.json", error=DataError)


def test_a_fifo_a_folder_and_a_link_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("pipe", "folder"):
        with pytest.raises(ModelFolderError, match="regular file"):
            files.open_regular(tmp_path / name)
    for name in ("link", "circle"):
        with pytest.raises(ModelFolderError, match="symbolic link"):
            files.open_regular(tmp_path / name)
    with pytest.raises(ModelFolderError, match="cannot be opened"):
        files.open_regular(tmp_path / "zero\0byte")
    with pytest.raises(ModelFolderError, match="cannot be opened: File name too long"):
        files.open_regular(tmp_path / ("n" * 5000))


def test_a_link_into_the_blobs_of_its_own_cache_entry_is_followed_and_no_other(tmp_path):
    entry, other = tmp_path / "models--us--small", tmp_path / "models--them--big"
    for folder in (entry, other):
        (folder / "blobs").mkdir(parents=True)
        (folder / "blobs" / "abc").write_text("{}")
        (folder / "snapshots" / "rev" / "sub").mkdir(parents=True)
    good = entry / "snapshots" / "rev" / "config.json"
    good.symlink_to("../../blobs/abc")
    assert files.read_json(good) == {}
    deeper = entry / "snapshots" / "rev" / "sub" / "config.json"
    deeper.symlink_to("../../../blobs/abc")
    assert files.read_json(deeper) == {}
    bad = entry / "snapshots" / "rev" / "bad.json"
    bad.symlink_to(other / "blobs" / "abc")
    with pytest.raises(ModelFolderError, match="own Hugging Face cache entry"):
        files.read_json(bad)
    (entry / "blobs").rename(tmp_path / "elsewhere")
    (entry / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFolderError, match="own Hugging Face cache entry"):
        files.read_json(good)


def test_hashes_are_those_of_the_standard(tmp_path):
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_bytes(b"abc") == files.sha256_file(tmp_path / "abc") == expected


def test_the_hash_of_data_ignores_key_order_and_nothing_else():
    assert files.hash_of({"a": 1, "b": [1, 2]}) == files.hash_of({"b": [1, 2], "a": 1})
    assert files.hash_of({"a": 1, "b": [2, 1]}) != files.hash_of({"a": 1, "b": [1, 2]})
    assert files.hash_of(1) != files.hash_of("1")
    assert files.hash_of({"a": "字"}) == hashlib.sha256(json.dumps({"a": "字"}, separators=(",", ":")).encode()).hexdigest()
