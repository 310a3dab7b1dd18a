"""Constraints: what they allow is exactly what the grammar says, at every step, for every kind of tokenizer that writes."""

import json
import random
import re

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchstone.errors import ConfigError, TouchstoneError, Unsupported
from touchstone.infer.engine import Engine
from touchstone.infer.language_model import LanguageModel
from touchstone.infer.request import Request, Sampling
from touchstone.infer.speculative import DraftModel
from touchstone.models import build, decoder_spec
from touchstone.prompt.constrain import Constrainer
from touchstone.text.tokenizer import Tokenizer

TEXT = 'a {"name": "Ada", "age": 36, "tags": ["x", "y"]} true false null 0.5 -12 \u00e9\u4e2d ' * 30
REQUEST = Request([1])


def trained(kind, size):
    return Tokenizer.train([TEXT], kind=kind, vocab_size=size)


@pytest.fixture(scope="module", params=[("bpe", 300), ("unigram", 259), ("bytes", None)], ids=str)
def tokenizer(request):
    return trained(*request.param)


@pytest.fixture(scope="module")
def bpe():
    return trained("bpe", 300)


@pytest.fixture(scope="module")
def model(bpe):
    spec = decoder_spec(vocab_size=bpe.vocab_size + 7, d_model=24, n_layers=2, n_heads=4, max_seq_len=400)  # seven rows to spare
    return LanguageModel(build(spec, seed=0).eval(), tokenizer=bpe)


@pytest.fixture(scope="module")
def constrainer(model):
    return Constrainer.of(model)


def fits(factory, tokenizer, text):
    """Whether the tokens of a text are allowed one after the other, and the text may end there."""
    rule = factory(REQUEST)
    for token_id in tokenizer.encode(text):
        if rule.must_stop or not torch.isfinite(rule.apply(torch.zeros(tokenizer.vocab_size + 7))[token_id]):
            return False
        rule.accept(token_id)
    return rule.may_stop


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "good", "bad"),
    [
        (lambda c: c.regex("(ab|é)+[0-9]{2}"), ["ab12", "éab07"], ["ab1", "ab123", "12", ""]),
        (lambda c: c.choice(["true", "trueish", "中", 'a "b"']), ["true", "trueish", "中", 'a "b"'], ["tru", "trueis", "truex"]),
        (lambda c: c.grammar('start: "a" start "b" | "x"'), ["x", "aaxbb"], ["axbb", "aax", "ab"]),
        (
            lambda c: c.json_schema(PERSON),
            ['{"name":"Ada","age":36}'],
            ['{"name":"Ada"}', '{"name":"Ada","age":200}', '{"name":"Ada","age":36,'],
        ),
        (lambda c: c.json_object(), ['{"a":[1,{"b":null}]}', "{}"], ["[]", '{"a"}', "{} "]),
        (lambda c: c.json_schema({"type": "string", "format": "date"}), ['"2024-02-29"'], ['"2023-02-29"', '"2024-13-01"']),
    ],
)
def test_a_constraint_allows_its_language_and_nothing_else(tokenizer, make, good, bad):
    constrainer = Constrainer(tokenizer, [tokenizer.eos_id], tokenizer.vocab_size + 7)
    factory = make(constrainer)
    for text in good:
        if tokenizer.decode(tokenizer.encode(text)) == text:
            assert fits(factory, tokenizer, text), text
    for text in bad:
        assert not fits(factory, tokenizer, text), text


def test_special_tokens_spare_rows_and_an_early_end_are_banned(bpe, constrainer):
    rule = constrainer.regex("[a-z<>|]*x")(REQUEST)
    logits = rule.apply(torch.zeros(bpe.vocab_size + 7))
    assert torch.isinf(logits[list(bpe.special_ids)]).all()
    assert torch.isinf(logits[bpe.vocab_size :]).all()
    for token_id in bpe.encode("x"):
        rule.accept(token_id)
    assert torch.isfinite(rule.apply(torch.zeros(bpe.vocab_size + 7))[bpe.eos_id])


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_rolling_back_is_exact(model, constrainer, seed, n_back):
    rng, size = random.Random(seed), model.spec.vocab_size
    rule, accepted = constrainer.json_schema(PERSON)(REQUEST), []
    for _ in range(12):
        allowed = rule.apply(torch.zeros(size)).isfinite().nonzero().flatten().tolist()
        choices = [token for token in allowed if token not in model.eos_ids]
        if rule.must_stop or not choices:
            break
        accepted.append(rng.choice(choices))
        rule.accept(accepted[-1])
        if len(accepted) > n_back and rng.random() < 0.4:
            rule.rollback(n_back)
            del accepted[-n_back:]
    fresh = constrainer.json_schema(PERSON)(REQUEST)
    for token_id in accepted:
        fresh.accept(token_id)
    assert torch.equal(fresh.apply(torch.zeros(size)), rule.apply(torch.zeros(size)))


