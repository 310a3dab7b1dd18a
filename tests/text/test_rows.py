"""Rows of jsonl, csv, tsv and parquet."""

import json

import pytest

from touchstone.errors import DataError
from touchstone.text.rows import Row, read_csv, read_jsonl, read_parquet, text_of
from touchstone.text.stream import Notes


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_jsonl_rows_know_their_lines_and_blank_lines_are_normal(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "one\\ntwo"}\n\n  \r\n{"text": "ü", "n": 3}')
    assert list(read_jsonl(path, Notes())) == [Row({"text": "one\ntwo"}, 1), Row({"text": "ü", "n": 3}, 4)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": ', "not JSON"),
        ("plain text", "not JSON"),
        ("[1, 2]", "a JSON value that is a list"),
        ('"text"', "a JSON value that is text"),
        ("null", "a JSON value that is null"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, reason):
    path = write(tmp_path, "a.jsonl", '{"text": "x"}\n' + line)
    with pytest.raises(DataError, match=rf"a\.jsonl:2: {reason}"):
        list(read_jsonl(path, Notes()))


def test_csv_fields_may_hold_commas_quotes_and_line_ends(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text\r\n1,"a, ""b""\r\nc"\r\n2,d\r\n')
    assert list(read_csv(path, Notes())) == [Row({"id": "1", "text": 'a, "b"\nc'}, 2), Row({"id": "2", "text": "d"}, 4)]


def test_csv_fields_may_be_longer_than_the_library_allows_by_itself(tmp_path):
    path = write(tmp_path, "a.csv", "text\n" + "x" * 200_000 + "\n")
    assert [len(row.fields["text"]) for row in read_csv(path, Notes())] == [200_000]


def test_a_csv_row_with_another_number_of_fields_is_named(tmp_path):
    path = write(tmp_path, "a.csv", "id,text\n1,a\n2,b,c\n")
    with pytest.raises(DataError, match=r"a\.csv:3: 3 fields under a header of 2"):
        list(read_csv(path, Notes()))


def test_an_open_quote_is_named_by_the_line_it_opens_on(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text\n1,a\n2,"b\n3,c\n')
    with pytest.raises(DataError, match=r"a\.csv:3: not readable"):
        list(read_csv(path, Notes()))


def test_a_header_that_repeats_a_name_is_refused(tmp_path):
    with pytest.raises(DataError, match="the header repeats `text`"):
        list(read_csv(write(tmp_path, "a.tsv", "text\ttext\n1\t2\n"), Notes(), "\t"))


def test_parquet_rows_keep_their_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"row {number}", "label": number} for number in range(2500)]  # more than one batch
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = list(read_parquet(tmp_path / "a.parquet"))
    assert [row.fields for row in read] == rows
    assert [row.line for row in read] == list(range(1, 2501))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"a\.parquet: not readable as parquet"):
        list(read_parquet(write(tmp_path, "a.parquet", "PAR1 nothing PAR1")))


def test_a_missing_field_gets_the_nearest_name_and_all_names(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl:7: no field `text`; fields: `Text`, `id`; did you mean `Text`\?"):
        text_of(Row({"Text": "x", "id": 1}, 7), "text", tmp_path / "a.jsonl")


@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (3, "a number"), (["a"], "a list"), (True, "a boolean")])
def test_a_field_that_is_no_text_is_named_by_its_type(tmp_path, value, kind):
    with pytest.raises(DataError, match=f"field `text` is {kind}, not text"):
        text_of(Row({"text": value}, 1), "text", tmp_path / "a.jsonl")


def test_half_a_surrogate_pair_is_no_character(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "\ud83d"}))
    with pytest.raises(DataError, match=r"a\.jsonl:1: field `text` holds half of a surrogate pair"):
        text_of(next(read_jsonl(path, Notes())), "text", path)
