"""`evaluate --suite` shows every figure with its error and its baselines, and goes on where it was."""

import gzip
import json

import pytest

from touchstone.cli.main import main
from touchstone.errors import ConfigError, DataError, RunFolderError, UnknownName
from touchstone.evaluate.run import run_task
from touchstone.evaluate.suites import SUITES, suite_task
from touchstone.flows.suite_measuring import measure_suites, show_suites
from touchstone.infer import load
from touchstone.report.chinese_suites import CHINESE_NEEDS, CHINESE_SUITES


@pytest.fixture
def data(tmp_path):
    """A folder with the files of two benchmarks, each of a few rows, one of them bad."""
    folder = tmp_path / "benchmarks"
    (folder / "fewglue" / "COPA").mkdir(parents=True)
    copa = [{"premise": f"A {n}.", "choice1": "An a.", "choice2": "A b.", "question": "effect", "label": n % 2} for n in range(9)]
    (folder / "fewglue" / "COPA" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copa))
    wino = [{"context_options": [f"Ann {n}", f"Bea {n}"], "continuation": "left.", "gold": n % 2} for n in range(8)]
    rows = "".join(json.dumps(row) + "\n" for row in wino) + '{"gold": 1}\n'
    (tmp_path / "winogrande.jsonl").write_text(rows)
    return tmp_path


@pytest.fixture
def document(capsys):
    def run(*words):
        code = main([*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.slow
def test_the_figures_are_those_of_the_run_and_are_shown_with_error_and_baseline(model_folder, data, shown):
    found = measure_suites(model_folder, ["copa"], shown[0], data=data)
    expected = run_task(load(model_folder), suite_task("copa", data))
    figures = {figure["metric"]["name"]: figure for figure in found["suites"]["copa"]["figures"]}
    assert figures["accuracy"]["value"] == expected.figure("accuracy").value
    assert figures["accuracy"]["standard_error"] == pytest.approx(expected.figure("accuracy").standard_error)
    text = shown[1]()
    value, error = expected.figure("accuracy").value, expected.figure("accuracy").standard_error
    assert f"{value:.4g} ± {error:.2g}" in text
    assert "random" in text
    assert "copa: Which of two sentences is the cause, or the effect. 9 examples in 9 clusters." in text


@pytest.mark.slow
def test_bad_rows_are_shown_with_their_place(model_folder, data, shown):
    measure_suites(model_folder, ["winogrande"], shown[0], data=data / "winogrande.jsonl")
    text = shown[1]()
    assert "1 rows were not evaluated: 1 × missing field" in text
    assert "winogrande.jsonl:9: missing field: no `context_options`" in text
    with pytest.raises(DataError, match="`policy` is strict"):
        measure_suites(model_folder, ["winogrande"], shown[0], data=data / "winogrande.jsonl", policy="strict")


@pytest.mark.slow
def test_results_are_kept_and_another_model_is_refused(model_folder, data, shown, tmp_path, tokenizer):
    from touchstone.models import build, decoder_spec
    from touchstone.models.checkpoint import save_model

    kept = tmp_path / "results"
    first = measure_suites(model_folder, ["copa"], shown[0], data=data, results=kept)
    assert measure_suites(model_folder, ["copa"], shown[0], data=data, results=kept) == first
    assert json.loads((kept / "copa" / "result.json").read_text()) == first["suites"]["copa"]
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_seq_len=32)
    save_model(tmp_path / "other", build(spec, seed=8), tokenizer=tokenizer)
    with pytest.raises(RunFolderError, match="weights_sha256"):
        measure_suites(tmp_path / "other", ["copa"], shown[0], data=data, results=kept)


@pytest.mark.slow
def test_one_suite_that_fails_is_told_and_the_others_go_on(model_folder, data, shown):
    rows = [{"context_options": [f"Ann {n} " * 40, f"Bea {n} " * 40], "continuation": "left.", "gold": 0} for n in range(3)]
    (data / "winogrande.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = measure_suites(model_folder, ["winogrande", "copa"], shown[0], data=data)
    assert (found["status"], list(found["failed"]), list(found["suites"])) == ("problem", ["winogrande"], ["copa"])
    assert "winogrande: `winogrande`: no example was left to score" in shown[1]()
    with pytest.raises(DataError, match="With `policy` cut"):
        measure_suites(model_folder, ["winogrande"], shown[0], data=data)


def test_shots_that_a_suite_does_not_take_are_refused_before_a_model_is_opened(data, shown, tmp_path):
    with pytest.raises(ConfigError, match="`winogrande` takes no `shots`"):
        measure_suites(tmp_path / "no model", ["winogrande"], shown[0], data=data / "winogrande.jsonl", shots=2)


def test_names_and_files_are_checked_before_a_model_is_opened(data, shown, tmp_path):
    with pytest.raises(UnknownName, match="Did you mean `copa`"):
        measure_suites(tmp_path / "no model", ["copaa"], shown[0], data=data)
    with pytest.raises(DataError, match="lambada"):
        measure_suites(tmp_path / "no model", ["copa", "lambada"], shown[0], data=data)
    with pytest.raises(ConfigError, match="one file, and 2 suites"):
        measure_suites(tmp_path / "no model", ["copa", "piqa"], shown[0], data=data / "winogrande.jsonl")
    with pytest.raises(ConfigError, match="measured once"):
        measure_suites(tmp_path / "no model", ["copa", "copa"], shown[0], data=data)


def test_the_list_names_every_suite_in_both_languages(shown, shown_in_chinese):
    listed = show_suites(shown[0])
    assert [suite["name"] for suite in listed["suites"]] == list(SUITES)
    assert all(name in shown[1]() for name in SUITES)
    show_suites(shown_in_chinese[0])
    assert "评测集" in shown_in_chinese[1]()
    assert CHINESE_SUITES.keys() == SUITES.keys()
    assert CHINESE_NEEDS.keys() == {suite.needs for suite in SUITES.values()}
    assert not any(suite.description in shown_in_chinese[1]() or suite.needs in shown_in_chinese[1]() for suite in SUITES.values())


@pytest.mark.slow
def test_the_command_measures_suites(document, model_folder, data, tmp_path):
    code, found = document(
        *("evaluate", model_folder, "--suite", "copa", "--suite", "probes-en", "--suite-data", data),
        *("--limit", 5, "--shots", 0, "--bad-rows", "cut", "--results", tmp_path / "kept"),
    )
    assert code == 0
    assert set(found["suites"]) == {"copa", "probes-en"}
    assert found["suites"]["copa"]["n_examples"] == found["suites"]["copa"]["limit"] == 5
    assert found["suites"]["copa"]["identity"]["over_context"] == "cut"


def test_the_command_lists_suites_without_a_model(document):
    code, found = document("evaluate", "--list")
    assert code == 0
    assert len(found["suites"]) == len(SUITES)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate"], "`evaluate` needs a model"),
        (["evaluate", "MODEL", "--limit", "3"], "`--limit` belongs to `--suite NAME`"),
        (["evaluate", "MODEL", "--suite", "copa", "--data", "x"], "belongs to a measurement without `--suite`"),
        (["evaluate", "MODEL", "--suite", "helaswag"], "Did you mean `hellaswag`"),
        (["evaluate", "MODEL", "--suite", "hellaswag"], "give the file, or the folder they lie in"),
    ],
)
def test_slips_are_answered(capsys, model_folder, words, says):
    assert main([str(model_folder) if word == "MODEL" else word for word in words]) == 2
    assert says in capsys.readouterr().err
