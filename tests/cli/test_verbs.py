"""The verbs from the command line to their document on stdout."""

import io
import json
import sys
from pathlib import Path

import pytest

from touchstone.cli.main import main
from touchstone.models import build, encoder_spec
from touchstone.models.checkpoint import save_model


@pytest.fixture
def document(capsys):
    """Run a command with --json and read the one document it prints."""

    def run(*words):
        code = main([*map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def typed(monkeypatch):
    """Put a text on stdin."""

    def type_in(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return type_in


@pytest.mark.slow
def test_generate_takes_every_sampling_setting(document, model_folder):
    settings = {
        **{"max-new-tokens": 4, "min-new-tokens": 2, "temperature": 0.9, "top-k": 50, "top-p": 0.95, "min-p": 0.01},
        **{"repetition-penalty": 1.1, "presence-penalty": 0.1, "frequency-penalty": 0.1, "logit-bias": "5=-2"},
        **{"stop": "zzz", "seed": 3, "n": 2, "top-logprobs": 3},
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    code, found = document("generate", model_folder, "one", "two", "--ignore-eos", *words)
    assert code == 0
    completions = found["completions"]
    assert [(c["request_index"], c["index"], c["prompt"]) for c in completions] == [
        (0, 0, "one"),
        (0, 1, "one"),
        (1, 0, "two"),
        (1, 1, "two"),
    ]
    assert all(c["seed"] == 3 and len(c["logprobs"]) == len(c["token_ids"]) == 4 for c in completions)
    assert all(len(step) in (3, 4) for c in completions for step in c["top_logprobs"])


def test_generate_reads_a_prompt_from_stdin(document, model_folder, typed):
    typed("some words")
    assert document("generate", model_folder, "-", "--max-new-tokens", 2)[1]["completions"][0]["prompt"] == "some words"


@pytest.mark.parametrize("verb", ["generate", "complete"])
def test_stdin_that_is_no_text_is_one_clear_error(monkeypatch, capsys, model_folder, verb):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert main([verb, str(model_folder), "-"]) == 2
    assert capsys.readouterr().err == "touchstone: stdin: byte 2 is no UTF-8; give text in UTF-8.\n"


def test_generate_without_json_shows_prompt_and_text(capsys, model_folder):
    assert main(["generate", str(model_folder), "some words", "--max-new-tokens", "3", "--seed", "1", "--stream"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("some words")
    assert "3 tokens" in shown


@pytest.mark.slow
def test_complete_takes_an_argument_or_stdin(document, model_folder, typed):
    code, given = document("complete", model_folder, "some ", "--alternatives", 2)
    assert code == 0
    typed("some ")
    assert document("complete", model_folder, "--alternatives", 2)[1] == given
    assert len(given["alternatives"]) == 2


@pytest.mark.slow
def test_evaluate_scores_a_text(document, model_folder, tmp_path):
    (tmp_path / "a.txt").write_text("some other words " * 9)
    (tmp_path / "b.txt").write_text("a text of words " * 9)
    code, found = document("evaluate", model_folder, "--data", tmp_path, "--stride", 8)
    assert code == 0
    assert (found["n_documents"], found["method"]) == (2, "overlapping windows, stride 8 of context 32")


def test_inspect_tells_a_model_from_a_text(document, model_folder, tmp_path):
    (tmp_path / "a.txt").write_text("words\n")
    assert document("inspect", model_folder)[1]["what"] == "model"
    assert document("inspect", tmp_path)[1]["what"] == "data"


@pytest.mark.slow
def test_convert_takes_every_setting_and_says_how_far_the_folder_was_checked(document, model_folder, tmp_path):
    code, found = document("convert", model_folder, tmp_path / "new", "--dtype", "bfloat16", "--max-shard-size", "10KB")
    assert code == 0
    assert (found["model_type"], found["opens_in_transformers_as"]) == ("llama", "LlamaForCausalLM")
    assert found["check"]["n_prompts"] == 3
    assert 0 < found["check"]["max_difference"] < 1
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 1
    code, found = document("convert", model_folder, tmp_path / "new")
    assert (code, found["error"]["kind"]) == (2, "ConfigError")


@pytest.mark.slow
def test_convert_speaks_chinese(capsys, model_folder, tmp_path):
    assert main(["convert", str(model_folder), str(tmp_path / "new"), "--lang", "zh"]) == 0
    assert "逐位相同" in capsys.readouterr().out


@pytest.mark.slow
def test_a_llama2_c_file_is_converted_with_its_tokenizer(document, test_data, tmp_path):
    source = test_data / "weights" / "stories260K"
    words = ("convert", source / "stories260K.bin", tmp_path / "new", "--from", "llama2c", "--tokenizer", source / "tok512.bin")
    code, found = document(*words)
    assert (code, found["check"]["bit_equal"], list(found["ignored"])) == (0, True, ["freq_cis_real", "freq_cis_imag"])
    code, found = document("generate", tmp_path / "new", "Once upon", "--max-new-tokens", 9, "--temperature", 0)
    assert code == 0
    expected = (source / "greedy_200_expected.txt").read_text(encoding="utf-8")
    assert expected.startswith("Once upon" + found["completions"][0]["text"])


def test_the_recipes_are_listed(document):
    code, found = document("train", "--list")
    assert code == 0
    assert {"quickstart", "gpt-small", "gpt2-124m", "ngram"} <= {entry["name"] for entry in found["recipes"]}


def test_a_rehearsed_training_writes_nothing(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("touchstone.flows.plan.measure_matmul", lambda *_, **__: 28e9)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words\n")
    code, found = document("train", "gpt-small", "--data", "texts", "--dry-run", "train.seed=5")
    assert (code, found["status"], found["config"]["train"]["seed"]) == (0, "dry-run", 5)
    assert found["memory_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_files_held_out_by_name_are_settings_of_the_data(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("touchstone.flows.plan.measure_matmul", lambda *_, **__: 28e9)
    for name in ("train", "dev", "test"):
        Path(f"{name}.tsv").write_text("text\tlabel\nwords\ta\n")
    files = ("--data", "train.tsv", "--valid", "dev.tsv", "--test", "test.tsv")
    code, found = document("train", "classify-bow", *files, "--dry-run")
    assert (code, found["n_files"]) == (0, 3)
    data = found["config"]["data"]
    assert (data["sources"], data["valid_sources"], data["test_sources"]) == (["train.tsv"], ["dev.tsv"], ["test.tsv"])


def test_a_rehearsed_quickstart_says_how_long_it_takes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("touchstone.flows.plan.measure_matmul", lambda *_, **__: 28e9)
    assert main(["quickstart", "--dry-run", "--lang", "zh", "--minutes", "2"]) == 0
    assert "2 分 0 秒" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_chinese_is_spoken_where_it_is_asked_for(capsys, model_folder):
    assert main(["inspect", str(model_folder), "--lang", "zh"]) == 0
    assert "参数量" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data", "x", "--bad-rows", "strict"], "`--bad-rows` belongs to `--suite NAME`"),
        (["--bad-rows", "cut", "--shots", "2"], "`--shots` and `--bad-rows` belong to `--suite NAME`"),
        (["--suite", "probes", "--max-bytes", "5", "--text-field", "nosuch"], "`--text-field` and `--max-bytes` belong to a measurement"),
        (["--suite", "probes", "--stride", "5"], "`--stride` belongs to a measurement without `--suite`"),
    ],
)
def test_evaluate_refuses_an_option_that_would_change_nothing(words, named, model_folder, capsys):
    assert main(["evaluate", str(model_folder), *words]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_of_a_model_that_predicts_no_text_says_what_measures_it(tmp_path, capsys):
    save_model(tmp_path / "encoder", build(encoder_spec(vocab_size=30, d_model=8, n_layers=1, n_heads=2, max_seq_len=16), seed=1))
    assert main(["evaluate", str(tmp_path / "encoder"), "--data", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert f"touchstone assay {tmp_path / 'encoder'} --data PATH" in shown
    assert "--suite NAME" in shown
