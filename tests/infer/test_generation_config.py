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


BEAMS = {"num_beams": 4, "length_penalty": 0.6, "early_stopping": "never", "renormalize_logits": True}


def test_beam_settings_come_only_with_beams():
    defaults = generation_defaults({**BEAMS, "num_beams": 1}, 11)
    assert defaults.sampling.given() == {}
    assert set(defaults.unused) == {"length_penalty", "early_stopping", "renormalize_logits"}
    assert generation_defaults(BEAMS, 11).sampling.given() == {**BEAMS, "temperature": 0.0}


@pytest.mark.parametrize(("do_sample", "temperature"), [({}, 0.0), ({"do_sample": False}, 0.0), ({"do_sample": True}, 0.7)])
def test_beams_are_drawn_only_where_the_file_says_so(do_sample, temperature):
    assert generation_defaults({"num_beams": 4, "temperature": 0.7, **do_sample}, 11).sampling.temperature == temperature


def test_tokens_that_are_banned_or_forced_become_defaults():
    said = {
        "bad_words_ids": [[3, 4], [8]],
        "suppress_tokens": [1, 2],
        "begin_suppress_tokens": [5],
        "forced_bos_token_id": 0,
        "forced_eos_token_id": [7, 9],
        "no_repeat_ngram_size": 3,
    }
    defaults = generation_defaults(said, 11)
    assert defaults.sampling.given() == {
        "bad_words_ids": ((3, 4), (8,)),
        "suppress_tokens": (1, 2),
        "begin_suppress_tokens": (5,),
        "forced_bos_ids": (0,),
        "forced_eos_ids": (7, 9),
        "no_repeat_ngram_size": 3,
    }
    assert defaults.unused == {}


def test_an_encoder_decoder_starts_from_its_own_token_or_the_beginning_of_text():
    def start(**said):
        return generation_defaults(said, 11, is_encoder_decoder=True).decoder_start_id

    assert start(decoder_start_token_id=3, bos_token_id=1) == 3
    assert start(bos_token_id=1) == 1
    assert start(decoder_start_token_id=-1) is None
    assert generation_defaults({"decoder_start_token_id": 3}, 11, is_encoder_decoder=True).unused == {}
    assert "encoder-decoder" in generation_defaults({"decoder_start_token_id": 3}, 11).unused["decoder_start_token_id"]


def test_the_lengths_of_an_encoder_decoder_count_its_start_token():
    said = {"max_length": 142, "min_length": 56}
    defaults = generation_defaults(said, 11, is_encoder_decoder=True)
    assert defaults.sampling.given() == {"max_new_tokens": 141, "min_new_tokens": 55}
    assert defaults.unused == {}
    both = generation_defaults({**said, "max_new_tokens": 99}, 11, is_encoder_decoder=True)
    assert both.sampling.given() == {"max_new_tokens": 99, "min_new_tokens": 55}
    assert set(both.unused) == {"max_length"}
    assert set(generation_defaults(said, 11).unused) == {"max_length", "min_length"}


def test_every_setting_without_effect_is_listed_with_its_reason():
    unused = generation_defaults({"max_length": 20, "typical_p": 0.3, "tempreature": 0.3, "pad_token_id": 2}, 11).unused
    assert set(unused) == {"max_length", "typical_p", "tempreature", "pad_token_id"}
    assert "other tokens" in unused["typical_p"]
    assert all(unused.values())


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": "hot"}, "temperature"),
        ({"eos_token_id": 11}, "eos_token_id"),
        ({"eos_token_id": ["x"]}, "eos"),
        ({"suppress_tokens": [11]}, "suppress_tokens"),
        ({"bad_words_ids": [[3], [4, 12]]}, "bad_words_ids"),
        ({"forced_bos_token_id": "x"}, "forced_bos"),
        ({"decoder_start_token_id": 11}, "decoder_start_token_id"),
    ],
)
def test_values_out_of_range_are_refused_with_the_files_name(said, name):
    with pytest.raises(ModelFolderError, match=f"generation_config.json: .*{name}"):
        generation_defaults(said, 11)


def test_a_negative_token_is_none():
    assert generation_defaults({"bos_token_id": -1}, 11).bos_id is None
    assert generation_defaults({"forced_bos_token_id": -1}, 11).sampling.given() == {}
