import pytest

from touchstone.errors import ModelFolderError
from touchstone.infer.generation_config import generation_defaults


def test_the_settings_that_have_a_field_become_defaults():
    said = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.1,
        "repetition_penalty": 1.05,
        "max_new_tokens": 40,
        "min_new_tokens": 2,
    }
    defaults = generation_defaults({**said, "do_sample": True, "stop_strings": ["x"], "eos_token_id": [7, 9], "bos_token_id": 1}, 11)
    assert defaults.sampling.given() == {**said, "stop": ("x",)}
    assert (defaults.eos_ids, defaults.bos_id, defaults.unused) == ((7, 9), 1, {})


def test_explicitly_not_sampling_is_greedy():
    assert generation_defaults({"do_sample": False, "temperature": 0.7}, 11).sampling.temperature == 0.0
    assert generation_defaults({"temperature": 0.7}, 11).sampling.temperature == 0.7


def test_one_end_token_or_none():
    assert generation_defaults({"eos_token_id": 5}, 11).eos_ids == (5,)
    assert generation_defaults({}, 11).eos_ids is None
    assert generation_defaults({"eos_token_id": None}, 11).eos_ids is None


def test_beam_settings_come_only_with_beams():
    assert generation_defaults({"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}, 11).sampling.given() == {}
    assert generation_defaults({"num_beams": 4, "length_penalty": 0.6}, 11).sampling.given() == {"num_beams": 4, "length_penalty": 0.6}


def test_every_setting_without_effect_is_listed_with_its_reason():
    unused = generation_defaults({"max_length": 20, "no_repeat_ngram_size": 3, "tempreature": 0.3, "pad_token_id": 2}, 11).unused
    assert set(unused) == {"max_length", "no_repeat_ngram_size", "tempreature", "pad_token_id"}
    assert "other tokens" in unused["no_repeat_ngram_size"]
    assert all(unused.values())


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": "hot"}, "temperature"),
        ({"eos_token_id": 11}, "eos_token_id"),
        ({"eos_token_id": ["x"]}, "eos"),
    ],
)
def test_values_out_of_range_are_refused_with_the_files_name(said, name):
    with pytest.raises(ModelFolderError, match=f"generation_config.json: .*{name}"):
        generation_defaults(said, 11)


def test_a_negative_beginning_token_is_none():
    assert generation_defaults({"bos_token_id": -1}, 11).bos_id is None
