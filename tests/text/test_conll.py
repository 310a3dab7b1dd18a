"""Columns of words and tags: schemes, sentences, faults by line."""

import pytest

from touchstone.errors import DataError
from touchstone.text.conll import read_conll, scheme_of, tag_names, to_bio
from touchstone.text.read import ReadReport


@pytest.fixture
def write(tmp_path):
    def make(text, name="a.conll"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_sentences_come_in_order_with_the_line_they_begin_on(write):
    path = write("EU B-ORG\nrejects O\n\n\nGerman B-MISC\ncall O\n")
    first, second = read_conll([path])
    assert (first.words, first.tags, first.place) == (("EU", "rejects"), ("B-ORG", "O"), f"{path}:1")
    assert (second.words, second.tags, second.place) == (("German", "call"), ("B-MISC", "O"), f"{path}:5")


def test_the_tag_is_the_last_of_many_columns_and_document_lines_are_passed_over(write):
    path = write("-DOCSTART- -X- O O\n\nThis DT - O\nLOAN NN - B-X\n\n-DOCSTART- -X- O O\n\nend NN - O\n")
    assert [sentence.words for sentence in read_conll([path])] == [("This", "LOAN"), ("end",)]
    assert read_conll([path])[0].tags == ("O", "B-X")


def test_words_may_hold_spaces_where_tabs_part_the_columns_and_comments_are_no_words(write):
    path = write("# sent_id = 1\nNew York\tB-LOC\n#\tO\nis\tO\n")
    assert read_conll([path])[0].words == ("New York", "#", "is")


SCHEMES = {  # the sentence "a span of two, one of one, right behind it another" in every scheme
    "bio": ("O", "B-X", "I-X", "O", "B-Y", "B-Y"),
    "iob1": ("O", "I-X", "I-X", "O", "I-Y", "B-Y"),
    "bioes": ("O", "B-X", "E-X", "O", "S-Y", "S-Y"),
}
BMES = ("O", "B-X", "E-X", "O", "S-Y", "S-Y")
BILOU = ("O", "B-X", "L-X", "O", "U-Y", "U-Y")


@pytest.mark.parametrize(("scheme", "tags"), [*SCHEMES.items(), ("bioes", BMES), ("bioes", BILOU)])
def test_every_scheme_is_found_and_means_the_same_in_bio(scheme, tags):
    assert scheme_of([tags]) == scheme
    assert to_bio(tags, scheme) == (SCHEMES["bio"], 0)


def test_inner_words_of_long_spans_go_on_with_them():
    assert to_bio(("B-X", "M-X", "M-X", "E-X"), "bioes")[0] == ("B-X", "I-X", "I-X", "I-X")
    assert to_bio(("E-X", "M-X"), "bioes") == (("B-X", "B-X"), 2)  # what is closed is not gone on with


def test_a_span_that_none_began_is_begun_and_counted(write):
    report = ReadReport()
    path = write("a I-X\nb O\nc B-X\nd I-Y\n")
    assert read_conll([path], report=report)[0].tags == ("B-X", "O", "B-X", "B-Y")
    assert sum(report.n_rows.values()) == 2


def test_parts_of_speech_stay_as_they_are(write):
    assert read_conll([write("the DT\ndog NN\n")])[0].tags == ("DT", "NN")


def test_tags_are_ordered_o_first_then_by_kind_with_beginnings_before(write):
    path = write("a I-PER\nb I-PER\nc O\nd I-LOC\ne B-LOC\nf I-LOC\n")
    assert tag_names(read_conll([path])) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", r"a\.conll:2: `b` has no tag"),
        ("a X O\nb O\n", r"a\.conll:2: 2 columns, the lines before have 3"),
        ("\n\n", r"no sentence to learn from"),
    ],
)
def test_faults_are_named_by_line(write, text, message):
    with pytest.raises(DataError, match=message):
        read_conll([write(text)])


@pytest.mark.parametrize(
    ("name", "n_sentences", "kinds"),
    [
        ("wnut17/dev.conll.gz", 1009, {"corporation", "creative-work", "group", "location", "person", "product"}),
        ("zh_resume/dev.char.bmes.gz", 462, {"CONT", "EDU", "LOC", "NAME", "ORG", "PRO", "RACE", "TITLE"}),
        ("ncbi-disease/devel.tsv.gz", 923, {"Disease"}),
    ],
)
def test_real_files_have_the_sentences_their_source_states(test_data, name, n_sentences, kinds):
    sentences = read_conll([test_data / "ner" / name])
    assert len(sentences) == n_sentences
    assert {tag[2:] for tag in tag_names(sentences)} - {""} == kinds
    for sentence in sentences:
        for before, tag in zip(("O", *sentence.tags), sentence.tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_tags_of_spans_among_others_are_refused_unless_the_scheme_is_given(write):
    path = write("the O\ncat O\n\nin O\nParis S-LOC\n\nof O\nFrance LOC\n")
    with pytest.raises(DataError, match=r"a\.conll:7: `LOC` in this sentence is no tag of a span, and `S-LOC` in the same file is one"):
        read_conll([path])
    assert read_conll([path], scheme="plain")[1].tags == ("O", "S-LOC")
