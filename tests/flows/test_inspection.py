"""Inspecting says what is there, whatever is there."""

import json

import pytest

from touchstone.errors import DataError
from touchstone.flows.inspection import inspect_path
from touchstone.models import PoolHead, TagHead, build, encoder_spec
from touchstone.models.card import Card, SentencePooling
from touchstone.models.checkpoint import save_model


def test_a_model_is_shown_with_its_sizes_and_its_tokenizer(model_folder, shown, tokenizer):
    terminal, text = shown
    found = inspect_path(model_folder, terminal)
    assert found["what"] == "model"
    vocab, d, d_ff, d_kv = tokenizer.vocab_size, 16, 48, 8
    layer = d * d * 2 + d * d_kv * 2 + 3 * d * d_ff + 2 * d
    assert found["parameters"] == vocab * d + 2 * layer + d
    assert found["tokenizer"] == vocab
    assert found["spare_rows"] == 0
    assert f"{found['parameters']:,}" in text()
    json.dumps(found)


@pytest.mark.slow
def test_labels_are_shown_by_name_and_how_vectors_are_made(tmp_path, shown):
    sizes = {"vocab_size": 11, "d_model": 12, "n_layers": 1, "n_heads": 3, "max_seq_len": 9}
    save_model(tmp_path / "tagger", build(encoder_spec(**sizes, head=TagHead(n_labels=2))), card=Card(labels=("O", "B-PER")))
    found = inspect_path(tmp_path / "tagger", shown[0])
    assert found["labels"] == ["O", "B-PER"]
    assert "O, B-PER" in shown[1]()
    pooling = SentencePooling(mode="mean", normalise=True, max_seq_len=7)
    save_model(tmp_path / "vectors", build(encoder_spec(**sizes, head=PoolHead())), card=Card(pooling=pooling))
    found = inspect_path(tmp_path / "vectors", shown[0])
    assert found["pooling"] == pooling.model_dump(mode="json")
    assert "mode mean, normalise True, max_seq_len 7" in shown[1]()
    assert "labels" not in found


def test_a_run_folder_is_its_model(model_folder, shown, tmp_path):
    (tmp_path / "model").symlink_to(model_folder)
    assert inspect_path(tmp_path, shown[0])["model_type"] == inspect_path(model_folder, shown[0])["model_type"]


def test_a_run_without_a_model_shows_its_step_and_its_command(tmp_path, shown):
    (tmp_path / "config.yaml").write_text("name: mine\n")
    (tmp_path / "command.txt").write_text("touchstone train gpt-small --data x\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": NaN}\n')
    found = inspect_path(tmp_path, shown[0])
    assert (found["what"], found["step"], found["loss"]) == ("run", 4, None)
    assert "touchstone train gpt-small --data x" in shown[1]()


def test_text_is_counted_and_its_first_documents_shown(tmp_path, shown):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    found = inspect_path(tmp_path, shown[0], n_rows=2)
    assert (found["files"], found["documents"], found["bom"], found["crlf"], found["skipped"]) == (2, 3, 1, 1, 1)
    assert [row["text"] for row in found["first"]] == ["one\ntwo\n", "three"]
    assert "four" not in shown[1]()
    json.dumps(found)


def test_what_is_not_there_is_one_clear_error(tmp_path, shown):
    with pytest.raises(DataError, match=r"missing\.txt: no such file"):
        inspect_path(tmp_path / "missing.txt", shown[0])
