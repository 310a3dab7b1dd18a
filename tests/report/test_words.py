"""Both languages say the same things; every phrase can be filled in as its key promises."""

import re

import pytest

from touchstone.errors import ConfigError, UnknownName
from touchstone.report.words import LANGUAGES, Words, flat, marks, words

ENGLISH, CHINESE = flat(LANGUAGES["en"]), flat(LANGUAGES["zh"])


def test_both_languages_have_the_same_keys_in_the_same_order():
    assert list(ENGLISH) == list(CHINESE)


def test_both_languages_fill_in_the_same_marks():
    assert [key for key in ENGLISH if marks(ENGLISH[key]) != marks(CHINESE[key])] == []


def test_no_phrase_is_empty_or_ends_in_space():
    assert [key for key in ENGLISH for text in (ENGLISH[key], CHINESE[key]) if text.strip() != text or not text] == []


def test_chinese_uses_its_own_punctuation():
    """No Western comma or mark stands behind a Chinese character."""
    assert [key for key, text in CHINESE.items() if re.search(r"[\u4e00-\u9fff] ?[,;!?](\s|$)", text)] == []


def test_a_chinese_phrase_is_not_the_english_one():
    with_words = [key for key, text in ENGLISH.items() if re.search(r"[a-z]{4}", re.sub(r"\{\w+\}", "", text))]
    assert [key for key in with_words if CHINESE[key] == ENGLISH[key]] == []


def test_a_phrase_is_filled_in():
    assert words("en")("training.step", step=3, n_steps="1,400") == "step 3 of 1,400"
    assert words("zh")("training.step", step=3, n_steps="1,400") == "第 3 步，共 1,400 步"


def test_a_key_or_a_language_that_does_not_exist_is_an_error_with_the_nearest():
    with pytest.raises(UnknownName, match=r"training\.step"):
        words("en")("training.stap")
    with pytest.raises(UnknownName, match="All: en, zh"):
        Words("de")


@pytest.mark.parametrize("filling", [{}, {"step": 1}, {"step": 1, "n_steps": 2, "more": 3}])
def test_a_phrase_takes_its_own_marks_and_no_others(filling):
    with pytest.raises(ConfigError, match=r"takes \['n_steps', 'step'\]"):
        words("en")("training.step", **filling)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (160, "2 min 40 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 0 min")),
        *((7380, "2 h 3 min"), (86_399, "1 d 0 h"), (86_400 * 3 + 3600 * 5, "3 d 5 h"), (86_400 * 2 - 60, "2 d 0 h")),
    ],
)
def test_a_duration_has_two_units_and_carries_over(seconds, text):
    assert words("en").duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"), (15 * 1024, "15.0 KiB"), (150 << 20, "150 MiB")),
        *((4 << 30, "4.00 GiB"), (5000 << 40, "5000 TiB")),
    ],
)
def test_a_size_has_three_digits_in_units_of_1024(n_bytes, text):
    assert words("zh").size(n_bytes) == text
