"""Rows with labels and pairs of texts."""

import itertools
import json

import pytest

from touchstone.errors import DataError
from touchstone.text import labelled
from touchstone.text.labelled import label_names, read_labelled, read_pairs
from touchstone.text.read import ReadReport


@pytest.fixture
def write(written):
    return lambda name, text: written(text, name)


def test_the_same_rows_are_read_from_every_format(write):
    rows = [("good, very", "pos"), ("bad", "neg")]
    files = [
        write("a.jsonl", "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)),
        write("a.csv", 'text,label\n"good, very",pos\nbad,neg\n'),
        write("a.tsv.gz", "label\ttext\npos\tgood, very\nneg\tbad\n"),
    ]
    for path in files:
        assert [(row.text, row.label) for row in read_labelled([path])] == rows
    assert [row.place for row in read_labelled([files[1]])] == [f"{files[1]}:2", f"{files[1]}:3"]


def test_files_without_a_header_get_the_names_of_their_columns(write):
    path = write("a.tsv", 'a "quoted word\t1\nplain\t0\n')
    found = read_labelled([path], columns=("text", "label"))
    assert [(row.text, row.label) for row in found] == [('a "quoted word', "1"), ("plain", "0")]
    with pytest.raises(DataError, match=r"a\.tsv:1: 2 fields under a header of 3; name every field in `columns`"):
        read_labelled([path], columns=("text", "label", "more"))


def test_pairs_of_texts_have_a_second_one(write):
    path = write("a.jsonl", json.dumps({"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}))
    found = read_labelled([path], text_field="premise", second_field="hypothesis")
    assert (found[0].text, found[0].second, found[0].label) == ("It rains.", "It is wet.", "0")


def test_rows_without_text_are_left_out_and_counted(write):
    report = ReadReport()
    path = write("a.csv", "text,label\n  ,x\nok,y\n")
    assert [row.label for row in read_labelled([path], report=report)] == ["y"]
    assert report.n_rows == {"no text": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "lable": "x"}', r"a\.jsonl:1: no field `label`; .*did you mean `lable`\? Set `label_field`"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": null}', r"a\.jsonl:2: the label in `label` is None"),
        ('{"text": "a", "label": 0.5}', r"the label in `label` is 0\.5; it must be a name or a whole number"),
        ('{"text": "a", "label": true}', r"the label in `label` is True"),
        ('{"text": "a", "label": " "}', r"the label in `label` is ' '"),
        ('{"label": "a"}', r"no field `text`"),
        ('{"text": "", "label": "a"}', r"no row to learn from \(1 rows: no text\)"),
    ],
)
def test_a_row_without_an_answer_is_an_error_with_its_line(write, text, message):
    with pytest.raises(DataError, match=message):
        read_labelled([write("a.jsonl", text)])


@pytest.mark.parametrize(("labels", "names"), [(["10", "9", "-1", "9"], ("-1", "9", "10")), (["b", "10", "a"], ("10", "a", "b"))])
def test_labels_are_ordered_by_size_or_by_name(labels, names):
    assert label_names(labels) == names


def test_pairs_come_from_rows_or_line_by_line_from_two_files(write):
    rows = write("a.tsv", "source\ttarget\nHi.\t嗨。\nRun.\t跑。\n")
    english, chinese = write("train.en.gz", "Hi.\nRun.\n"), write("train.zh", "嗨。\n跑。\n")
    for paths in ([rows], [english, chinese]):
        assert [(pair.source, pair.target) for pair in read_pairs(paths)] == [("Hi.", "嗨。"), ("Run.", "跑。")]
    assert read_pairs([english, chinese])[1].place == f"{english}:2"


def test_parallel_files_of_different_length_are_refused(write):
    long, short = write("train.en", "a\nb\nc\n"), write("train.de", "x\ny\n")
    for paths in ([long, short], [short, long]):
        with pytest.raises(DataError, match=r"train\.en:3: no such line in .*train\.de"):
            read_pairs(paths)


@pytest.mark.parametrize("n", [1, 3])
def test_parallel_files_are_two(write, n):
    paths = [write(f"train.{number}.txt", "a\nb\n") for number in range(n)]
    with pytest.raises(DataError, match=rf"train\.0\.txt: is no file of rows, and {n} paths are given; .* two files, source first"):
        read_pairs(paths)


def test_pairs_with_an_empty_side_are_left_out_and_counted(write):
    report = ReadReport()
    found = read_pairs([write("train.en", "a\n\nc\n"), write("train.de", "x\ny\nz\n")], report=report)
    assert [pair.target for pair in found] == ["x", "z"]
    assert report.n_rows == {"no text on one side": 1}


def test_real_rows_are_read_whole(test_data):
    reviews = read_labelled([test_data / "classification/sst2/dev.tsv"], columns=("text", "label"))
    assert (len(reviews), label_names([row.label for row in reviews])) == (872, ("0", "1"))
    news = read_labelled([test_data / "classification/ag_news/dev.csv.gz"], columns=("label", "title", "text"))
    assert (len(news), label_names([row.label for row in news])) == (1000, ("1", "2", "3", "4"))
    folder = test_data / "translation/multi30k"
    assert len(read_pairs([folder / "val.en.gz", folder / "val.de.gz"])) == 1014


@pytest.mark.parametrize("order", list(itertools.permutations(["1", "01", "001", "2"])))
def test_numbers_that_are_equal_are_in_the_order_of_their_names(order, monkeypatch):
    monkeypatch.setattr(labelled, "set", lambda labels: list(labels), raising=False)  # a set's order hangs on the process
    assert label_names(order) == ("001", "01", "1", "2")


def test_a_label_of_more_digits_than_a_number_may_have_is_a_name():
    assert label_names(["9" * 5000, "10", "9"]) == ("10", "9", "9" * 5000)
