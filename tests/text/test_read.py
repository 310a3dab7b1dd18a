"""Files and folders to documents."""

import gzip
import json
import os

import pytest

from touchstone.errors import DataError
from touchstone.text import cuts, read
from touchstone.text.document import Document
from touchstone.text.read import ReadReport, read_documents


@pytest.fixture
def folder(tmp_path):
    files = {
        "b.txt": "bee\r\n",
        "a/z.md": "# Zed\n\n**bold**\n",
        "a/c.html": "<p>see <b>it</b></p>",
        "a.py": "x = 1\n",
        "rows.jsonl": '{"text": "first", "label": 3}\n{"text": "   "}\n{"text": "second"}\n',
        "rows.csv": "text,label\nthird,1\n",
        "rows.tsv": "label\ttext\n2\tfourth\n",
        "wiki.xml": "<mediawiki><page><title>T</title><ns>0</ns><text>'''fifth'''</text></page></mediawiki>",
        "empty.txt": "",
        "picture.png": "x",
        "settings.json": "{}",
        ".git/config": "x",
        ".hidden.txt": "x",
        "LICENSE": "x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfzipped"))
    return tmp_path


def test_a_folder_is_read_in_sorted_order_each_format_in_its_way(folder):
    documents = [(os.path.relpath(d.source, folder), d.line, d.text, d.fields) for d in read_documents([folder])]
    assert documents == [
        ("a/c.html", None, "see it\n", None),
        ("a/z.md", None, "Zed\n\nbold\n", None),
        ("a.py", 1, "x = 1\n", None),
        ("b.txt", 1, "bee\n", None),
        ("b.txt.gz", 1, "zipped", None),
        ("rows.csv", 2, "third", {"label": "1"}),
        ("rows.jsonl", 1, "first", {"label": 3}),
        ("rows.jsonl", 3, "second", None),
        ("rows.tsv", 2, "fourth", {"label": "2"}),
        ("wiki.xml", 1, "fifth", {"title": "T"}),
    ]


def test_the_report_counts_and_lists_what_was_left_out(folder):
    report = ReadReport()
    documents = list(read_documents([folder], report=report))
    assert (report.n_files, report.n_documents, report.n_bom, report.n_crlf, report.n_empty) == (9, 10, 1, 1, 1)
    assert report.n_bytes == sum(len(document.text.encode()) for document in documents)
    assert sorted((os.path.relpath(path, folder), reason) for path, reason in report.skipped) == [
        (".git", "hidden"),
        (".hidden.txt", "hidden"),
        ("LICENSE", "it has no suffix"),
        ("empty.txt", "empty"),
        ("picture.png", "suffix `.png` is not known"),
        ("settings.json", "a .json file is not text: write one object a line and name it .jsonl"),
    ]


def test_a_file_given_twice_is_read_once(folder):
    report = ReadReport()
    assert len(list(read_documents([folder / "a.py", folder / "a", folder / "a.py"], report=report))) == 3
    assert any("the same file" in reason for _, reason in report.skipped)


def test_another_field_holds_the_text_when_asked(folder):
    documents = list(read_documents([folder / "rows.csv"], text_field="label"))
    assert documents == [Document("1", str(folder / "rows.csv"), 2, {"text": "third"})]


def test_links_to_folders_and_other_than_regular_files_are_skipped_with_the_reason(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("a")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "data/pipe.txt")
    report = ReadReport()
    assert [document.text for document in read_documents([tmp_path / "data"], report=report)] == ["a"]
    assert sorted(reason for _, reason in report.skipped) == ["a link to a folder", "a link to nothing", "not a regular file"]


def test_a_missing_path_is_an_error_before_anything_is_read(folder):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        read_documents([folder, folder / "nowhere"])


def test_a_file_that_is_named_itself_must_be_readable(folder):
    with pytest.raises(DataError, match=r"picture\.png: suffix `\.png` is not known; text is read from \.txt"):
        read_documents([folder / "picture.png"])


def test_a_long_text_comes_in_pieces_that_join_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "cut_stream", lambda chunks: cuts.cut_stream(chunks, 50))
    text = "\n\n".join(f"paragraph {number}\nwith two lines" for number in range(20))
    (tmp_path / "a.txt").write_text(text)
    documents = list(read_documents([tmp_path]))
    assert len(documents) > 10
    assert "".join(document.text for document in documents) == text
    lines = text.split("\n")
    assert all(lines[document.line - 1] == document.text.split("\n")[0] for document in documents)


def test_real_web_text_is_read_from_packed_rows(test_data):
    documents = list(read_documents([test_data / "lm_text/c4_demo.jsonl.gz"]))
    assert len(documents) == 300  # SOURCES.md
    with gzip.open(test_data / "lm_text/c4_demo.jsonl.gz") as file:
        assert documents[7].line == 8
        assert documents[7].text[:40] in json.loads(file.readlines()[7])["text"]
