"""Samples are the engine's own completions, cut into pieces that each have a probability."""

import json
import math

import pytest

from touchstone.flows.samples import draw_samples, openings, sample_from_record
from touchstone.infer import load
from touchstone.text.document import Document


@pytest.mark.slow
def test_the_pieces_of_a_sample_are_its_text_and_carry_its_probabilities(model_folder, tokenizer):
    net = load(model_folder).net
    sample = draw_samples(net, tokenizer, ["def add"], n_new=12, seed=2)[0]
    assert "".join(text for text, _ in sample.pieces) == sample.text
    again = load(model_folder).generate("def add", max_new_tokens=12, temperature=0.8, seed=2)[0]
    assert sample.text == again.text
    assert min(p for _, p in sample.pieces) == pytest.approx(math.exp(min(again.logprobs)), rel=1e-4)
    assert sample.coloured[0] == ("def add", None)


def test_a_prompt_longer_than_the_context_keeps_its_end(model_folder, tokenizer):
    sample = draw_samples(load(model_folder).net, tokenizer, ["left + right " * 40], n_new=5)[0]
    assert sample.prompt == "left + right " * 40
    assert sample.pieces


def test_a_sample_survives_its_record(model_folder, tokenizer):
    sample = draw_samples(load(model_folder).net, tokenizer, ["é"], n_new=9, seed=1)[0]
    record = json.loads(json.dumps({"step": 3, **sample.to_record()}))
    assert sample_from_record(record) == sample


def test_openings_are_the_beginnings_of_held_out_texts_cut_at_lines_or_words():
    documents = [Document("short", "a"), Document("import os\nimport sys\n" + "x" * 200, "b"), Document("word " * 100, "c")]
    first, second = openings(documents, 3, n_chars=30)
    assert first == "import os\nimport sys"
    assert second == ("word " * 6)[:29]
