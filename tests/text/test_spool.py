"""Documents in one file."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.text.document import Document
from touchstone.text.spool import DocumentWriter, read_spool

DOCUMENT = st.builds(
    Document,
    text=st.text(),
    source=st.text(),
    line=st.none() | st.integers(1, 10**9),
    fields=st.none() | st.dictionaries(st.text(), st.integers() | st.text()),
)


@pytest.mark.slow
@given(documents=st.lists(DOCUMENT, max_size=5))
def test_documents_come_back_equal_and_in_order(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("spool") / "a.documents"
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    assert list(read_spool(path)) == documents


def test_what_json_cannot_hold_is_kept_as_text(tmp_path):
    with DocumentWriter(tmp_path / "a") as writer:
        writer.write(Document("x", "y", None, {"day": datetime.date(2024, 5, 6)}))
    assert next(read_spool(tmp_path / "a")).fields == {"day": "2024-05-06"}


def test_a_file_that_was_cut_short_is_named(tmp_path):
    path = tmp_path / "a.documents"
    with DocumentWriter(path) as writer:
        writer.write(Document("text é", "y"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.documents: damaged"):
        list(read_spool(path))
    path.write_bytes(b"[not json\n")
    with pytest.raises(DataError, match="damaged"):
        list(read_spool(path))
