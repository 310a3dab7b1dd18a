"""Every rule of the verdict on both sides of its limit, with made-up figures."""

import pytest

from touchstone.flows.assay_verdict import (
    FEW,
    FEW_UNITS,
    NEAR,
    OVERLAP,
    SIGNIFICANT,
    answers_rule,
    classes_rule,
    confidence_rule,
    contamination_rule,
    judge,
    language_rule,
    promise_rule,
    prompts_rule,
    ranking_rule,
    tell,
)
from touchstone.report.words import words


def said(found):
    """The findings, each of which can be told in both languages."""
    assert all(tell(finding, words(lang)) for finding in found for lang in ("en", "zh"))
    return found


def domain(low, high, verdict, n=20):
    difference = {"a": "model", "b": "xz", "value": 0.0, "low": low, "high": high, "n": n, "verdict": verdict}
    models = {name: {"bits_per_byte": {"value": value}} for name, value in (("model", 1.5), ("xz", 2.0))}
    return {"domains": [{"name": "news.txt", "best": "xz", "models": models, "difference": difference}]}


@pytest.mark.parametrize(
    ("part", "outcome", "use"),
    [
        (domain(-0.2, -0.1, "better"), "better", "may"),
        (domain(-0.2, 0.1, "tie"), "tie", "open"),
        (domain(0.1, 0.2, "worse"), "worse", "not"),
        (domain(-0.2, -0.1, "better", n=FEW_UNITS), "better", "may"),
        (domain(-0.2, -0.1, "better", n=FEW_UNITS - 1), "few", "open"),
        (domain(None, None, "unknown", n=1), "few", "open"),
    ],
)
def test_text_is_judged_against_the_best_compressor(part, outcome, use):
    [found] = said(language_rule(part))
    assert (found.outcome, found.use, found.about) == (outcome, use, "news.txt")
    assert found.figures["best"] == 2.0


def kind(name, n_right, n=FEW, chance=0.5):
    return {"kind": name, "language": "en", "n": n, "n_right": n_right, "chance": chance}


def test_answers_count_as_beyond_guessing_where_the_whole_interval_is():
    kinds = [kind("copying", 24), kind("brackets", 21), kind("label", 3), kind("arithmetic", 29, n=FEW - 1)]
    found = {each.outcome: (each.use, each.figures["kinds"]) for each in said(answers_rule({"kinds": kinds}))}
    assert found == {
        "above": ("may", ["copying-en"]),
        "guessing": ("not", ["brackets-en", "label-en"]),
        "few": ("open", ["arithmetic-en"]),
    }


def test_the_more_kinds_are_asked_the_more_each_must_show():
    """21 of 30 has the exact interval [0.506, 0.853] at 95 %, and more than a half is beyond guessing if nothing else was asked."""
    assert [found.outcome for found in said(answers_rule({"kinds": [kind("label", 21)]}))] == ["above"]
    assert [found.outcome for found in said(answers_rule({"kinds": [kind("label", 21), kind("copying", 21)]}))] == ["guessing"]


def labels(low, high, share=0.6, n=FEW):
    return {"n": n, "accuracy": {"value": (low + high) / 2, "low": low, "high": high}, "majority": {"label": "a", "share": share}}


@pytest.mark.parametrize(
    ("part", "outcome", "use"),
    [
        (labels(0.61, 0.7), "better", "may"),
        (labels(0.6, 0.7), "tie", "not"),
        (labels(0.5, 0.6), "tie", "not"),
        (labels(0.5, 0.59), "worse", "not"),
        (labels(0.61, 0.7, n=FEW - 1), "few", "open"),
    ],
)
def test_labels_are_judged_against_the_commonest_one(part, outcome, use):
    [found] = said(classes_rule(part))
    assert (found.outcome, found.use) == (outcome, use)


def error(value, floor, n=400):
    return {"value": value, "noise_floor": {"high": floor}, "n": n}


@pytest.mark.parametrize(
    ("before", "after", "outcome", "use"),
    [
        (error(0.05, 0.05), error(0.01, 0.05), "true", "may"),
        (error(NEAR, 0.001), error(0.01, 0.001), "near", "may"),
        (error(0.051, 0.05), error(0.04, 0.05), "fixable", "open"),
        (error(0.051, 0.01), error(NEAR, 0.01), "fixable", "open"),
        (error(0.3, 0.05), error(0.051, 0.05), "off", "not"),
        (error(0.3, 0.05), None, "unfitted", "not"),
        (error(0.3, 0.05, n=FEW - 1), None, "few", "open"),
        (error(0.3, 0.05, n=FEW), None, "unfitted", "not"),
    ],
)
def test_confidence_is_true_within_the_noise_floor(before, after, outcome, use):
    [found] = said(confidence_rule({"ece_before": before, "ece_after": after}, "answers"))
    assert (found.outcome, found.use, found.about) == (outcome, use, "answers")


def test_nothing_is_said_of_confidence_that_was_not_measured():
    assert said(confidence_rule(None, "next-token")) == []


def ranking(low, n=400):
    return {"auroc": {"value": 0.6, "n": n, "interval": {"low": low, "high": 0.7}}}


def test_confidence_knows_right_from_wrong_where_the_whole_interval_is_above_a_half():
    assert [found.outcome for found in said(ranking_rule(ranking(0.51), "answers"))] == ["knows"]
    assert [found.outcome for found in said(ranking_rule(ranking(0.5), "answers"))] == ["blind"]
    assert said(ranking_rule(ranking(0.51, n=FEW - 1), "answers")) == []
    assert said(ranking_rule({"auroc": None}, "answers")) == []