@pytest.mark.slow
@pytest.mark.parametrize("schema", [PERSON, {"enum": [1, "a", None, [2]]}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}])
def test_what_ends_with_stop_is_valid(model, constrainer, schema):
    sampling = Sampling(n=20, seed=1, max_new_tokens=200, constraint=constrainer.json_schema(schema))
    completions = model.generate([Request([5], sampling)])
    assert {completion.finish_reason for completion in completions} <= {"stop", "length"}
    ended = [completion for completion in completions if completion.finish_reason == "stop"]
    assert ended
    for completion in ended:
        jsonschema.validate(json.loads(completion.text), schema)


@pytest.mark.slow
def test_guesses_and_beams_keep_to_the_grammar(model, constrainer):
    factory = constrainer.regex("(ab|cd){3}[0-9]")
    engine = Engine(model.net, model.tokenizer, eos_ids=model.eos_ids, drafter=DraftModel(model.net, model.spec.vocab_size))
    engine.batch.payoff.begin = lambda: True
    asked = [Request([5], Sampling(seed=3, max_new_tokens=40, constraint=factory))]
    asked += [Request([5], Sampling(num_beams=3, n=3, max_new_tokens=40, constraint=factory))]
    for completion in engine.generate(asked):
        assert completion.finish_reason == "stop"
        assert re.fullmatch("(ab|cd){3}[0-9]", completion.text)


def test_several_end_tokens_are_all_allowed_where_the_text_may_end(model):
    ends = [model.tokenizer.eos_id, model.tokenizer.pad_id]
    rule = Constrainer(model.tokenizer, ends, model.spec.vocab_size).regex("a+")(REQUEST)
    assert torch.isinf(rule.apply(torch.zeros(model.spec.vocab_size))[ends]).all()
    rule.accept(model.tokenizer.encode("a")[0])
    assert torch.isfinite(rule.apply(torch.zeros(model.spec.vocab_size))[ends]).all()


def test_a_model_without_an_end_token_stops_where_nothing_can_follow(model):
    factory = Constrainer(model.tokenizer, (), model.spec.vocab_size).regex("[ab]{3}")
    engine = Engine(model.net, model.tokenizer)
    [completion] = engine.generate([Request([5], Sampling(seed=3, max_new_tokens=40, constraint=factory))])
    assert (completion.finish_reason, len(completion.text)) == ("stop", 3)


@pytest.mark.parametrize(
    ("schema", "kind", "said"),
    [
        ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, Unsupported, "/properties/a/uniqueItems"),
        ({"not": {"type": "string"}}, Unsupported, "/not"),
        ({"if": {}, "then": {}}, Unsupported, "/if"),
        ({"type": "string", "format": "blob"}, Unsupported, "blob"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, Unsupported, "/oneOf"),
        ({"$ref": "https://example.com/other.json"}, Unsupported, "another document"),
        ({"type": "string", "pattern": "(?=a)b"}, (Unsupported, ConfigError), "look-a"),
        ({"type": "string", "pattern": r"[\S]"}, Unsupported, "brackets"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, ConfigError, "nsatisfiable"),
        ({"type": "strng"}, ConfigError, "strng"),
        (False, ConfigError, "accepts nothing"),
        ([1], ConfigError, "object"),
        ("{", ConfigError, "JSON"),
        ("[" * 30_000, ConfigError, "nested|JSON"),
        ({"x-guidance": {"lenient": True}}, ConfigError, "x-guidance"),
        ({"default": float("nan")}, ConfigError, "no JSON"),
        ({"properties": {1: {}}}, ConfigError, "no text"),
    ],
)
def test_a_schema_that_cannot_be_guaranteed_is_refused_with_its_place(constrainer, schema, kind, said):
    with pytest.raises(kind, match=said):
        constrainer.json_schema(schema)


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda c: c.json_schema(nested(30_000)),
        lambda c: c.json_schema({"enum": [f"value {n}" for n in range(100_000)]}),
        lambda c: c.grammar("start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
        lambda c: c.grammar("start: start"),
        lambda c: c.grammar("start: other"),
        lambda c: c.grammar("x" * 600_000),
        lambda c: c.regex("(" * 30_000),
        lambda c: c.regex("["),
        lambda c: c.regex(""),
        lambda c: c.choice([]),
        lambda c: c.choice("text"),
        lambda c: c.choice(["a", ""]),
        lambda c: c.choice([str(n) for n in range(20_000)]),
    ],
)
def test_hostile_and_empty_grammars_are_one_clear_error(constrainer, make):
    with pytest.raises(TouchstoneError) as error:
        make(constrainer)
    assert 0 < len(str(error.value)) < 500


