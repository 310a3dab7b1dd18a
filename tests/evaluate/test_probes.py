"""The probe sets keep the promises that a figure of them rests on."""

import importlib.util
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from touchstone.errors import UnknownName
from touchstone.evaluate.probes import PROBE_KINDS, PROBE_LANGUAGES, load_probes
from touchstone.evaluate.scorers import AnswerSet

SETS = [(kind, language) for kind in PROBE_KINDS for language in PROBE_LANGUAGES]
every_set = pytest.mark.parametrize(("kind", "language"), SETS)


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "scripts" / "make_probes.py"
    spec = importlib.util.spec_from_file_location("make_probes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sets_are_what_the_script_makes(script):
    folder = resources.files("touchstone.evaluate.probes")
    made = script.files()
    assert set(made) == {item.name for item in folder.iterdir() if item.name.endswith(".jsonl")}
    for name, text in made.items():
        assert folder.joinpath(name).read_text(encoding="utf-8") == text


def test_ids_are_unique_and_say_kind_and_language():
    probes = load_probes()
    assert len({probe.id for probe in probes}) == len(probes)
    assert all(probe.id.startswith(f"{probe.kind}-{probe.language}-") for probe in probes)
    assert {(probe.kind, probe.language) for probe in probes} == set(SETS)
    assert [probe.id for probe in load_probes("label", "zh")] == [p.id for p in probes if (p.kind, p.language) == ("label", "zh")]


@every_set
def test_every_set_is_large_enough_to_be_measured(kind, language):
    assert 50 <= len(load_probes(kind, language)) <= 250


@every_set
def test_no_place_is_right_more_often_than_another(kind, language):
    by_size = {}
    for probe in load_probes(kind, language):
        AnswerSet(probe.answers, probe.right)  # two answers or more, none empty, one right
        by_size.setdefault(len(probe.answers), Counter())[probe.right] += 1
    for n_answers, places in by_size.items():
        assert len(places) == n_answers
        assert max(places.values()) - min(places.values()) <= 1


@every_set
def test_no_answer_begins_another_and_none_is_there_twice(kind, language):
    for probe in load_probes(kind, language):
        for one in probe.answers:
            assert [other for other in probe.answers if other.startswith(one)] == [one]


@every_set
def test_no_question_is_asked_twice(kind, language):
    probes = load_probes(kind, language)
    assert len({(probe.context, frozenset(probe.answers)) for probe in probes}) == len(probes)


@every_set
def test_answers_continue_their_context_with_one_space_in_english_and_none_in_chinese(kind, language):
    for probe in load_probes(kind, language):
        assert probe.context == probe.context.strip()
        assert all(answer == (" " if language == "en" else "") + answer.strip() for answer in probe.answers)
        has_chinese = any("\u3000" <= char <= "\u9fff" or char in "？（）" for char in probe.context + "".join(probe.answers))
        assert has_chinese == (language == "zh")


@pytest.mark.parametrize("language", PROBE_LANGUAGES)
def test_labels_and_verbs_are_right_equally_often(language):
    for kind, texts in (("label", None), ("agreement", (" is", " are", " was", " were", " has", " have"))):
        right = Counter(p.answers[p.right] for p in load_probes(kind, language) if texts is None or p.answers[p.right] in texts)
        by_set = Counter()
        for probe in load_probes(kind, language):
            if probe.answers[probe.right] in right:
                by_set[frozenset(probe.answers)] += 1
        for answers, n in by_set.items():
            assert {right[answer] for answer in answers} == {n / len(answers)}


def test_sums_are_right(script):
    signs = {"加": "+", "减": "-", "乘以": "*"}
    words = {script.chinese_number(value): value for value in range(100)}
    assert (words["十二"], words["二十"], words["九十九"], words["零"]) == (12, 20, 99, 0)
    operate = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for probe in load_probes("arithmetic", "en"):
        left, sign, right, _ = probe.context.split()
        assert [int(answer) for answer in probe.answers].index(operate[sign](int(left), int(right))) == probe.right
    for probe in load_probes("arithmetic", "zh"):
        [sign] = [word for word in signs if word in probe.context]
        left, right = probe.context.removesuffix("等于").split(sign)
        assert [words[answer] for answer in probe.answers].index(operate[signs[sign]](words[left], words[right])) == probe.right


def test_brackets_close_what_is_open():
    pairs = dict(zip("([{<（【《「", ")]}>）】》」", strict=True))
    for probe in load_probes("brackets"):
        opened = []
        for char in probe.context.replace(" ", ""):
            if char in pairs:
                opened.append(pairs[char])
            else:
                assert opened.pop() == char
        assert probe.answers[probe.right].strip() == opened[-1]


def test_what_is_copied_follows_in_the_list():
    for probe in load_probes("copying"):
        stop, comma = (".", ",") if probe.language == "en" else ("。", "、")
        said, again = probe.context.split(stop)
        words, repeated = [word.strip() for word in said.split(comma)], [word.strip() for word in again.split(comma) if word.strip()]
        assert words[: len(repeated)] == repeated
        assert probe.answers[probe.right].strip() == words[len(repeated)]
        assert {answer.strip() for answer in probe.answers} == set(words)


def test_the_sets_are_small_and_say_their_licence():
    files = list(resources.files("touchstone.evaluate.probes").iterdir())
    assert sum(len(file.read_bytes()) for file in files if file.is_file()) < 1 << 20
    assert "CC0" in resources.files("touchstone.evaluate.probes").joinpath("CC0.txt").read_text(encoding="utf-8")


def test_a_wrong_name_gets_the_nearest_right_one():
    with pytest.raises(UnknownName, match="agreement"):
        load_probes("agreements")
    with pytest.raises(UnknownName, match="zh"):
        load_probes(language="cn")