@pytest.mark.parametrize(
    ("outcome", "use"), [("held", "may"), ("chance", "open"), ("unused", "open"), ("broken", "not"), ("impossible", "not")]
)
def test_a_promise_is_taken_for_what_the_other_half_made_of_it(outcome, use):
    risk = None if outcome in ("unused", "impossible") else {"value": 0.03}
    [found] = said(
        promise_rule({"promise": {"outcome": outcome, "max_risk": 0.05, "delta": 0.1, "coverage": 0.4, "risk": risk}}, "answers")
    )
    assert (found.outcome, found.use) == (outcome, use)
    assert words("en")("assay.name_answers") in tell(found, words("en"))


def test_too_few_answers_promise_nothing():
    [found] = said(promise_rule({"n": 50, "promise": None}, "classes"))
    assert (found.outcome, found.use) == ("few", "open")


def ways(p_value, n=FEW):
    return {"n": n, "min": 0.4, "median": 0.5, "max": 0.7, "p_value": p_value, "ways": [{}] * 10}


def test_wording_matters_where_best_and_worst_differ_beyond_chance():
    assert [found.outcome for found in said(prompts_rule(ways(SIGNIFICANT / 2)))] == ["depends"]
    assert [found.outcome for found in said(prompts_rule(ways(SIGNIFICANT)))] == ["steady"]
    assert [found.outcome for found in said(prompts_rule(ways(SIGNIFICANT / 2, n=FEW - 1)))] == ["few"]


def test_text_counts_as_seen_above_the_limit():
    assert [contaminated(100, 100, int(100 * OVERLAP) + more) for more in (0, 1)] == [("clean", "may"), ("seen", "not")]


def contaminated(n, n_judged, n_seen):
    group = {"name": "a", "n": n, "n_judged": n_judged, "n_seen": n_seen, "share": {"value": n_seen / n}}
    [found] = said(contamination_rule({"n_words": 13, "groups": [group]}))
    assert found.about == "a"
    return found.outcome, found.use


def test_text_counts_as_new_only_where_most_of_it_and_enough_can_be_judged():
    assert contaminated(100, 50, 0) == ("clean", "may")
    assert contaminated(100, 49, 0) == ("short", "open")
    assert contaminated(100, 60, 4) == ("short", "open")  # 4 of the 60 that can be told are more than a twentieth
    assert contaminated(FEW_UNITS, FEW_UNITS, 0) == ("clean", "may")
    assert contaminated(FEW_UNITS - 1, FEW_UNITS - 1, 0) == ("short", "open")
    assert contaminated(301, 301, 300) == contaminated(1, 1, 1) == ("seen", "not")


def test_nothing_good_that_rests_on_text_seen_in_training_is_vouched_for():
    classes = {
        **labels(0.7, 0.8),
        "confidence": {**ranking(0.6), "ece_before": error(0.01, 0.05), "ece_after": None, "promise": None, "n": 9},
    }
    group = {"name": "classes", "n": 100, "n_judged": 100, "share": {"value": 0.9}}
    for n_seen, use in ((0, "may"), (90, "open")):
        found = said(judge({"classes": classes, "contamination": {"n_words": 13, "groups": [{**group, "n_seen": n_seen}]}}))
        assert [(each.rule, each.use) for each in found[:3]] == [("classes", use), ("confidence", use), ("ranking", use)]
        assert (found[-1].use == "may") == (n_seen == 0)
    part = {**domain(-0.2, -0.1, "better"), "calibration": {"ece_before": error(0.01, 0.05), "ece_after": None}}
    seen = {**group, "name": "news.txt", "n_seen": 90}
    found = said(judge({"language": part, "contamination": {"n_words": 13, "groups": [seen]}}))
    assert [each.use for each in found] == ["open", "open", "not"]


def test_where_nothing_was_fitted_nothing_is_said_of_after():
    [found] = said(confidence_rule({"method": "none", "ece_before": error(0.3, 0.05), "ece_after": error(0.3, 0.05)}, "answers"))
    assert (found.outcome, found.use) == ("stuck", "not")


def test_unknown_training_text_is_said_where_text_was_measured():
    part = {**domain(-0.2, -0.1, "better"), "calibration": None}
    assert [found.outcome for found in said(judge({"language": part, "contamination": None}))] == ["better", "unknown"]
    assert said(judge({"language": None, "classes": None, "contamination": None})) == []


def test_a_verdict_reads_as_a_sentence():
    told = tell(language_rule(domain(-0.2, -0.1, "better"))[0], words("en"))
    begins = "Text like `news.txt`: 1.500 bits per byte, better than the best compressor (xz, 2.000)"
    assert told == f"{begins} beyond chance, over 20 documents."
    kinds = said(answers_rule({"kinds": [kind("copying", 25), kind("brackets", 25)]}))
    assert tell(kinds[0], words("zh")) == "回答确实好于猜测：复述（英文）、括号配对（英文）。"
    [confidence] = said(confidence_rule({"ece_before": error(0.12, 0.05), "ece_after": error(0.031, 0.05)}, "next-token"))
    assert "off by 12.0\N{NO-BREAK SPACE}%" in tell(confidence, words("en"))
    assert "3.1\N{NO-BREAK SPACE}% is left" in tell(confidence, words("en"))
