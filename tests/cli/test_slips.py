"""Mistyped commands become the right ones."""

import pytest

from touchstone.cli import slips

VERBS = ["quickstart", "doctor", "inspect", "prepare", "train", "evaluate", "generate", "complete"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["trian", "gpt-small"], ["train", "gpt-small"]),
        (["quick-start", "--minutes", "2"], ["quickstart", "--minutes", "2"]),
        (["--json", "evalute", "runs/x"], ["--json", "evaluate", "runs/x"]),
        (["Train", "gpt-small"], ["train", "gpt-small"]),
    ],
)
def test_an_unknown_verb_becomes_the_nearest_one(typed, meant):
    assert slips.mended_verb(typed, VERBS) == meant


def test_a_word_like_no_verb_and_no_path_gets_no_suggestion():
    assert slips.mended_verb(["zzz"], VERBS) is None


def test_a_text_folder_in_the_place_of_the_verb_is_trained_on(tmp_path):
    assert slips.mended_verb([str(tmp_path)], VERBS) == ["train", "gpt-small", "--data", str(tmp_path)]


def test_a_model_folder_in_the_place_of_the_verb_is_inspected(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert slips.mended_verb([str(tmp_path)], VERBS) == ["inspect", str(tmp_path)]


def test_a_settings_file_in_the_place_of_the_verb_is_trained(tmp_path):
    settings = tmp_path / "mine.yaml"
    settings.write_text("name: mine\n")
    assert slips.mended_verb([str(settings), "--dry-run"], VERBS) == ["train", str(settings), "--dry-run"]


@pytest.mark.parametrize(
    ("words", "typed", "meant"),
    [
        (["train", "gpt-small", "--dat", "x"], "--dat", ["train", "gpt-small", "--data", "x"]),
        (["train", "gpt-small", "--minuts=3"], "--minuts", ["train", "gpt-small", "--minutes=3"]),
        (["train", "gpt-small", "--train.seed=7"], "--train.seed", ["train", "gpt-small", "train.seed=7"]),
        (["train", "gpt-small", "-data", "x"], "-data", ["train", "gpt-small", "--data", "x"]),
    ],
)
def test_an_unknown_option_becomes_the_nearest_one_or_an_override(words, typed, meant):
    assert slips.mended_option(words, typed, ["--data", "--minutes", "--out", "-h"]) == meant


def test_an_option_like_no_other_gets_no_suggestion():
    assert slips.mended_option(["train", "--xyzzy"], "--xyzzy", ["--data", "--minutes"]) is None


def test_stray_paths_become_values_of_data_once_each():
    words = ["evaluate", "runs/x", "a b.txt", "c.txt", "--data", "d.txt"]
    mended = slips.with_data(words, ["a b.txt", "c.txt"])
    assert mended == ["evaluate", "runs/x", "--data", "a b.txt", "--data", "c.txt", "--data", "d.txt"]
    assert slips.command(mended) == "touchstone evaluate runs/x --data 'a b.txt' --data c.txt --data d.txt"


@pytest.mark.parametrize(
    ("word", "is_path"), [("my_texts/", True), ("notes.txt", True), ("gpt-small", False), ("train.seed=1", False), ("gpt2-124m", False)]
)
def test_paths_are_told_from_names_and_overrides(word, is_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert slips.looks_like_path(word) is is_path


def test_a_name_that_is_there_as_a_folder_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    assert slips.looks_like_path("texts")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Invalid value for '--port': Input should be less than or equal to 65535", "Invalid value for '--port': must be at most 65535"),
        ("Invalid value for '--n': Input should be greater than or equal to 0.1", "Invalid value for '--n': must be at least 0.1"),
        (
            "Invalid value for '--n': Input should be a valid integer, unable to parse string as an integer",
            "Invalid value for '--n': must be a whole number.",
        ),
        ("Invalid value for '--w': Value error, 'x' is not one of 'int8'", "Invalid value for '--w': 'x' is not one of 'int8'"),
        ("Missing argument 'MODEL'.", "Missing argument 'MODEL'."),
    ],
)
def test_what_libraries_say_of_an_option_becomes_plain_words(theirs, ours):
    assert slips.plain(theirs) == ours
