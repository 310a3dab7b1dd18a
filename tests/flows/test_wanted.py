"""Recipe or file, then paths, then overrides make a configuration."""

import pytest

from touchstone import config as settings
from touchstone.errors import ConfigError, UnknownName
from touchstone.flows.wanted import explicit_settings, requested_config, show_recipes
from touchstone.train.recipes import RECIPES


def test_a_recipe_takes_paths_and_overrides(tmp_path):
    config = requested_config("gpt-small", [tmp_path / "a", tmp_path / "b"], ["train.seed=7", "data.text_field=body", "model.n_layers=3"])
    assert config.data.sources == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert (config.data.corpus, config.data.text_field, config.train.seed, config.model.n_layers) == (None, "body", 7, 3)


def test_a_file_is_a_configuration_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(settings.to_yaml(requested_config("lstm-lm")))
    assert requested_config(str(path)) == requested_config("lstm-lm")
    assert requested_config(str(path), overrides=["context=17"]).context == 17


def test_an_unknown_recipe_lists_the_near_ones():
    with pytest.raises(UnknownName, match=r"No recipe `gpt-smal`\. Did you mean `gpt-small`"):
        requested_config("gpt-smal")


def test_an_unknown_setting_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key `train\.n_step`; did you mean `n_steps`"):
        requested_config("gpt-small", overrides=["train.n_step=3"])


def test_what_a_settings_file_holds_is_not_measured_again(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(settings.to_yaml(requested_config("gpt-small")))
    assert "train.precision" in explicit_settings(str(path), [])
    assert explicit_settings("gpt-small", ["train.seed=1", " context=4"]) == {"train.seed", "context"}


def test_all_recipes_are_listed_with_what_they_take(shown):
    document = show_recipes(shown[0])
    assert [entry["name"] for entry in document["recipes"]] == list(RECIPES)
    assert all(name in shown[1]() for name in RECIPES)