COSTLY_LATER = 'start: P e "c"\nP: /[ab]{20}!/\ne: e e e | e e | "a" | "b"'


@pytest.mark.slow
def test_what_becomes_costly_ends_its_own_request_alone(model, bpe):
    grammar = Constrainer.of(model).grammar(COSTLY_LATER)
    asked = Sampling(max_new_tokens=390, seed=1, ignore_eos=True)
    alone = model.generate([Request([3, 4], asked)])[0]
    never_c = dict.fromkeys(bpe.encode("c"), -100.0)
    costly = Request([5], Sampling(max_new_tokens=390, seed=2, constraint=grammar, logit_bias=never_c))
    failed, other = model.generate([costly, Request([3, 4], asked)])
    assert (failed.finish_reason, failed.fault) == ("error", "request")
    assert "each token takes it too long" in failed.error
    assert len(failed.text) > 21
    assert other.token_ids == alone.token_ids
    assert other.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_the_time_of_steps_is_that_of_all_completions_of_a_constraint(constrainer, monkeypatch):
    now = iter(range(0, 10_000, 100))  # every look at the clock is 100 s later
    monkeypatch.setattr("touchstone.prompt.constrain.time.thread_time", lambda: next(now))
    monkeypatch.setattr("touchstone.prompt.constrain.GRACE_S", 90.0)
    factory = constrainer.regex("a*")
    rules = [factory(REQUEST) for _ in range(5)]
    for rule in rules[:4]:
        rule.apply(torch.zeros(307))
    with pytest.raises(ConfigError, match="each token takes it too long"):
        rules[4].apply(torch.zeros(307))
    monkeypatch.setattr("touchstone.prompt.constrain.GRACE_S", 110.0)
    constrainer.regex("a*")(REQUEST).apply(torch.zeros(307))  # asked for anew, it has time of its own


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c.regex("a\udcff"),
        lambda c: c.grammar('start: "\ud800"'),
        lambda c: c.choice(["a", "\udcff"]),
        lambda c: c.json_schema({"const": "\ud800"}),
    ],
)
def test_half_a_character_is_a_clear_error(constrainer, make):
    with pytest.raises(ConfigError, match="half of a character"):
        make(constrainer)


@pytest.mark.parametrize("text", ['{"grammars": [{"lark_grammar": "start: /a/"}]}', " {", "{}"])
def test_json_is_no_lark(constrainer, text):
    with pytest.raises(ConfigError, match="must be Lark"):
        constrainer.grammar(text)


def test_a_known_grammar_is_not_tried_again(constrainer, monkeypatch):
    known = constrainer.regex("ab")
    monkeypatch.setattr(constrainer._trial, "problem", lambda grammar: pytest.fail("it was tried"))  # it would wait for the one before it
    again = constrainer.regex("ab")
    assert torch.equal(again(REQUEST).apply(torch.zeros(307)), known(REQUEST).apply(torch.zeros(307)))


HARD = ["a.b", "a|b", "(", "[x]", "^$", "\\d", "a b\n", "{1}", "/", '"', "#~&-", "\x7f", "é中\U0001f600", "\t", "a"]


def test_choices_are_texts_and_no_patterns(constrainer, bpe):
    factory = constrainer.choice(HARD)
    assert [text for text in [*HARD, "axb", "1", "x", "b", "", "5", "  "] if fits(factory, bpe, text)] == HARD


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_the_next_request_but_not_for_ever(model):
    constrainer = Constrainer.of(model)
    for n in range(100):
        constrainer.regex(f"a{{{n + 1}}}")
    assert len(constrainer._compiled) == 64


def test_a_wordpiece_tokenizer_is_refused():
    wordpiece = trained("wordpiece", 60)
    with pytest.raises(Unsupported, match="spaces"):
        Constrainer(wordpiece, [0], wordpiece.vocab_size)
