"""Chinese answers by hand, from the rules of CMRC 2018's script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.errors import DataError
from touchstone.evaluate.cmrc import cmrc_exact_match, cmrc_f1

TEXTS = st.text(alphabet="我爱北京，a1 ", max_size=8)


@pytest.mark.parametrize(
    ("predicted", "answers", "match", "f1"),
    [
        ("范廷颂", ["范廷颂枢机", "范廷颂"], 1.0, 1.0),
        ("《红楼梦》。", ["红楼梦"], 1.0, 1.0),
        ("红楼梦.", ["红楼梦"], 0.0, 6 / 7),  # the script leaves ASCII's full stop in
        ("在北京市", ["北京"], 0.0, 2 * 2 / 6),
        ("北大京", ["北京"], 0.0, 2 * 1 / 5),  # the longest stretch in common has one character, not two
        ("1999年5月", ["1999年"], 0.0, 2 * 2 / 6),  # a number is one piece
        ("NBA联赛", ["nba"], 0.0, 2 * 1 / 4),
        ("3.5亿", ["3.5亿"], 1.0, 1.0),
        ("", ["北京"], 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_the_script_does(predicted, answers, match, f1):
    assert cmrc_exact_match(predicted, answers) == match
    assert cmrc_f1(predicted, answers) == pytest.approx(f1)


@pytest.mark.slow
@given(a=TEXTS, b=TEXTS)
def test_f1_is_bounded_symmetric_and_full_for_equal_answers(a, b):
    assert 0 <= cmrc_f1(a, [b]) <= 1
    assert cmrc_f1(a, [b]) == cmrc_f1(b, [a])
    if cmrc_exact_match(a, [b]) and cmrc_f1(a, [a]):
        assert cmrc_f1(a, [b]) == 1 or " " in a + b  # white space inside an answer parts words


def test_a_question_without_an_answer_is_refused():
    for answers in ([], "北京"):
        with pytest.raises(DataError):
            cmrc_f1("北京", answers)
