import json

import pytest
import yaml

from touchstone.config import parse
from touchstone.errors import ConfigError
from touchstone.models.card import Calibration, Card, Lineage, Score, readme

SCORE = Score(
    name="bits per byte",
    value=1.4534,
    interval=(1.4, 1.5),
    n=42,
    method="bootstrap by file",
    on="held-out files",
    baselines={"5-gram": 1.49},
)
RECORD = Calibration(
    target="next-token",
    method="temperature",
    params={"temperature": 1.25},
    statistic={"ece_before": 0.02, "ece_after": 0.01},
    weights_hash="ab",
    numeric_scheme="float32",
    n=1000,
    date="2026-11-22",
)
CARD = Card(
    name="small | model",
    about="Reads Python.",
    language=("en", "zh"),
    license="apache-2.0",
    lineage=Lineage(data_hash="cafe", config={"train": {"seed": 1}}),
    labels=("no", "yes"),
    calibration=(RECORD,),
    scores=(SCORE,),
)


def test_a_card_survives_its_file() -> None:
    text = json.dumps(CARD.model_dump(mode="json", exclude_none=True))
    assert parse(Card, json.loads(text)) == CARD


def test_an_unknown_entry_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="`calibratoin`; did you mean `calibration`"):
        parse(Card, {"format": 1, "calibratoin": []})


def test_a_card_of_a_later_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format"):
        parse(Card, {"format": 2})


@pytest.mark.parametrize("interval", [[1.0], [1.0, 2.0, 3.0]])
def test_an_interval_has_two_ends(interval: list[float]) -> None:
    with pytest.raises(ConfigError, match="interval"):
        parse(Score, {**SCORE.model_dump(mode="json"), "interval": interval})


def test_the_front_matter_is_yaml_that_names_the_library() -> None:
    opening, front, body = readme(CARD, {"parameters": "1,234"}, opens_in_transformers=True).split("---\n", 2)
    assert opening == ""
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["touchstone"],
        "pipeline_tag": "text-generation",
        "language": ["en", "zh"],
        "license": "apache-2.0",
    }
    assert "# small \\| model\n" in body


def test_every_figure_stands_with_its_interval_n_and_baseline() -> None:
    text = readme(CARD, {}, opens_in_transformers=True)
    assert "| bits per byte | 1.453 [1.4, 1.5] at 95%; 5-gram 1.49 | held-out files | 42 | bootstrap by file |" in text
    assert "| next-token | temperature | temperature 1.25 | 1000 | 2026-11-22 |" in text
    assert "sha256 `cafe`" in text


def test_a_model_of_our_own_type_says_who_opens_it() -> None:
    text = readme(Card(), {}, opens_in_transformers=False)
    assert "opens in Touchstone only" in text
    assert "AutoModelForCausalLM" not in text
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "touchstone"


@pytest.mark.parametrize(
    ("use", "task", "name"),
    [
        ("seq2seq", "text2text-generation", "AutoModelForSeq2SeqLM"),
        ("masked-lm", "fill-mask", "AutoModelForMaskedLM"),
        ("classify", "text-classification", "AutoModelForSequenceClassification"),
        ("tag", "token-classification", "AutoModelForTokenClassification"),
        ("span", "question-answering", "AutoModelForQuestionAnswering"),
        ("base", "feature-extraction", "AutoModel"),
    ],
)
def test_each_kind_of_model_names_its_task_and_its_class(use: str, task: str, name: str) -> None:
    text = readme(Card(), {}, opens_in_transformers=True, use=use)
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == task
    assert f"from transformers import {name}\n\nmodel = {name}.from_pretrained(" in text
