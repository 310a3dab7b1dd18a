"""Corpora that need no download."""

import ast
import warnings

import pytest

from touchstone.errors import DataError, UnknownName
from touchstone.text.corpora import corpus, python_library


@pytest.fixture
def library(tmp_path):
    root = tmp_path / "lib"
    files = {
        "abc.py": "kept = 1\n",
        "json/__init__.py": "kept = 2\r\n",
        "unittest/case.py": "kept = 3\n",
        "encodings/aliases.py": "kept = 4\n",
        "empty.py": "\n",
        "latin.py": "# -*- coding: latin-1 -*-\nx = 'é'\n",
        "test/test_x.py": "no",
        "json/tests/t.py": "no",
        "idlelib/idle_test/t.py": "no",
        "site-packages/p.py": "no",
        "ensurepip/_bundled/p.py": "no",
        "pydoc_data/topics.py": "no",
        "stringprep.py": "no",
        "html/entities.py": "no",
        "_sysconfigdata__linux_x86_64.py": "no",
        "config-3.11-x86_64/python-config.py": "no",
        "encodings/cp437.py": '""" generated with gencodec.py"""\n',
        "encodings/big5.py": "import _codecs_tw, codecs\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("latin-1"))
    (tmp_path / "outside.py").write_text("no")
    (root / "linked.py").symlink_to(tmp_path / "outside.py")
    return root


def test_hand_written_sources_are_kept_in_order_and_the_rest_is_not(library):
    documents = list(python_library(library))
    assert [document.source for document in documents] == [
        "abc.py",
        "encodings/aliases.py",
        "json/__init__.py",
        "latin.py",
        "unittest/case.py",
    ]
    assert documents[2].text == "kept = 2\n"
    assert "é" in documents[3].text


def test_an_interpreter_without_source_says_so(tmp_path):
    with pytest.raises(DataError, match="no source of its standard library"):
        list(python_library(tmp_path))


def test_an_unknown_corpus_gets_the_names_there_are():
    with pytest.raises(UnknownName, match="Did you mean `python`"):
        corpus("pyhton")


@pytest.mark.slow
def test_this_interpreter_has_megabytes_of_python():
    documents = list(corpus("python"))
    assert sum(document.n_bytes for document in documents) > 5_000_000
    assert len({document.source for document in documents}) == len(documents) > 300
    folders = {part for document in documents for part in document.source.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "pydoc_data", "__pycache__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library itself
        for document in documents[::40]:
            ast.parse(document.text)


@pytest.mark.slow
def test_no_table_of_codecs_is_left():
    tables = [
        document.source for document in corpus("python") if document.source.startswith("encodings/") and "decoding_table" in document.text
    ]
    assert not tables
