"""Both languages say the same things; every phrase can be filled in as its key promises."""

import re

import pytest

from touchstone.errors import ConfigError, UnknownName
from touchstone.report.words import LANGUAGES, Words, flat, marks, words

ENGLISH, CHINESE = flat(LANGUAGES["en"]), flat(LANGUAGES["zh"])


def test_both_languages_have_the_same_keys_in_the_same_order():
    assert list(ENGLISH) == list(CHINESE)


@pytest.mark.parametrize("key", ENGLISH)
def test_both_languages_fill_in_the_same_marks(key):
    assert marks(ENGLISH[key]) == marks(CHINESE[key])


@pytest.mark.parametrize("key", ENGLISH)
def test_no_phrase_is_empty_or_ends_in_space_and_chinese_uses_its_own_punctuation(key):
    for text in (ENGLISH[key], CHINESE[key]):
        assert text.strip() == text != ""
    assert not re.search(r"[\u4e00-\u9fff] ?[,;!?](\s|$)", CHINESE[key]), "a Western comma or mark after a Chinese character"


@pytest.mark.parametrize("key", ENGLISH)
def test_a_chinese_phrase_is_not_the_english_one(key):
    words_in_it = re.sub(r"\{\w+\}", "", ENGLISH[key])
    if re.search(r"[a-z]{4}", words_in_it):
        assert CHINESE[key] != ENGLISH[key]


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
