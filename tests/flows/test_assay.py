"""`assay` measures all that a model and the data allow, names what they do not, and writes one page in either language."""

import bz2
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from touchstone import config as settings
from touchstone import save
from touchstone.cli.main import main
from touchstone.errors import DataError
from touchstone.evaluate.probes import load_probes
from touchstone.files import cache_folder
from touchstone.flows import assay
from touchstone.flows.assay import PARTS, AssayRequest, assay_model, measure_parts
from touchstone.flows.assay_material import OWN, Bounds, Fields, find_material, short_names
from touchstone.flows.assay_parts import Identity, Subject, ask, chosen_probes
from touchstone.flows.assay_prompts import Way, _divided, _question, probe_items, row_items, spread, ways_of
from touchstone.flows.assay_report import figure_text, tell_assay, write_page
from touchstone.flows.assay_trust import promise_data, risk_coverage_points
from touchstone.flows.assay_verdict import judge
from touchstone.infer import load
from touchstone.infer.language_model import LanguageModel
from touchstone.models import ClassifyHead, build, decoder_spec, encoder_spec
from touchstone.models.card import Card
from touchstone.models.checkpoint import save_model
from touchstone.report.terminal import Terminal
from touchstone.report.words import words
from touchstone.stats import mcnemar_exact
from touchstone.text.labelled import LabelledText
from touchstone.text.prepare import prepare
from touchstone.text.tokenizer import Tokenizer
from touchstone.train.recipes import recipe

SMALL = Bounds(text_bytes=12_000, training_bytes=100_000, n_probes=100, n_prompted=30, n_rows=120)
LABELS = ("dull", "fine")
WORDS = ("good", "bad", "poor", "film", "plot", "cast", "song", "the", "a")

PART_KEYS = {
    "identity": (
        "family model_type can parameters n_grams context vocabulary labels tokenizer bytes_per_token lineage numeric_scheme weights_hash"
        " n_threads device"
    ),
    "language": "domains window stride n_tokens perplexity calibration missing_compressors",
    "answers": "n n_refused n_cut kinds confidence",
    "prompts": "on n n_refused n_cut chance ways min median max by_axis n_same p_value",
    "classes": "n n_copies n_left_out n_cut accuracy majority classes confidence",
    "speed": ("reading_tokens_per_s writing_tokens_per_s rounds weights_bytes resident_bytes cpu cuda n_threads numeric_scheme"),
    "contamination": "n_words groups",
}
CONFIDENCE_KEYS = "n method n_fitted ece_before ece_after curves aurc auroc risk_coverage promise"
DOCUMENT_KEYS = "status format model suite data date parts left_out failed not_read verdict json report"


@pytest.fixture(scope="module")
def small_suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assay, "SUITES", {"quick": SMALL, "full": SMALL})
        yield


