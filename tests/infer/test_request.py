import math

import pytest

from touchstone.errors import ConfigError
from touchstone.infer.request import Request, Sampling

WRONG = [
    ("temperature", math.nan, "0.001"),
    ("temperature", math.inf, "0.001"),
    ("temperature", -0.1, "0.001"),
    ("temperature", 1e-9, "0.001"),
    ("temperature", 101.0, "100"),
    ("temperature", "hot", "number"),
    ("top_k", -1, "2147483647"),
    ("top_k", 2.5, "integer"),
    ("top_p", 0.0, "above 0"),
    ("top_p", 1.1, "at most 1"),
    ("top_p", math.nan, "at most 1"),
    ("min_p", -0.1, "from 0.0 to 1.0"),
    ("min_p", 1.5, "from 0.0 to 1.0"),
    ("repetition_penalty", 0.0, "0.01"),
    ("presence_penalty", 2.5, "from -2.0 to 2.0"),
    ("frequency_penalty", -math.inf, "from -2.0 to 2.0"),
    ("max_new_tokens", 0, "from 1 to 1000000"),
    ("max_new_tokens", 10**12, "from 1 to 1000000"),
    ("max_new_tokens", True, "integer"),
    ("min_new_tokens", -1, "from 0 to 1000000"),
    ("n", 0, "from 1 to 128"),
    ("n", 10**9, "from 1 to 128"),
    ("seed", -1, "from 0 to 9223372036854775807"),
    ("seed", 2**200, "from 0 to 9223372036854775807"),
    ("seed", 10**5000, "bits"),
    ("top_logprobs", 129, "from 0 to 128"),
    ("num_beams", 0, "from 1 to 128"),
    ("stop", ("",), "from 1 to 1000 characters"),
    ("stop", "x" * 1001, "from 1 to 1000 characters"),
    ("stop", ["x"] * 65, "at most 64 strings"),
    ("stop", (1,), "string"),
    ("logit_bias", {3: 101.0}, "from -100 to 100"),
    ("logit_bias", {-3: 1.0}, "0 or more"),
    ("logit_bias", dict.fromkeys(range(1025), 1.0), "at most 1024"),
    ("logit_bias", {3: math.nan}, "finite"),
    ("length_penalty", 31.0, "from -30.0 to 30.0"),
    ("early_stopping", "sometimes", "never"),
    ("no_repeat_ngram_size", -1, "from 0 to 1000000"),
    ("bad_words_ids", [[1], []], "one token id or more"),
    ("bad_words_ids", [3], "tuple"),
    ("bad_words_ids", [[-3]], "0 or more"),
    ("suppress_tokens", [1, True], "integer"),
    ("begin_suppress_tokens", [-1], "0 or more"),
    ("forced_bos_ids", "x", "tuple"),
    ("forced_eos_ids", list(range(70_000)), "at most 65536"),
    ("constraint", 3, "callable"),
]


@pytest.mark.parametrize(("field", "value", "rule"), WRONG, ids=[f"{field}-{place}" for place, (field, _, _) in enumerate(WRONG)])
def test_a_bad_value_is_refused_with_its_field_and_its_range(field, value, rule):
    with pytest.raises(ConfigError) as caught:
        Sampling(**{field: value})
    assert field in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.001},
        {"temperature": 100.0},
        {"top_k": 0},
        {"top_p": 1.0},
        {"min_p": 0.0, "n": 128},
        {"seed": 2**63 - 1},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"logit_bias": {0: -100.0}},
        {"max_new_tokens": 1_000_000, "top_logprobs": 128},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(settings):
    assert Sampling(**settings).given() == settings


def test_an_unknown_field_gets_the_nearest_right_name():
    with pytest.raises(ConfigError, match="max_new_tokens"):
        Sampling(max_new_token=3)


def test_stop_strings_may_be_one_string_or_a_list():
    assert Sampling(stop="\n").stop == ("\n",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")


def test_more_tokens_at_least_than_at_most_are_refused():
    with pytest.raises(ConfigError, match=r"`min_new_tokens` \(7\) must be at most `max_new_tokens` \(3\)"):
        Sampling(min_new_tokens=7, max_new_tokens=3)


def test_beam_settings_without_beams_are_refused():
    with pytest.raises(ConfigError, match="`length_penalty` and `early_stopping` belong to beam search"):
        Sampling(length_penalty=1.2, early_stopping=True)


def test_unset_fields_come_from_the_defaults_and_set_ones_stay():
    merged = Sampling(temperature=0.5, top_p=1.0).over(Sampling(temperature=0.9, top_k=7, top_p=0.8))
    assert merged.given() == {"temperature": 0.5, "top_p": 1.0, "top_k": 7}


def test_one_beam_switches_off_the_defaults_beam_settings():
    merged = Sampling(num_beams=1).over(Sampling(num_beams=4, length_penalty=0.6, early_stopping=True))
    assert merged.given() == {"num_beams": 1}


def test_more_completions_than_beams_are_refused():
    with pytest.raises(ConfigError, match=r"`n` \(3\) must be at most `num_beams` \(2\)"):
        Sampling(num_beams=2, n=3)
    with pytest.raises(ConfigError, match=r"`n` \(5\)"):
        Sampling(n=5).over(Sampling(num_beams=4))
    assert Sampling(num_beams=1, n=3).n == 3


def test_a_least_length_of_the_defaults_gives_way_to_a_shorter_greatest_one():
    merged = Sampling(max_new_tokens=20).over(Sampling(min_new_tokens=55, max_new_tokens=141))
    assert merged.given() == {"max_new_tokens": 20, "min_new_tokens": 20}


def test_lists_of_tokens_may_be_lists_and_one_token_may_stand_alone():
    settings = Sampling(bad_words_ids=[[1, 2], (3,)], suppress_tokens=[4, 5], forced_eos_ids=6, forced_bos_ids=[])
    assert settings.given() == {"bad_words_ids": ((1, 2), (3,)), "suppress_tokens": (4, 5), "forced_eos_ids": (6,), "forced_bos_ids": ()}


def test_a_constraint_survives_merging_and_changing():
    def factory(request):
        raise AssertionError

    assert Sampling(constraint=factory).over(Sampling(top_k=3)).constraint is factory
    assert Sampling(constraint=factory).replace(top_k=3).constraint is factory


@pytest.mark.parametrize("prompt", [b"bytes", 3, None, [1, "2"], [1, True], [1.0], [[1], [2]]])
def test_a_prompt_is_text_or_whole_numbers(prompt):
    with pytest.raises(ConfigError, match="prompt"):
        Request(prompt)


def test_requests_draw_ids_of_their_own():
    assert Request([1]).id != Request([1]).id
    assert Request([1], id="mine").id == "mine"
