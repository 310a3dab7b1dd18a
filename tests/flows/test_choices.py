"""What is open is decided once, by measuring, within the memory and the time there is."""

import numpy as np
import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.flows.choices import MEMORY_SHARE, choose, fitted_to_memory, scaled_to_steps
from touchstone.nn.products import ProductChoice, onednn_product
from touchstone.runtime import Runtime
from touchstone.text.batch import PaddedRows
from touchstone.train.estimate import estimate
from touchstone.train.recipes import recipe

RUNTIME = Runtime(torch.device("cpu"), torch.float32, 1, {"device": "cpu", "threads": "1"})
CONFIG = recipe("gpt-small").config
TINY = CONFIG.replace(
    model=CONFIG.model.replace(d_model=8, n_layers=1, n_heads=2), context=5, train=CONFIG.train.replace(batch_size=4, n_steps=100)
)
SOURCE = PaddedRows(np.random.default_rng(0).integers(0, 11, (9, 6)).tolist())


@pytest.fixture
def measured(monkeypatch):
    """Paces by numeric scheme, which a test may change."""
    paces = {"float32": 0.5, "onednn": 0.4, "bfloat16": 0.4}

    def pace(net, objective, source, train, **_):
        return paces["onednn" if net.lm_head.product is onednn_product else train.precision]

    monkeypatch.setattr("touchstone.flows.choices.choose_product", lambda: ProductChoice("onednn", 2.0, "by hand"))
    monkeypatch.setattr("touchstone.flows.choices.measure_pace", pace)
    monkeypatch.setattr("touchstone.flows.choices.measure_matmul", lambda device, dtype, **_: 3.0 if dtype == torch.bfloat16 else 1.0)
    return paces


def chosen(minutes=None, explicit=(), evaluation_s=0.0, config=TINY):
    return choose(config, config.to_spec(11), SOURCE, RUNTIME, minutes=minutes, explicit=explicit, evaluation_s=evaluation_s)


def test_minutes_become_the_steps_that_fit_beside_the_evaluations(measured):
    config, record = chosen(minutes=2.0, evaluation_s=3.0)  # one evaluation every hundred steps and one at the end: 2
    assert config.train.n_steps == (120 - 2 * 3) / 0.4
    assert config.train.max_seconds == 120 - 2 * 3
    assert record.minutes == 2.0
    assert record.settings["train.n_steps"] == config.train.n_steps


def test_without_minutes_the_length_stays(measured):
    config, record = chosen()
    assert config.train.n_steps == 100
    assert "train.n_steps" not in record.settings


def test_bfloat16_is_taken_only_where_steps_are_faster_by_it(measured):
    measured["bfloat16"] = 0.3
    config, record = chosen()
    assert (config.train.precision, record.product) == ("bfloat16", "torch")
    measured["bfloat16"] = 0.39
    config, record = chosen()
    assert (config.train.precision, record.product) == ("float32", "onednn")


def test_a_product_is_taken_only_where_whole_steps_are_faster_by_it(measured):
    measured["onednn"] = 0.48
    config, record = chosen(explicit={"train.precision"})
    assert (config.train.precision, record.product) == ("float32", "torch")
    assert record.reasons["product"].startswith("torch: a step with onednn measured 1.04")


def test_a_slow_spell_in_one_round_decides_nothing(measured, monkeypatch):
    calls = []

    def pace(net, objective, source, train, **_):
        calls.append("onednn" if net.lm_head.product is onednn_product else train.precision)
        return measured[calls[-1]] * (9 if len(calls) <= 2 else 1)

    monkeypatch.setattr("touchstone.flows.choices.measure_pace", pace)
    _, record = chosen(minutes=1.0)
    assert calls[:4] == ["float32", "onednn", "bfloat16", "float32"]
    assert (record.product, record.settings["train.n_steps"]) == ("onednn", 60 / 0.4)


def test_slow_bfloat16_products_end_the_question(measured, monkeypatch):
    measured["bfloat16"] = 0.1
    monkeypatch.setattr("touchstone.flows.choices.measure_matmul", lambda *_, **__: 1.0)
    assert chosen()[0].train.precision == "float32"


def test_a_setting_the_user_gave_is_not_measured(measured):
    measured["bfloat16"] = 0.1
    config, record = chosen(explicit={"train.precision"})
    assert config.train.precision == "float32"
    assert "precision" not in record.reasons


def test_the_micro_batch_is_halved_until_it_fits():
    config = CONFIG.replace(train=CONFIG.train.replace(batch_size=12))
    need = {n: estimate(config.replace(train=config.train.replace(micro_batch_size=n)), 8192).memory_bytes for n in (12, 6, 3, 2, 1)}
    assert fitted_to_memory(config, 8192, available=int(need[12] / MEMORY_SHARE) + 9) == 12
    assert fitted_to_memory(config, 8192, available=int(need[3] / MEMORY_SHARE) + 9) == 3
    with pytest.raises(ConfigError, match="smaller recipe"):
        fitted_to_memory(config, 8192, available=int(need[1] / MEMORY_SHARE) - 9)


def test_schedules_move_with_the_length():
    changes = scaled_to_steps(CONFIG.train, 400)  # half of 800; evaluations every 100, warm-up 50
    assert changes == {
        "train.n_steps": 400,
        "train.save_every": 50,
        "train.eval_every": 50,
        "train.sample_every": 100,
        "train.schedule.warmup_steps": 50,
    }


def test_a_short_run_has_a_short_warm_up_and_a_long_one_saves_as_often():
    assert scaled_to_steps(CONFIG.train, 20)["train.schedule.warmup_steps"] == 4
    long = scaled_to_steps(CONFIG.train, 8000)
    assert (long["train.save_every"], long["train.eval_every"]) == (100, 1000)