@pytest.fixture(scope="module")
def run_folder(texts, tmp_path_factory):
    """A run whose model has learned nothing, with the settings that its text is found by."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = recipe("gpt-small").config
    config = config.replace(
        data=config.data.replace(corpus=None, sources=(str(texts),), test_fraction=0.3), tokenizer=config.tokenizer.replace(vocab_size=300)
    )
    prepared = prepare(config.data, config.tokenizer, cache_folder())
    spec = decoder_spec(vocab_size=prepared.tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=96)
    save_model(folder / "model", build(spec, seed=3), tokenizer=prepared.tokenizer)
    (folder / "config.yaml").write_text(settings.to_yaml(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(folder, rows): a classifier, and rows of which it is right about three in four."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 7)) for _ in range(120)]
    tokenizer = Tokenizer.train(texts, vocab_size=280)
    head = ClassifyHead(n_labels=2)
    net = build(encoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=64, head=head), seed=3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("head"):
                parameter.mul_(60.0)
    folder = tmp_path_factory.mktemp("classifier") / "m"
    save(LanguageModel(net.eval(), tokenizer=tokenizer, card=Card(labels=LABELS)), folder)
    said = [found.label for found in load(folder).classify(texts)]
    labels = [label if rng.random() < 0.75 else LABELS[label == "dull"] for label in said]
    rows = folder.parent / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in zip(texts, labels, strict=True)), encoding="utf-8")
    return folder, rows


@pytest.fixture(scope="module")
def of_run(run_folder, small_suite, tmp_path_factory):
    return assay_model(AssayRequest(run_folder, out=tmp_path_factory.mktemp("out")), Terminal("en", json=True))


@pytest.fixture(scope="module")
def of_classifier(classifier, small_suite, tmp_path_factory):
    folder, rows = classifier
    return assay_model(AssayRequest(folder, (rows,), out=tmp_path_factory.mktemp("out")), Terminal("zh", json=True))


def keys_of(line):
    return set(line.split())


@pytest.mark.slow
def test_a_language_model_with_a_run_has_every_part_but_labels(of_run):
    assert of_run["status"] == "ok"
    assert of_run["left_out"] == {"classes": "no_classify"}
    assert [name for name, data in of_run["parts"].items() if data is not None] == [
        *("identity", "language", "answers", "prompts", "speed", "contamination"),
    ]


@pytest.mark.slow
def test_a_classifier_has_labels_and_names_what_it_cannot_do(of_classifier):
    assert of_classifier["status"] == "ok"
    assert {name for name, data in of_classifier["parts"].items() if data is not None} == {"identity", "classes", "speed"}
    assert of_classifier["left_out"] == {
        **{"language": "no_rolling", "answers": "no_loglikelihood", "prompts": "no_loglikelihood"},
        "contamination": "training_no_run",
    }


@pytest.mark.slow
def test_the_document_keeps_its_layout(of_run, of_classifier):
    for document in (of_run, of_classifier):
        assert document.keys() == keys_of(DOCUMENT_KEYS)
        assert list(document["parts"]) == [part.name for part in PARTS]
        for name, data in document["parts"].items():
            assert data is None or data.keys() == keys_of(PART_KEYS[name]), name
        for data in filter(None, (document["parts"][name] for name in ("answers", "classes"))):
            assert data["confidence"].keys() == keys_of(CONFIDENCE_KEYS)
        assert all(finding.keys() == keys_of("rule outcome use about figures") for finding in document["verdict"])
        assert json.loads(Path(document["json"]).read_text("utf-8")) == json.loads(json.dumps(document))


def test_every_figure_has_its_error_bar_and_a_baseline(of_run, of_classifier):
    [domain] = of_run["parts"]["language"]["domains"]
    assert domain["name"] == OWN
    assert {"model", "xz", "bz2", "zlib", "xz_given"} <= set(domain["models"])
    assert all(each["bits_per_byte"]["low"] <= each["bits_per_byte"]["value"] for each in domain["models"].values())
    assert domain["models"][domain["best"]]["bits_per_byte"]["value"] == min(
        each["bits_per_byte"]["value"] for name, each in domain["models"].items() if name != "model"
    )
    for kind in of_run["parts"]["answers"]["kinds"]:
        assert kind["accuracy"]["low"] <= kind["accuracy"]["value"] <= kind["accuracy"]["high"]
        assert 0 < kind["chance"] <= 0.5
    classes = of_classifier["parts"]["classes"]
    assert classes["accuracy"]["value"] == pytest.approx(0.75, abs=0.12)
    assert sum(row["n"] for row in classes["classes"]) == sum(row["n_given"] for row in classes["classes"]) == classes["n"] == 120


def test_the_confidence_is_measured_on_the_half_it_was_not_fitted_to(of_classifier, of_run):
    found = of_classifier["parts"]["classes"]["confidence"]
    assert found["n_fitted"] + found["ece_after"]["n"] == found["n"] == 120
    assert found["ece_before"]["noise_floor"]["high"] > 0
    assert sum(found["curves"]["after"]["count"]) == found["ece_after"]["n"]
    assert found["promise"]["n_fitted"] == found["n_fitted"]
    calibration = of_run["parts"]["language"]["calibration"]
    assert 0 < calibration["ece_after"]["n"] == of_run["parts"]["language"]["n_tokens"] - calibration["n_fitted"]


def test_text_of_its_own_run_is_looked_for_in_what_it_learned(of_run):
    [group] = of_run["parts"]["contamination"]["groups"]
    assert group["name"] == OWN
    assert group["n_judged"] > 0
    assert group["share"]["value"] < 1


def test_text_that_it_learned_is_found_again(run_folder, texts):
    model, bounds = load(run_folder), replace(SMALL, text_bytes=10**9)
    material = find_material(run_folder, model, [texts], Fields(), bounds)
    subject = Subject(run_folder, model, material, bounds)
    [part] = [part for part in PARTS if part.name == "contamination"]
    [group] = part.measure(subject)["groups"]
    n_learned = len(list(material.training()))
    assert 0 < n_learned < group["n"]
    assert group["share"]["value"] * group["n"] >= n_learned


class Text(HTMLParser):
    """What a reader sees, but code, and the elements."""

    def __init__(self, html):
        super().__init__()
        self.parts, self.tags, self.links, self.hidden = [], set(), [], 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.hidden += tag in ("code", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("code", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def page_of(document):
    return Text(Path(document["report"]).read_text("utf-8"))


def test_the_page_loads_nothing_from_anywhere(of_run, of_classifier):
    for document in (of_run, of_classifier):
        page = page_of(document)
        assert not page.tags & {"script", "link", "iframe", "object", "img", "form"}
        assert all(link.startswith("#") for link in page.links)
        assert "svg" in page.tags


@pytest.mark.slow
def test_a_chinese_page_has_no_english_sentence(of_classifier, of_run, tmp_path):
    for document in (of_classifier, of_run):
        write_page(tmp_path / "page.html", document, judge(document["parts"]), words("zh"))
        shown = "\n".join(page_of({"report": tmp_path / "page.html"}).parts)
        assert "结论" in shown
        assert re.findall(r"(?:[A-Za-z]{2,},? ){3,}[A-Za-z]{2,}", shown.replace(document["parts"]["speed"]["cpu"], "")) == []
    assert re.search(r"(?:[A-Za-z]{2,},? ){3,}[A-Za-z]{2,}", "there is an English sentence")  # the check above can fail


def test_the_terminal_tells_the_verdict_in_both_languages(of_run, shown, shown_in_chinese):
    for (terminal, text), heading in ((shown, "can be trusted with"), (shown_in_chinese, "哪些方面可以信任")):
        tell_assay(of_run, judge(of_run["parts"]), terminal)
        assert heading in text()
        assert text().count("  · ") == len(of_run["verdict"]) + len(of_run["left_out"])


def test_a_part_that_fails_is_told_and_the_others_go_on(run_folder, shown):
    class Failing(Identity):
        name = "speed"

        def measure(self, subject):
            raise DataError("it is broken")

    model = load(run_folder)
    subject = Subject(run_folder, model, find_material(run_folder, model, [], Fields(), SMALL), SMALL)
    measured, left_out, failed = measure_parts(subject, shown[0], [Failing(), Identity()])
    assert (measured["speed"], left_out, failed) == (None, {}, {"speed": "it is broken"})
    assert measured["identity"]["parameters"] > 0
    assert "it is broken" in shown[1]()


@pytest.mark.slow
def test_a_dry_run_writes_nothing(run_folder, small_suite, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["assay", str(run_folder), "--out", str(out), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["status"] == "dry-run"
    assert plan["amounts"]["answers"] == {"questions": SMALL.n_probes}
    assert plan["left_out"] == {"classes": "no_classify"}
    assert not out.exists()


def test_rows_with_labels_are_told_from_text(classifier, texts, tmp_path):
    folder, rows = classifier
    (tmp_path / "plain.jsonl").write_text('{"text": "only text"}\n')
    material = find_material(folder, load(folder), [rows, texts, tmp_path / "plain.jsonl"], Fields(), SMALL)
    assert [domain.name for domain in material.domains] == ["rows.jsonl", texts.name, "plain.jsonl"]
    assert {row.label for row in material.labelled} == set(LABELS)
    assert len(material.labelled) == 120
    assert find_material(folder, load(folder), [rows], Fields(label="other"), SMALL).labelled == ()


@pytest.mark.slow
def test_a_label_that_the_model_does_not_have_is_named(classifier, tmp_path):
    folder, _ = classifier
    (tmp_path / "rows.jsonl").write_text('{"text": "a film", "label": "fin"}\n')
    document = assay_model(AssayRequest(folder, (tmp_path / "rows.jsonl",), out=tmp_path / "o"), Terminal("en", json=True))
    assert document["status"] == "problem"
    assert "did you mean `fine`" in document["failed"]["classes"]


def test_domains_have_the_shortest_names_that_differ(tmp_path):
    paths = [tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"]
    assert short_names(paths) == ["a/x.txt", "b/x.txt"]
    assert short_names(paths[:1]) == ["x.txt"]
    assert short_names([]) == []


@pytest.mark.slow
def test_parts_of_one_text_cost_a_compressor_what_the_whole_costs(run_folder, tmp_path):
    text = "\n\n".join(f"The {n}th line of a text that says the same again and again." for n in range(200))
    (tmp_path / "one.txt").write_text(text)
    model = load(run_folder)
    material = find_material(run_folder, model, [tmp_path / "one.txt"], Fields(), SMALL)
    [part] = [part for part in PARTS if part.name == "language"]
    [domain] = part.measure(Subject(run_folder, model, material, replace(SMALL, text_bytes=10**6)))["domains"]
    assert domain["unit"] == "block"
    assert domain["n_documents"] > 8
    kept = "".join(document.text for document in material.domains[0].documents).encode()
    whole = 8 * len(bz2.compress(kept, 9)) / len(kept)
    assert domain["models"]["bz2"]["bits_per_byte"]["value"] == pytest.approx(whole, rel=1e-9)


def test_probes_are_chosen_evenly_and_a_larger_number_keeps_the_smaller_ones():
    few, more = chosen_probes(50), chosen_probes(100)
    assert len(few) == 50
    assert {probe.id for probe in few} <= {probe.id for probe in more}
    assert {(probe.kind, probe.language) for probe in few} == {(probe.kind, probe.language) for probe in more}


def test_a_question_that_is_refused_does_not_take_the_others_with_it(run_folder):
    model = load(run_folder)
    found = ask(model, [("a", [" b", " c"]), ("a", [" b", " b"]), ("a", [" d", " c"])])
    assert [answers is None for answers in found] == [False, True, False]
    assert sum(found[2].probabilities) == pytest.approx(1)


def test_the_risk_at_each_coverage_is_the_share_wrong_of_the_surest():
    sure, correct = np.array([0.9, 0.5, 0.7, 0.5]), np.array([True, False, False, True])
    points = risk_coverage_points(sure, correct)
    assert points == {"coverage": [0.25, 0.5, 1.0], "risk": [0.0, 0.5, 0.5]}  # the two at 0.5 are answered together


def halves(n):
    return np.arange(2 * n) % 2 == 0


@pytest.mark.parametrize(
    ("n_wrong_first", "n_wrong_second", "outcome"),
    [(0, 0, "held"), (0, 10, "held"), (0, 13, "chance"), (0, 60, "broken"), (100, 0, "impossible")],
)
def test_a_promise_is_made_on_one_half_and_tried_on_the_other(n_wrong_first, n_wrong_second, outcome):
    first, correct = halves(200), np.ones(400, dtype=bool)
    correct[np.flatnonzero(first)[:n_wrong_first]] = False
    correct[np.flatnonzero(~first)[:n_wrong_second]] = False
    found = promise_data(np.full(400, 0.97), correct, first)
    assert found["outcome"] == outcome
    if outcome != "impossible":
        assert (found["n_answered"], found["n_wrong"], found["coverage"]) == (200, n_wrong_second, 1.0)


def test_a_promise_that_no_answer_reaches_is_unused():
    first, sure = halves(200), np.full(400, 0.1)
    sure[np.flatnonzero(first)[:100]] = 0.97
    found = promise_data(sure, sure > 0.5, first)  # on the first half the sure ones are right, on the second none is sure
    assert found["threshold"] > 0.1
    assert (found["outcome"], found["n_answered"], found["risk"]) == ("unused", 0, None)


def test_ways_of_asking_change_one_thing_at_a_time():
    items = probe_items()
    ways = ways_of(items)
    assert len(ways) >= 5
    assert ways == ways_of(items)
    plain = ways[0]
    for way in ways[1:]:
        changed = [name for name in ("template", "words", "order") if getattr(way, name) != getattr(plain, name)]
        assert changed == [way.axis]
    assert all(len(set(item.wording.templates)) == len(item.wording.templates) for item in items)


def test_examples_are_none_of_the_questions_and_come_in_every_order():
    shots, questions = _divided(probe_items(), 1000)
    asked = {item.id for item in questions}
    assert all(len(mine) == 4 and not asked & {item.id for item in mine} for mine in shots.values())
    assert len(questions) + 4 * len(shots) == 108
    item = questions[0]
    contexts = [_question(Way("order", n + 1, order=n), item, shots)[0] for n in range(4)]
    assert len(set(contexts)) == 4
    assert len({"".join(sorted(context)) for context in contexts}) == 1  # the same examples
    assert all(item.text in context for context in contexts)


def test_the_plain_way_is_the_probe_itself():
    shots, questions = _divided(probe_items(), 1000)
    probes = {probe.id: probe for probe in load_probes("label")}
    for item in questions:
        context, answers = _question(Way("plain", 1), item, shots)
        assert context == probes[item.id].context
        assert set(answers) == set(probes[item.id].answers)
        assert answers[list(item.wording.words[0]).index(item.label)] == probes[item.id].answers[probes[item.id].right]


def test_the_words_of_given_labels_are_spelled_in_ways_that_differ():
    rows = [LabelledText("a film", label, f"f:{n}") for n, label in enumerate(["Good", "bad", "1"])]
    spelled = row_items(rows)[0].wording.words
    assert {label: spelled[0][label] for label in ("Good", "bad", "1")} == {"Good": " Good", "bad": " bad", "1": " 1"}
    assert len({tuple(sorted(each.items())) for each in spelled}) == len(spelled) >= 4
    assert row_items([LabelledText("一部电影", "好", "f:1")])[0].wording.templates[0].startswith("文本")


def test_the_spread_is_that_of_the_shares_and_tested_on_the_same_questions():
    ways = [Way("plain", 1), Way("template", 1, template=1), Way("words", 1, words=1)]
    right = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], dtype=bool)
    found = spread(ways, right)
    assert (found["min"], found["median"], found["max"]) == (2 / 6, 3 / 6, 4 / 6)
    assert found["by_axis"]["words"] == {"min": 3 / 6, "median": pytest.approx(3.5 / 6), "max": 4 / 6}
    assert found["n_same"] == 4
    assert found["p_value"] == min(1.0, 3 * mcnemar_exact(2, 0))


def test_figures_are_written_without_a_bound_that_does_not_exist():
    known = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert figure_text(known) == "0.500 [0.400, 0.600]"
    assert figure_text(known, percent=True) == "50.0 % [40.0, 60.0]"
    assert figure_text(known, signed=True) == "+0.500 [0.400, 0.600]"
    assert figure_text({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert figure_text(None) == "-"


def test_a_run_whose_settings_cannot_be_read_is_a_reason(run_folder, tmp_path):
    (tmp_path / "config.yaml").write_text("nonsense: true\n")
    shutil.copytree(run_folder / "model", tmp_path / "model")
    material = find_material(tmp_path, load(tmp_path), [], Fields(), SMALL)
    assert (material.training, material.why_no_training, material.why_no_text) == (None, "run_unreadable", "run_unreadable")
