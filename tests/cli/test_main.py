"""The command: help that is light, errors that are one line, exit codes that mean something."""

import errno
import json
import subprocess
import sys

import pytest

from touchstone.cli import main as module
from touchstone.cli.main import VERBS, main
from touchstone.errors import ConfigError, SaveFailed, TrainingDiverged

HEAVY = ("torch", "numpy", "tokenizers", "matplotlib", "safetensors", "yaml", "touchstone.config", "touchstone.flows")


@pytest.mark.slow
def test_help_of_every_verb_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from touchstone.cli.main import VERBS, main\n"
        "for verb in VERBS: assert main([verb, '--help']) == 0\n"
        "assert main(['--help']) == main([]) == main(['--version']) == 0\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_json_and_a_language(verb, capsys):
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"touchstone {verb}" in shown
    assert "--json" in shown
    assert "--lang" in shown


@pytest.mark.parametrize("verb", ["quickstart", "train", "prepare"])
def test_long_work_can_be_rehearsed(verb, capsys):
    main([verb, "--help"])
    assert "--dry-run" in capsys.readouterr().out


def test_no_verb_shows_the_help(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian gpt-small --data x", "touchstone train gpt-small --data x"),
        ("train gpt-small my_texts/", "touchstone train gpt-small --data my_texts/"),
        ("train gpt-small a.txt b.txt train.seed=7", "touchstone train gpt-small --data a.txt --data b.txt train.seed=7"),
        ("train my_texts/", "touchstone train gpt-small --data my_texts/"),
        ("train gpt-small --dta my_texts/", "touchstone train gpt-small --data my_texts/"),
        ("train gpt-small --train.seed=7", "touchstone train gpt-small train.seed=7"),
        ("train", "touchstone train gpt-small --data my_texts/"),
        ("evaluate runs/mine other/", "touchstone evaluate runs/mine --data other/"),
        ("complete runs/mine --alternative 5 x", "touchstone complete runs/mine --alternatives 5 x"),
    ],
)
def test_a_slip_is_answered_with_the_right_command(typed, meant, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(typed.split()) == 2
    shown = capsys.readouterr().err
    assert f"Did you mean `{meant}`?" in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("generate", "touchstone generate --help"),
        ("train gpt-small --minutes soon", "touchstone train --help"),
        ("train gpt-small --data", "touchstone train --help"),
        ("quickstart --lang de", "touchstone quickstart --help"),
        ("zzz", "All: quickstart, doctor"),
        (f"convert {__file__} new", "`--from llama2c`"),
        ("convert runs/mine new --dtype float8", "touchstone convert --help"),
        ("convert runs/mine new --max-shard-size big", "500MB"),
        ("train gpt-small not_a_setting", "KEY=VALUE"),
    ],
)
def test_a_command_that_cannot_be_read_is_one_line_that_says_where_to_look(typed, said, capsys):
    assert main(typed.split()) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1


def raising(error):
    def verb(as_json: bool = False) -> int:
        """A verb that fails."""
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a rule, a value, a remedy."), 2),
        (TrainingDiverged("it diverged."), 3),
        (SaveFailed("not saved."), 4),
        (KeyboardInterrupt(), 130),
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), 2),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line(error, code, monkeypatch, capsys):
    monkeypatch.setattr(module, "VERBS", {"doctor": raising(error)})
    assert main(["doctor"]) == code
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert "Traceback" not in shown


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(module, "VERBS", {"doctor": raising(ZeroDivisionError())})
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_with_json_an_error_is_a_document_too(capsys):
    assert main(["train", "gpt-smal", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["error"]["kind"] == "UnknownName"
    assert "gpt-small" in document["error"]["message"]
    assert document["error"]["exit_code"] == 2
    assert document["error"]["message"] in captured.err


def test_the_exit_code_of_an_interrupted_run_is_that_of_ctrl_c(monkeypatch):
    from touchstone.cli.session import finish
    from touchstone.report.terminal import Terminal

    assert finish(Terminal(), {"status": "interrupted"}) == 130
    assert finish(Terminal(), {"status": "problem"}) == 1
    assert finish(Terminal(), {"status": "finished"}) == 0


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_error_line_cannot_steer_the_terminal_and_its_document_is_utf8(flags, monkeypatch, capfdbinary):
    told = "caf\udce9.csv:3: no label `\x1b]0;owned\x07\ud800x 标签\x9b`."

    def refuse(lang, as_json):
        raise ConfigError(told)

    monkeypatch.setattr("touchstone.cli.session.open_terminal", refuse)
    assert main(["doctor", *flags]) == 2
    shown = capfdbinary.readouterr()
    assert shown.err.decode() == "touchstone: caf\\udce9.csv:3: no label `\\x1b]0;owned\\x07\\ud800x 标签\\x9b`.\n"
    assert (json.loads(shown.out.decode())["error"]["message"] == told) if flags else (shown.out == b"")


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        ("quickstart", True),
        ("train gpt-small --data x", True),
        ("evaluate m --suite piqa --results folder", True),
        ("evaluate m --suite piqa", False),
        ("evaluate m", False),
        ("assay m --out folder", False),
        ("calibrate m --data x", False),
        ("convert m other", False),
    ],
)
def test_ctrl_c_promises_to_go_on_only_where_the_verb_saves_on_its_way(words, goes_on, monkeypatch, capsys):
    def stop(lang, as_json):
        raise KeyboardInterrupt

    monkeypatch.setattr("touchstone.cli.session.open_terminal", stop)
    assert main(words.split()) == 130
    shown = capsys.readouterr().err
    assert ("goes on from there" in shown, "begins anew" in shown) == (goes_on, not goes_on)


@pytest.mark.parametrize(
    ("words", "told", "spelled"),
    [
        (["calibrate", "m"], "set `label_field` to it", "set `--label-field` to it"),
        (["evaluate", "m"], "choose another `text_field`.", "choose another `--text-field`."),
        (["train", "r"], "set `label_field` to it", "set `objective.label_field` to it"),
        (["train", "r"], "`vocab_size` (9): set `vocab_size=5`", "`tokenizer.vocab_size` (9): set `tokenizer.vocab_size=5`"),
        (["--json"], "`label_field`", "`label_field`"),
        (["calibrate", "m"], "fields: `label`, `text`", "fields: `label`, `text`"),
    ],
)  # fmt: skip
def test_a_setting_in_an_error_is_spelled_as_the_command_takes_it(words, told, spelled):
    assert module._spelled(words, told) == spelled


def test_the_settings_that_errors_name_are_settings_of_a_training():
    from touchstone.train.objective_config import ClassifyConfig
    from touchstone.train.run_config import RunConfig

    for name, section in module._SECTIONS.items():
        kinds = [ClassifyConfig] if section == "objective" else [RunConfig.model_fields[section].annotation]
        assert any(name in str(getattr(kind, "model_fields", kind)) for kind in kinds), name


@pytest.mark.parametrize(("option", "value"), [("--grammar", "start: A"), ("--json-schema", '{"type": "object"}')])
def test_a_form_that_is_no_file_is_told_so(option, value, capsys):
    assert main(["generate", "runs/none", "x", option, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "take the name of a file" in line


def test_a_form_that_is_no_text_is_told_so(tmp_path, capsys):
    (tmp_path / "form").write_bytes(b"start: \xff")
    assert main(["generate", "runs/none", "x", "--grammar", str(tmp_path / "form")]) == 2
    assert "byte 7 is no UTF-8" in capsys.readouterr().err
