"""`evaluate` gives figures with intervals, and compressors beside them."""

import pytest

from touchstone.errors import ConfigError, DataError, Unsupported
from touchstone.flows.measuring import measure_model
from touchstone.infer import load
from touchstone.models import build, encoder_spec
from touchstone.models.checkpoint import save_model


@pytest.mark.slow
def test_a_model_is_scored_beside_compressors_with_paired_verdicts(model_folder, texts, shown):
    document = measure_model(model_folder, [texts], shown[0], max_bytes=4000)
    assert document["n_documents"] < 40
    assert document["n_documents"] + document["n_documents_left_out"] == 40
    models = document["models"]
    assert {"model", "xz", "bz2", "zlib"} <= set(models)
    for difference in document["differences"]:
        gap = models["model"]["bits_per_byte"]["value"] - models[difference["b"]]["bits_per_byte"]["value"]
        assert difference["value"] == pytest.approx(gap)
        assert difference["verdict"] == "worse"  # untrained
    assert document["calibration"]["n"] == document["n_tokens"]
    assert "worse" in shown[1]()


@pytest.mark.slow
def test_the_figure_is_that_of_rolling(model_folder, tmp_path, shown):
    path = tmp_path / "one.txt"
    path.write_text("def add_one(left, right): return left\n" * 3)
    document = measure_model(model_folder, [path], shown[0], stride=7)
    expected = load(model_folder).rolling([path.read_text()], stride=7)[0].bits_per_byte
    assert document["models"]["model"]["bits_per_byte"]["value"] == pytest.approx(expected, rel=1e-6)
    assert document["models"]["model"]["bits_per_byte"]["low"] is None  # one file has no interval


def test_a_model_without_a_run_needs_text(model_folder, shown):
    with pytest.raises(ConfigError, match="--data PATH"):
        measure_model(model_folder, [], shown[0])


def test_text_that_is_not_there_is_one_clear_error(model_folder, tmp_path, shown):
    with pytest.raises(DataError, match="no such file or folder"):
        measure_model(model_folder, [tmp_path / "missing"], shown[0])


def test_a_model_that_is_no_language_model_is_refused_before_any_text_is_read(tmp_path, tokenizer, shown):
    net = build(encoder_spec(vocab_size=tokenizer.vocab_size, d_model=12, n_layers=1, n_heads=3, max_seq_len=16))
    save_model(tmp_path / "masked", net, tokenizer=tokenizer)
    with pytest.raises(Unsupported, match="cannot `rolling`: it reads texts whole and predicts no next token"):
        measure_model(tmp_path / "masked", [tmp_path / "missing"], shown[0])
