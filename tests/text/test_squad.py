"""Questions and answers in SQuAD's format."""

import json

import pytest

from touchstone.errors import DataError
from touchstone.text.read import ReadReport
from touchstone.text.squad import read_squad


def paragraph(context, *asked):
    return {"context": context, "qas": list(asked)}


def question(text, *answers, **more):
    return {"id": text, "question": text, "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}


@pytest.fixture
def write(tmp_path):
    def make(*paragraphs):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"version": "2.0", "data": [{"title": "t", "paragraphs": list(paragraphs)}]}))
        return path

    return make


def test_answers_are_spans_of_their_context(write):
    path = write(paragraph("Ada met Bob in Rome.", question("Who?", ("Ada", 0), ("Bob", 8)), question("Where?", ("Rome", 15))))
    who, where = read_squad([path])
    assert [(a.text, a.start, a.end) for a in who.answers] == [("Ada", 0, 3), ("Bob", 8, 11)]
    assert where.context[where.answers[0].start : where.answers[0].end] == "Rome"
    assert (where.name, where.place) == ("Where?", f"{path}: data[0].paragraphs[0].qas[1]")


def test_a_question_without_an_answer_has_none(write):
    impossible, empty = read_squad([write(paragraph("Text.", question("Q?", is_impossible=True), question("R?")))])
    assert impossible.answers == empty.answers == ()


def test_answers_that_are_not_at_their_place_are_left_out_and_counted(write):
    report = ReadReport()
    bad = question("Bad?", ("Rome", 3))
    half = question("Half?", ("Rome", 3), ("Ada", 0))
    found = read_squad([write(paragraph("Ada met Bob in Rome.", bad, half))], report=report)
    assert [(asked.name, len(asked.answers)) for asked in found] == [("Half?", 1)]
    assert report.n_rows == {
        "answers that do not stand at their place in the text": 2,
        "questions without an answer at its place": 1,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"a\.json: no `data`"),
        ({"data": [{}]}, r"data\[0\]: no `paragraphs`"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"paragraphs\[0\]: no `context`"),
        ({"data": [{"paragraphs": [{"context": "c", "qas": [{"question": 3, "id": "i"}]}]}]}, r"qas\[0\]: `question` must be text"),
        (
            {
                "data": [
                    {"paragraphs": [{"context": "c", "qas": [{"question": "q", "id": 1, "answers": [{"text": "c", "answer_start": "0"}]}]}]}
                ]
            },
            r"answers\[0\]: `answer_start` must be a whole number",
        ),
        ({"data": []}, "no question with an answer"),
    ],
)
def test_faults_are_named_by_their_place(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        read_squad([path])


def test_what_is_not_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not JSON"):
        read_squad([path])


def test_xquad_has_the_questions_its_source_states_in_both_languages(test_data):
    english, chinese = (read_squad([test_data / f"qa/xquad_{lang}/train.json.gz"]) for lang in ("en", "zh"))
    assert len(english) == len(chinese) == 785
    assert [asked.name for asked in english] == [asked.name for asked in chinese]
