from typing import Any

import pytest

from touchstone.errors import ModelFolderError
from touchstone.models.generation import check_generation, generation_from_config, unknown_settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"eos_token_id": 11}, "`eos_token_id` (11) is no token of a vocabulary of 11"),
        ({"eos_token_id": [2, 50256]}, "`eos_token_id` (50256)"),
        ({"eos_token_id": -1}, "`eos_token_id` (-1)"),
        ({"bos_token_id": 99}, "`bos_token_id` (99)"),
        ({"eos_token_id": "</s>"}, "a token id or a list of them"),
        ({"pad_token_id": [0]}, "`pad_token_id` ([0]) should be a token id"),
        ({"eos_token_id": True}, "should be a token id"),
        ({"temperature": -0.5}, "`temperature` (-0.5)"),
        ({"temperature": float("nan")}, "`temperature` (nan)"),
        ({"top_p": 1.5}, "`top_p` (1.5) should be a number from 0 to 1"),
        ({"top_k": "fifty"}, "`top_k` (fifty)"),
        ({"temperature": 10**400}, "`temperature` (1000"),
        ({"eos_token_id": [50256] * 30}, "and 18 more ids are none"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelFolderError) as error:
        check_generation(settings, 11, "generation_config.json")
    assert says in str(error.value)


def test_padding_that_ends_the_text_is_warned_of() -> None:
    (warning,) = check_generation({"pad_token_id": 2, "eos_token_id": [1, 2]}, 11, "file")
    assert "`pad_token_id` (2) also ends a text" in warning


def test_a_negative_padding_id_means_none() -> None:
    (warning,) = check_generation({"pad_token_id": -1, "eos_token_id": 2}, 11, "file")
    assert "negative" in warning


def test_sound_settings_raise_nothing() -> None:
    assert (
        check_generation({"eos_token_id": [1, 2], "bos_token_id": 0, "pad_token_id": None, "temperature": 0.7, "top_k": 50}, 11, "f") == []
    )


def test_without_a_file_the_ids_come_from_the_config() -> None:
    assert generation_from_config({"bos_token_id": 1, "eos_token_id": [2], "pad_token_id": None, "vocab_size": 9}) == {
        "bos_token_id": 1,
        "eos_token_id": [2],
    }


def test_a_misspelt_setting_is_listed_with_the_nearest_one() -> None:
    assert unknown_settings({"temprature": 0.1, "top_k": 5}) == {"temprature": "is no generation setting; `temperature` is"}


def test_everything_transformers_writes_is_known() -> None:
    from transformers import GenerationConfig

    assert unknown_settings(GenerationConfig().to_dict()) == {}


@pytest.mark.parametrize("key", ["decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"])
def test_what_a_target_begins_and_ends_with_must_be_tokens(key: str) -> None:
    assert check_generation({key: 8}, 9, "g") == []
    assert generation_from_config({key: 8, "vocab_size": 9}) == {key: 8}
    with pytest.raises(ModelFolderError, match=f"`{key}` .9. is no token of a vocabulary of 9"):
        check_generation({key: 9}, 9, "g")


def test_a_text_may_be_made_to_end_with_one_of_several_tokens_and_begins_with_one() -> None:
    assert check_generation({"forced_eos_token_id": [7, 8]}, 9, "g") == []
    with pytest.raises(ModelFolderError, match="`decoder_start_token_id`"):
        check_generation({"decoder_start_token_id": [7, 8]}, 9, "g")
