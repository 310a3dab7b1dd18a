"""Generating and completing show what the engine gives, with true probabilities."""

import math
import re

import pytest
import torch

from touchstone.errors import ConfigError, DataError, NoTokenizer
from touchstone.flows.opening import Opening
from touchstone.flows.writing import Form, alternatives, offer, write
from touchstone.infer import load


@pytest.mark.slow
def test_the_same_seed_writes_the_same_text_and_the_document_holds_every_token(model_folder, shown):
    terminal, text = shown
    first = write(model_folder, ["def add"], {"max_new_tokens": 6, "seed": 4, "n": None}, terminal)
    again = write(model_folder, ["def add"], {"max_new_tokens": 6, "seed": 4}, terminal)
    assert first == again
    completion = first["completions"][0]
    assert completion["prompt"] == "def add"
    assert len(completion["token_ids"]) == len(completion["logprobs"]) == 6
    assert "def add" in text()


@pytest.mark.slow
def test_a_stream_shows_the_text_that_generating_gives(model_folder, shown):
    terminal, text = shown
    settings = {"max_new_tokens": 8, "seed": 9}
    streamed = write(model_folder, ["return left"], settings, terminal, stream=True)
    whole = load(model_folder).generate("return left", **settings)[0].text
    assert streamed["completions"][0]["text"] == whole
    assert "return left" in text()


def test_a_stream_takes_one_text_only(model_folder, shown):
    for prompts, settings in ((["a", "b"], {}), (["a"], {"n": 2})):
        with pytest.raises(ConfigError, match="--stream"):
            write(model_folder, prompts, settings, shown[0], stream=True)


def test_alternatives_are_the_likeliest_tokens_with_the_probability_of_each(model_folder):
    model = load(model_folder)
    found, n_left_out = alternatives(model, "def add", n=4, max_new_tokens=1)
    ids = torch.tensor([model.tokenizer.encode("def add")])
    with torch.no_grad():
        probabilities = model.net(ids).logits[0, -1].double().softmax(-1)
    best = probabilities.topk(4)
    assert [a.token_ids[0] for a in found] == best.indices.tolist()
    assert [a.first_probability for a in found] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert n_left_out == 0


def test_the_probability_of_an_alternative_is_that_of_all_its_tokens(model_folder):
    model = load(model_folder)
    found, _ = alternatives(model, "def add", n=2, max_new_tokens=5, n_lines=99)
    for alternative in found:
        pair = (model.tokenizer.encode("def add"), list(alternative.token_ids))
        assert alternative.probability == pytest.approx(math.exp(model.loglikelihood([pair])[0].logprob), rel=1e-3)
        assert len(alternative.token_ids) == 5


@pytest.mark.slow
def test_an_alternative_ends_with_its_line(model_folder, monkeypatch):
    """A model that always prefers `x`, newline, `y` after the first token shows one line of it."""
    model = load(model_folder)
    x, newline, y = (model.tokenizer.encode(text)[0] for text in ("x", "\n", "y"))
    nexts = {x: newline, newline: y, y: x}

    last = 0

    def head(hidden):
        logits = torch.zeros(*hidden.shape[:-1], model.spec.vocab_size)
        logits[..., nexts[last]] = 9.0
        return logits

    plain_embed = model.net.embed.forward

    def embed(token_ids):
        nonlocal last
        last = int(token_ids.flatten()[-1])
        return plain_embed(token_ids)

    monkeypatch.setattr(model.net.embed, "forward", embed)
    monkeypatch.setattr(model.net, "head", head)
    found, _ = alternatives(model, "y", n=1, max_new_tokens=7, n_lines=1)
    assert found[0].text == "x"
    assert found[0].token_ids == (x, newline)
    two, _ = alternatives(model, "y", n=1, max_new_tokens=7, n_lines=2)
    assert two[0].text == "x\nyx"


@pytest.mark.slow
def test_a_text_longer_than_the_context_keeps_its_end(model_folder, shown):
    long = "left + right " * 20
    found = offer(model_folder, long, shown[0], n_alternatives=2, max_new_tokens=4)
    n_tokens = len(load(model_folder).tokenizer.encode(long))
    assert found["n_tokens_left_out"] == n_tokens - 28
    assert str(n_tokens - 28) in shown[1]()


def test_completing_nothing_or_without_a_tokenizer_is_refused(model_folder):
    model = load(model_folder)
    with pytest.raises(DataError, match="no text"):
        alternatives(model, "", n=1, max_new_tokens=1)
    model.tokenizer = None
    with pytest.raises(NoTokenizer):
        alternatives(model, "a", n=1, max_new_tokens=1)


@pytest.mark.slow
def test_texts_fit_the_form_they_are_held_to(model_folder, shown):
    sampling = {"max_new_tokens": 40, "temperature": 1.0, "seed": 3}
    chosen = write(model_folder, ["is it? ", "or "], sampling, shown[0], form=Form(choices=("yes", "no")))["completions"]
    assert {(c["text"] in ("yes", "no"), c["finish_reason"]) for c in chosen} == {(True, "stop")}
    [date] = write(model_folder, ["on "], sampling, shown[0], form=Form(regex="[0-9]{4}-[01][0-9]"))["completions"]
    assert re.fullmatch("[0-9]{4}-[01][0-9]", date["text"])
    [value] = write(model_folder, ["= "], sampling, shown[0], form=Form(json_schema='{"type": "boolean"}'))["completions"]
    assert value["text"] in ("true", "false")
    [spelt] = write(model_folder, ["= "], sampling, shown[0], form=Form(grammar='start: "ab" | "cd"'))["completions"]
    assert spelt["text"] in ("ab", "cd")


def test_a_text_is_held_to_one_form(model_folder, shown):
    with pytest.raises(ConfigError, match="one of `--json-schema`"):
        write(model_folder, ["a"], {}, shown[0], form=Form(regex="a", choices=("b",)))


@pytest.mark.slow
def test_int8_and_guessing_write_too(model_folder, shown):
    settings = {"max_new_tokens": 6, "temperature": 0.0}
    plain = write(model_folder, ["def add"], settings, shown[0])["completions"]
    guessed = write(model_folder, ["def add"], settings, shown[0], opening=Opening(draft="prompt-lookup"))["completions"]
    assert guessed[0]["token_ids"] == plain[0]["token_ids"]
    assert (
        write(model_folder, ["def add"], settings, shown[0], opening=Opening(weights="int8"))["completions"][0]["finish_reason"] == "length"
    )
