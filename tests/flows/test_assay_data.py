"""What an assay is measured on: what was learned from is known again, copies count once, and what is left out is said."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from touchstone import config as settings
from touchstone import save
from touchstone.cli.main import main
from touchstone.errors import DataError, RunFolderError
from touchstone.flows import assay
from touchstone.flows.answer_data import answer_data
from touchstone.flows.assay import AssayRequest, assay_model
from touchstone.flows.assay_material import SUITES, Fields, find_material
from touchstone.flows.assay_parts import Classes, Contamination, Subject
from touchstone.flows.measured_text import units_of
from touchstone.flows.measuring import measure_model, not_read
from touchstone.infer import load
from touchstone.infer.language_model import LanguageModel
from touchstone.models import ClassifyHead, build, encoder_spec
from touchstone.models.card import Card
from touchstone.report.terminal import Terminal
from touchstone.text.document import Document
from touchstone.text.read import ReadReport, read_documents
from touchstone.train.recipes import recipe

SMALL = replace(SUITES["quick"], n_rows=1000)
LABELS = ("bad", "good")


def row_of(number):
    rng = random.Random(number)
    return {"text": f"a {rng.choice(['fine', 'dull', 'long'])} film, number {number}", "label": rng.choice(LABELS)}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that learned the rows 0 to 299, of which none are held out."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    folder.mkdir()
    rows = write_rows(folder / "train.jsonl", map(row_of, range(300)))
    others = write_rows(folder / "others.jsonl", map(row_of, range(1000, 1060)))
    config = recipe("classify-bow").config
    sides = {"corpus": None, "valid_sources": (str(others),), "test_sources": (str(others),), "near_copy_share": 1.0}
    config = config.replace(data=config.data.replace(sources=(str(rows),), **sides), tokenizer=config.tokenizer.replace(vocab_size=300))
    tokenizer = answer_data(config, Terminal("en", json=True)).tokenizer
    head = ClassifyHead(n_labels=2)
    net = build(encoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=64, head=head), seed=3)
    save(LanguageModel(net.eval(), tokenizer=tokenizer, card=Card(labels=LABELS)), folder / "model")
    (folder / "config.yaml").write_text(settings.to_yaml(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def classifier(run_folder):
    return load(run_folder)


def subject_of(run_folder, classifier, *paths):
    return Subject(run_folder, classifier, find_material(run_folder, classifier, paths, Fields(), SMALL), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "n_seen"), [(range(300), 300), (range(301), 300), (range(2000, 2100), 0)], ids=["learned", "one-new", "new"]
)
def test_short_rows_that_were_learned_are_known_again(run_folder, classifier, tmp_path, numbers, n_seen):
    subject = subject_of(run_folder, classifier, write_rows(tmp_path / "rows.jsonl", map(row_of, numbers)))
    [group] = Contamination().measure(subject)["groups"]
    assert (group["name"], group["n"], group["n_seen"], group["n_judged"]) == ("classes", len(numbers), n_seen, n_seen)


@pytest.mark.slow
def test_copies_of_a_row_count_once(run_folder, classifier, tmp_path):
    once = [row_of(number) for number in range(2000, 2060)]
    plain, copied = (
        Classes().measure(subject_of(run_folder, classifier, write_rows(tmp_path / name, rows)))
        for name, rows in (("once.jsonl", once), ("often.jsonl", once * 12))
    )
    assert (plain["n"], plain["n_copies"]) == (60, 0)
    assert copied == {**plain, "n_copies": 11 * 60}
    assert copied["confidence"]["promise"] is None


def test_rows_of_one_text_are_one_unit_and_blocks_of_a_row_too():
    documents = [Document(text, "a.jsonl", line) for line, text in enumerate("xyxx", 1)]
    assert units_of(documents) == (["a.jsonl:1", "a.jsonl:2", "a.jsonl:1", "a.jsonl:1"], "row")
    assert units_of([Document("x", "a.jsonl", 1), Document("y", "a.jsonl", 1)]) == (["a.jsonl:1"] * 2, "row")
    assert units_of([Document("x", "a.txt", 1), Document("y", "a.txt", 2)]) == (["a.txt:1", "a.txt:2"], "block")
    assert units_of([Document("x", "a.txt", 1), Document("y", "b.txt", 1), Document("z", "a.txt", 2)])[1] == "file"


def test_a_row_without_its_label_is_an_error_wherever_it_stands(run_folder, classifier, tmp_path):
    rows = [row_of(1), row_of(2)]
    for place in (0, 2):
        path = write_rows(tmp_path / "rows.jsonl", [*rows[:place], {"text": "no label"}, *rows[place:]])
        with pytest.raises(DataError, match=rf"rows\.jsonl:{place + 1}: no field `label`.*set `label_field`"):
            subject_of(run_folder, classifier, path)
    (tmp_path / "rows.csv").write_text("a film,good\n")
    with pytest.raises(DataError, match=r"rows\.csv:1: no field `text`"):
        find_material(run_folder, classifier, [tmp_path / "rows.csv"], Fields(columns=("", "")), SMALL)


def test_the_spelling_of_a_path_changes_no_sample(run_folder, classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, few = write_rows(tmp_path / "rows.jsonl", map(row_of, range(50))), replace(SMALL, n_rows=10, text_bytes=500)
    chosen = []
    for spelled in (path, Path("rows.jsonl"), Path("../") / tmp_path.name / "rows.jsonl"):
        material = find_material(run_folder, classifier, [spelled], Fields(), few)
        chosen.append(([row.text for row in material.labelled], [document.text for document in material.domains[0].documents]))
    assert len(chosen[0][0]) == 10
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.slow
def test_a_name_that_is_not_utf_8_is_assayed(run_folder, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl"))
    write_rows(path, map(row_of, range(2000, 2060)))
    document = assay_model(AssayRequest(run_folder, (path,), out=tmp_path / "out"), Terminal("en", json=True))
    assert document["parts"]["classes"]["n"] == 60


@pytest.mark.slow
def test_what_was_not_read_is_said_and_counted(run_folder, tmp_path, shown):
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", [*map(row_of, range(2000, 2010)), {"text": " ", "label": "good"}])
    (folder / ".hidden.jsonl").write_text("{}")
    (folder / "picture.png").write_text("no text")
    material = find_material(run_folder, load(run_folder), [folder], Fields(), SMALL)
    assert material.domains[0].n_left_out == 1
    empty = {"text": " ", "label": "good"}
    assert (
        find_material(run_folder, load(run_folder), [write_rows(tmp_path / "a.jsonl", [row_of(1), empty])], Fields(), SMALL).n_rows_left_out
        == 1
    )
    assert not_read(material.report) == {"n_empty": 1, "files": {"hidden": 1, "suffix `.png` is not known": 1}}
    (folder / "picture.png").unlink()
    document = assay_model(AssayRequest(run_folder, (tmp_path / "data" / "rows.jsonl",), out=tmp_path / "out"), shown[0])
    assert document["not_read"] == {"n_empty": 1, "files": {}}
    assert "1 rows or pages without text were left out." in shown[1]()
    assert "1 rows or pages without text were left out." in Path(document["report"]).read_text()
    assert document["report"] in shown[1]()


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["assay", "nosuchmodel"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_takes_the_report_and_not_the_verdict(run_folder, tmp_path, shown, monkeypatch):
    def full(path, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assay, "write_json", full)
    rows = write_rows(tmp_path / "rows.jsonl", map(row_of, range(2000, 2060)))
    with pytest.raises(RunFolderError, match=r"out: the report cannot be written: No space left on device; make room.*--out"):
        assay_model(AssayRequest(run_folder, (rows,), out=tmp_path / "out"), shown[0])
    assert "can be trusted with" in shown[1]()


@pytest.mark.slow
def test_evaluate_resamples_documents_of_one_file_and_blocks_of_one_text(model_folder, texts, tmp_path, shown):
    documents = [document.text for document in read_documents([texts])]
    rows = measure_model(model_folder, [write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in documents])], shown[0])
    assert rows["unit"] == "row"
    assert rows["differences"][0]["n"] == len(documents) == rows["calibration"]["interval"]["n"] == 40
    assert rows["differences"][0]["verdict"] == "worse"  # untrained
    (tmp_path / "one.txt").write_text("\n\n".join(documents))
    one = measure_model(model_folder, [tmp_path / "one.txt"], shown[0])
    assert one["unit"] == "block"
    assert one["differences"][0]["n"] == one["n_documents"] > 20
    assert one["differences"][0]["low"] is not None


@pytest.mark.slow
def test_evaluate_calls_nothing_a_tie_without_an_interval_and_says_what_it_left_out(model_folder, texts, shown):
    document = measure_model(model_folder, [texts], shown[0], max_bytes=1)
    assert document["n_documents_left_out"] == 39
    assert {difference["verdict"] for difference in document["differences"]} == {"unknown"}
    assert "a tie" not in shown[1]()
    assert "39 more documents were not measured" in shown[1]()


def test_files_that_are_the_same_are_one_reason():
    report = ReadReport(skipped=[("b", "the same file as a"), ("d", "the same file as c"), ("e", "empty")])
    assert not_read(report)["files"] == {"the same file as another": 2, "empty": 1}
