"""Bad input to the command: one clear line that says what, where and how to repair it, an exit code, and nothing lost."""

import gzip
import json
import os
import random

import pytest

from touchstone.cli.main import main
from touchstone.files import lock_folder

pytestmark = pytest.mark.slow

_RNG = random.Random(3)
GOOD = "".join(
    " ".join(_RNG.choice("bdgklmnprst") + _RNG.choice("aeiou") + _RNG.choice("lmnrst") for _ in range(9)) + "\n" for _ in range(400)
)
"""Fourteen kilobytes of lines that are all different."""

TINY = (
    *("tokenizer.vocab_size=280", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "context=16"),
    *("train.n_steps=4", "train.batch_size=2", "train.schedule.warmup_steps=1"),
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own to run in, with a cache of its own; nothing is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOUCHSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("touchstone.flows.choices.measure_matmul", lambda *_, **__: 1e9)
    monkeypatch.setattr("touchstone.flows.journey.measure_matmul", lambda *_, **__: 1e9)
    return tmp_path


@pytest.fixture
def train(place, capsys):
    """Run `train gpt-small` on these files (name -> bytes); returns (exit code, the lines on stderr)."""

    def run(files, *words, out="run", tiny=TINY, recipe="gpt-small"):
        (place / "texts").mkdir(exist_ok=True)
        for name, data in files.items():
            (place / "texts" / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        code = main(["train", recipe, "--data", "texts", "--out", out, *tiny, *words])
        return code, capsys.readouterr().err.splitlines()

    return run


def assert_one_line(result, *said):
    code, lines = result
    assert code == 2
    assert len(lines) == 1, lines
    for text in said:
        assert text in lines[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"bad.txt": b"fine\nnot \xff\xfe utf-8\n"}, ["bad.txt:2", "UTF-8"]),
        ({"bad.txt": b"some\x00thing binary"}, ["bad.txt"]),
        ({"bad.txt.gz": gzip.compress(GOOD.encode())[:-20]}, ["bad.txt.gz"]),
        ({"bad.jsonl": '{"text": "fine"}\n{"body": "no text"}\n'}, ["bad.jsonl:2", "text"]),
        ({"bad.jsonl": '{"text": "fine"}\nnot json\n'}, ["bad.jsonl:2"]),
        ({"empty.txt": b""}, ["no text to read"]),
        ({"picture.png": b"\x89PNG"}, ["texts", "no text to read", ".jsonl"]),
        ({"short.txt": "Too short.\n"}, ["too little text to split", "valid_fraction"]),
    ],
)
def test_text_that_cannot_be_used_is_named_with_its_place(train, files, said, place):
    assert_one_line(train(files), *said)
    assert not (place / "run" / "model").exists()


def test_an_empty_file_among_good_ones_is_counted_and_said(train, place):
    code, lines = train({"good.txt": GOOD, "empty.txt": b""})
    assert code == 0
    assert any("empty.txt" in line for line in lines)


def test_a_bom_crlf_and_one_long_line_are_normal(train, place):
    long_line = " ".join(f"word{i % 7}" for i in range(900))
    files = {"a.txt": b"\xef\xbb\xbf" + GOOD.encode(), "b.txt": GOOD.replace("\n", "\r\n").upper(), "c.txt": long_line}
    assert train(files)[0] == 0
    assert (place / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.n_step=3"], ["unknown key `train.n_step`", "did you mean `n_steps`"]),
        (["train.seed=many"], ["`train.seed`", "integer"]),
        (["no_equals_sign"], ["KEY=VALUE"]),
        (["tokenizer.vocab_size=100000"], ["vocab_size", "largest possible is"]),
        (["context=1000000"], ["`context` (1000000) is longer than the data"]),
        (["model.n_heads=3"], ["n_heads"]),
        (["--minutes", "-1"], ["--minutes"]),
        (["--device", "tpu"], ["tpu", "cpu"]),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_the_remedy(train, words, said):
    assert_one_line(train({"good.txt": GOOD}, *words), *said)


def test_an_unknown_recipe_lists_near_names(train):
    assert_one_line(train({"good.txt": GOOD}, recipe="gpt_smal", tiny=()), "No recipe `gpt_smal`", "`gpt-small`")


def test_a_settings_file_with_an_unknown_key_is_named(place, capsys):
    (place / "mine.yaml").write_text("name: mine\nmodel: {kind: ngram}\ncontext: 5\ntrian: {}\n")
    assert main(["train", "mine.yaml"]) == 2
    assert "mine.yaml: unknown key `trian`; did you mean `train`?" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(train, place):
    (place / "file").write_text("not a folder")
    assert_one_line(train({"good.txt": GOOD}, out="file/run"), "file/run", "cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_before_any_work(train, place):
    (place / "locked").mkdir(mode=0o500)
    assert_one_line(train({"good.txt": GOOD}, out="locked/run"), "locked/run", "cannot be written")


def test_a_run_folder_in_use_is_refused(train, place):
    with lock_folder(place / "run"):
        assert_one_line(train({"good.txt": GOOD}), "in use by process", str(os.getpid()))


def test_a_changed_configuration_is_refused_and_the_model_stays(train, place, capsys):
    assert train({"good.txt": GOOD})[0] == 0
    model = (place / "run" / "model" / "model.safetensors").read_bytes()
    assert_one_line(train({"good.txt": GOOD}, "train.seed=8"), "train.seed: 0 -> 8", "--out")
    assert (place / "run" / "model" / "model.safetensors").read_bytes() == model


def test_changed_text_is_refused_on_resume(train, place, monkeypatch):
    """An interrupted run must not go on with other text."""
    from touchstone.report.training import TrainingDisplay

    plain = TrainingDisplay.update

    def interrupt(self, report):
        plain(self, report)
        os.kill(os.getpid(), 2)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "update", interrupt)
        assert train({"good.txt": GOOD})[0] == 130
    before = sorted(path.name for path in (place / "run" / "checkpoints").iterdir())
    assert_one_line(train({"good.txt": GOOD + "One more sentence of other words.\n" * 9}), "holds a run that began differently")
    assert sorted(path.name for path in (place / "run" / "checkpoints").iterdir()) == before
    assert train({"good.txt": GOOD})[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "nowhere/at/all", "x"], ["nowhere/at/all"]),
        (["generate", "texts", "x"], ["texts", "config.json"]),
        (["evaluate", "texts"], ["texts"]),
        (["inspect", "missing.txt"], ["missing.txt: no such file or folder"]),
        (["prepare", "--data", "missing"], ["missing: no such file or folder"]),
        (["quickstart", "--minutes", "0"], ["--minutes"]),
        (["quickstart", "--corpus", "pyton"], ["No corpus `pyton`", "`python`"]),
    ],
)
def test_other_verbs_are_as_clear(place, capsys, words, said):
    (place / "texts").mkdir()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    for text in said:
        assert text in lines[0]


def test_with_json_every_fault_is_a_document(place, capsys):
    (place / "bad.txt").write_bytes(b"\xff")
    assert main(["prepare", "--data", "bad.txt", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"]) == ("DataError", 2)
    assert "bad.txt" in error["message"]
