"""What is read off whole texts - labels, words, spans, masks, vectors - against the pipelines of transformers on the same folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import touchstone
from touchstone.errors import ConfigError, Unsupported
from touchstone.infer.calibration import labels_hash
from touchstone.infer.language_model import LanguageModel
from touchstone.models import ClassifyHead, PoolHead, SpanHead, TagHead, build, encoder_spec
from touchstone.models.card import Calibration, Card, SentencePooling
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.weights import weights_hash
from touchstone.text.tokenizer import Tokenizer

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "in",
    "new",
    "york",
    "lee",
    "sees",
    "paris",
    ",",
    ".",
    "?",
    "'",
    "s",
    "who",
    "where",
    "is",
    "red",
    "我",
    "爱",
    "北",
    "京",
]
PIECES = ["##s", "##ing", "##t"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]
TEXTS = ["the cat sat on a red mat .", "Lee sees New York, the dog's cats in Paris.", "我爱北京 , is a cat ?"]
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LENGTH = 24


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A folder that both sides open, of an encoder with a head, random weights and a WordPiece vocabulary."""
    made = {}

    def folder(name, head, labels=None, pooling=None) -> Path:
        if name not in made:
            spec = encoder_spec(vocab_size=len(VOCAB), d_model=12, n_layers=2, n_heads=3, max_seq_len=LENGTH, d_ff=20, head=head)
            net = build(spec)
            rng = torch.Generator().manual_seed(11)
            with torch.no_grad():
                for key, parameter in net.named_parameters():
                    parameter.normal_(1.0 if "norm" in key else 0.0, 0.5, generator=rng)
            place = tmp_path_factory.mktemp(name) / "model"
            save_model(place, net, card=Card(labels=labels, pooling=pooling))
            (place / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
            (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
            loaded = load_model(place)
            save_model(place, loaded.net, tokenizer=loaded.tokenizer, card=loaded.card, generation_config=loaded.generation_config)
            made[name] = place
        return made[name]

    return folder


@pytest.fixture(scope="module")
def classifier(folder_of):
    head = ClassifyHead(n_labels=3, pooling="first", activation="tanh")
    return folder_of("classify", head, labels=("bad", "fair", "good"))


@pytest.fixture(scope="module")
def tagger(folder_of):
    return folder_of("tag", TagHead(n_labels=len(TAGS)), labels=TAGS)


@pytest.fixture(scope="module")
def finder(folder_of):
    return folder_of("span", SpanHead())


@pytest.fixture(scope="module")
def filler(folder_of):
    return folder_of("fill", None)


def pipeline(task, folder, **settings):
    from transformers import AutoTokenizer, pipeline

    return pipeline(task, model=str(folder), tokenizer=AutoTokenizer.from_pretrained(str(folder)), device="cpu", **settings)


@pytest.mark.slow
def test_labels_have_the_probabilities_of_transformers(classifier):
    model, theirs = touchstone.load(classifier), pipeline("text-classification", classifier, top_k=None)
    pairs = [("the cat", "sat on"), ("who is lee ?", "the dog in york")]
    asked = [*TEXTS, *({"text": first, "text_pair": second} for first, second in pairs)]
    found = [theirs(text) for text in asked]
    expected = [{entry["label"]: entry["score"] for entry in (each[0] if isinstance(each[0], list) else each)} for each in found]
    for ours, scores in zip(model.classify([*TEXTS, *pairs]), expected, strict=True):
        assert ours.probabilities == pytest.approx(scores, abs=1e-5)
        assert ours.label == max(scores, key=scores.get)
        assert ours.labels == (ours.label,)


@pytest.mark.slow
def test_words_have_the_labels_of_transformers(tagger):
    """Each word's label and probability are those of its first token."""
    model, theirs = touchstone.load(tagger), pipeline("token-classification", tagger, aggregation_strategy="none", ignore_labels=[])
    for text, tagging in zip(TEXTS, model.tag(TEXTS), strict=True):
        tokens = {entry["start"]: entry for entry in theirs(text)}
        assert [text[word.start : word.end] for word in tagging.words] == [word.text for word in tagging.words]
        for word in tagging.words:
            assert word.label == tokens[word.start]["entity"]
            assert word.probability == pytest.approx(float(tokens[word.start]["score"]), abs=1e-5)


@pytest.mark.slow
def test_words_are_runs_of_letters_and_single_signs(tagger):
    words = touchstone.load(tagger).tag([TEXTS[1], TEXTS[2]])
    assert [w.text for w in words[0].words] == ["Lee", "sees", "New", "York", ",", "the", "dog", "'", "s", "cats", "in", "Paris", "."]
    assert [w.text for w in words[1].words] == ["我", "爱", "北", "京", ",", "is", "a", "cat", "?"]


@pytest.mark.slow
def test_entities_are_the_spans_of_their_words(tagger):
    model = touchstone.load(tagger)
    for text, tagging in zip(TEXTS, model.tag(TEXTS), strict=True):
        inside = {place for entity in tagging.entities for place in range(entity.start, entity.end)}
        for word in tagging.words:
            assert (word.label != "O") == (word.start in inside)
        for entity in tagging.entities:
            members = [w for w in tagging.words if entity.start <= w.start < entity.end]
            assert entity.text == text[entity.start : entity.end]
            assert {w.label[2:] for w in members} == {entity.label}
            assert entity.probability == min(w.probability for w in members)


def test_a_long_text_is_tagged_in_windows(tagger):
    """A word whose surroundings all lie in one window is judged there; every word is judged once."""
    model, text = touchstone.load(tagger), " ".join(f"the cat{'s' * (n % 2)} sat" for n in range(15))
    tagging = model.tag([text], stride=8)[0]
    assert [w.text for w in tagging.words] == text.split()


@pytest.mark.slow
def test_the_best_span_has_the_highest_scores_of_transformers(finder):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = touchstone.load(finder)
    tokenizer, theirs = AutoTokenizer.from_pretrained(str(finder)), AutoModelForQuestionAnswering.from_pretrained(str(finder)).eval()
    asked = [("who sees york ?", "the dog sat . lee sees new york , the cat"), ("where is lee", "in paris .")]
    for (question, context), (ours, *_) in zip(asked, model.span(asked, max_tokens=4), strict=True):
        inputs = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
        offsets, sides = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        with torch.no_grad():
            begin, end = (scores[0].tolist() for scores in theirs(**inputs).to_tuple()[:2])
        places = [place for place, side in enumerate(sides) if side == 1]
        spans = [(begin[a] + end[b], a, b) for a in places for b in places if a <= b < a + 4]
        _, first, last = max(spans)
        assert (ours.start, ours.end) == (offsets[first][0], offsets[last][1])
        total = sum(np.exp(score) for score, _, _ in spans) + np.exp(begin[0] + end[0])
        assert ours.probability == pytest.approx(np.exp(max(spans)[0]) / total, rel=1e-4)
        assert ours.no_answer == pytest.approx(np.exp(begin[0] + end[0]) / total, rel=1e-4)


@pytest.mark.slow
def test_probabilities_of_spans_are_shares_of_all_spans_and_no_answer(finder):
    model, question, context = touchstone.load(finder), "who ?", "the cat sat"
    answers = model.span([(question, context)], n_best=99)[0]
    assert len(answers) == 6  # three words: every beginning with every later end
    assert sum(answer.probability for answer in answers) + answers[0].no_answer == pytest.approx(1.0)
    assert [a.probability for a in answers] == sorted((a.probability for a in answers), reverse=True)


@pytest.mark.slow
def test_a_long_context_is_read_in_windows_and_answers_are_characters_of_it(finder):
    model, context = touchstone.load(finder), " ".join(["the dog sat in new york ."] * 9)
    for answer in model.span([("who ?", context)], n_best=5, stride=4)[0]:
        assert context[answer.start : answer.end] == answer.text != ""


@pytest.mark.slow
def test_masks_are_filled_as_transformers_fills_them(filler):
    model, theirs = touchstone.load(filler), pipeline("fill-mask", filler, top_k=4)
    texts = ["the [MASK] sat on a mat .", "lee [MASK] new york"]
    for text, (mask,) in zip(texts, model.fill_mask(texts, top_k=4), strict=True):
        expected = theirs(text)
        assert [token.token_id for token in mask.tokens] == [entry["token"] for entry in expected]
        assert [token.probability for token in mask.tokens] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)
    assert len(model.fill_mask(["[MASK] cat [MASK]"])[0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mean", "first"])
def test_vectors_are_pooled_hidden_states_of_transformers(folder_of, mode):
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of(f"pool-{mode}", PoolHead(), pooling=SentencePooling(mode=mode, normalise=True))
    vectors = touchstone.load(folder).encode(TEXTS)
    tokenizer, theirs = AutoTokenizer.from_pretrained(str(folder)), AutoModel.from_pretrained(str(folder)).eval()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = theirs(**inputs).last_hidden_state
    counts = inputs["attention_mask"][:, :, None]
    pooled = (hidden * counts).sum(1) / counts.sum(1) if mode == "mean" else hidden[:, 0]
    np.testing.assert_allclose(vectors, torch.nn.functional.normalize(pooled, dim=1).numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_batch_says_what_each_text_says_alone(classifier, tagger):
    model = touchstone.load(classifier)
    together, alone = model.classify(TEXTS), [model.classify([text])[0] for text in TEXTS]
    for a, b in zip(together, alone, strict=True):
        assert a.logits == pytest.approx(b.logits, abs=1e-5)
    tags = touchstone.load(tagger)
    for a, b in zip(tags.tag(TEXTS)[0].words, tags.tag(TEXTS[:1])[0].words, strict=True):
        assert (a.start, a.label, a.probability) == (b.start, b.label, pytest.approx(b.probability, abs=1e-5))
    vectors = model.encode(TEXTS)
    np.testing.assert_allclose(vectors[1:2], model.encode(TEXTS[1:2]), atol=1e-5)


@pytest.mark.slow
def test_a_text_longer_than_the_model_reads_is_an_error_or_is_cut_and_counted(classifier):
    model, text = touchstone.load(classifier), "the cat sat on a mat . " * 9
    with pytest.raises(
        ConfigError, match=rf"Text 1 has 65 tokens, and the model reads {LENGTH} at once; shorten it, or give `truncate=True`"
    ):
        model.classify(["the cat", text])
    short, cut = model.classify(["the cat", text], truncate=True)
    assert (short.n_cut, cut.n_cut) == (0, 65 - LENGTH)
    with pytest.raises(ConfigError, match="Text 0 has 65 tokens"):
        model.encode([text])
    assert model.encode([text], truncate=True).shape == (1, 12)


@pytest.mark.slow
def test_what_a_model_can_follows_from_its_head(classifier, tagger, finder, filler):
    able = {"classify": classifier, "tag": tagger, "span": finder, "fill_mask": filler}
    for ability, folder in able.items():
        model = touchstone.load(folder)
        assert model.can == {"encode", ability}
        with pytest.raises(Unsupported, match="predicts no next token"):
            model.generate("the cat")
        with pytest.raises(Unsupported, match="cannot `rolling`: it reads texts whole and predicts no next token"):
            model.rolling(TEXTS)
        with pytest.raises(Unsupported, match="cannot `loglikelihood`: it reads texts whole"):
            model.loglikelihood([("the cat", "sat")])
    with pytest.raises(Unsupported, match=r"cannot `tag`: it has no tagging head. It can classify, encode"):
        touchstone.load(classifier).tag(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the cat", r"Text 0 has no `\[MASK\]`"),
        ("the [MASK] [SEP] cat", r"spells the special token `\[SEP\]`"),
        ("[MASK] " + "cat " * 30, "the model reads 24"),
    ],
)
def test_a_text_to_fill_has_its_mask_and_no_other_special_token(filler, text, message):
    with pytest.raises(ConfigError, match=message):
        touchstone.load(filler).fill_mask([text])


def test_one_text_in_place_of_a_list_is_refused(classifier):
    model = touchstone.load(classifier)
    with pytest.raises(ConfigError, match=r"`classify` takes a list; write \[text\] for one"):
        model.classify("the cat")
    with pytest.raises(ConfigError, match=r"write \[\(first, second\)\] for one"):
        model.classify(("the cat", "sat"))


@pytest.mark.slow
def test_a_regression_on_several_numbers_has_no_single_value(folder_of):
    head = ClassifyHead(n_labels=3, pooling="first", activation="tanh", problem="regression")
    [found] = touchstone.load(folder_of("regress", head)).classify([TEXTS[0]])
    assert (found.value, found.label, len(found.logits)) == (None, None, 3)


def test_answers_have_no_white_space_at_their_ends_where_tokens_hold_it():
    context = "the  cat sat\n on a red mat "
    tokenizer = Tokenizer.train([f"{number} the cat sat on a red mat" for number in range(30)], vocab_size=270)
    net = build(encoder_spec(vocab_size=tokenizer.vocab_size, d_model=12, n_layers=1, n_heads=3, max_seq_len=90, head=SpanHead()), seed=3)
    answers = LanguageModel(net, tokenizer=tokenizer).span([("who sat?", context)], n_best=9999)[0]
    assert any(" " in context[start:end] for start, end in tokenizer.encode_offsets(context)[1])
    assert all(answer.text == context[answer.start : answer.end] == answer.text.strip() != "" for answer in answers)
    assert len({(answer.start, answer.end) for answer in answers}) == len(answers)
    assert sum(answer.probability for answer in answers) + answers[0].no_answer == pytest.approx(1.0)


@pytest.mark.parametrize("given", [None, 5, b"the cat", {"the cat": 1}, {"the cat"}])
def test_what_is_no_list_is_refused(classifier, given):
    with pytest.raises(ConfigError, match="`classify` takes a list of texts or pairs, not a "):
        touchstone.load(classifier).classify(given)


@pytest.mark.parametrize("item", [None, 5, b"cat", ("cat",), ("a", "cat", "sat"), ("cat", None), (1, 2), {"text": "cat"}])
def test_an_item_that_is_neither_text_nor_pair_is_refused_by_its_number(classifier, tagger, item):
    with pytest.raises(ConfigError, match="`classify` takes texts or pairs; number 1 is a "):
        touchstone.load(classifier).classify(["the cat", item])
    with pytest.raises(ConfigError, match="`tag` takes texts; number 1 is a "):
        touchstone.load(tagger).tag(["the cat", item])


def test_a_pair_is_refused_where_one_text_is_read_and_a_text_where_a_pair_is(tagger, finder):
    with pytest.raises(ConfigError, match="`tag` takes texts; number 0 is a tuple of str, str"):
        touchstone.load(tagger).tag([("the cat", "sat")])
    with pytest.raises(ConfigError, match="`span` takes pairs; number 0 is a str"):
        touchstone.load(finder).span(["ab"])


@pytest.mark.slow
def test_a_tuple_of_texts_is_a_list_of_them_and_a_list_of_two_a_pair(classifier, tagger):
    model = touchstone.load(tagger)
    assert model.tag(("the cat", "sat")) == model.tag(["the cat", "sat"])
    model = touchstone.load(classifier)
    assert model.classify([["the cat", "sat"]]) == model.classify([("the cat", "sat")])


@pytest.mark.slow
@pytest.mark.parametrize("value", [-1, 0, 1.5, "2", None, True])
def test_a_setting_that_is_no_count_is_refused(finder, filler, value):
    model = touchstone.load(finder)
    for name in ("n_best", "max_tokens"):
        with pytest.raises(ConfigError, match=f"`{name}` must be a whole number from 1, not "):
            model.span([("who ?", "the cat")], **{name: value})
    with pytest.raises(ConfigError, match="`top_k` must be a whole number from 1, not "):
        touchstone.load(filler).fill_mask(["a [MASK]"], top_k=value)


@pytest.mark.parametrize("value", [-1, 1.5, "2", None, True])
def test_a_stride_that_is_no_number_of_tokens_is_refused(finder, tagger, value):
    with pytest.raises(ConfigError, match="`stride` must be a whole number from 0, not "):
        touchstone.load(tagger).tag(["cat " * 30], stride=value)
    with pytest.raises(ConfigError, match="`stride` must be a whole number from 0, not "):
        touchstone.load(finder).span([("who ?", "cat " * 30)], stride=value)


def record(model, **changes):
    fields = {
        "target": "class",
        "method": "temperature",
        "params": {"temperature": 2.0, "n": 9, "nll_before": 1.0, "nll_after": 0.9},
        "statistic": {},
        "weights_hash": weights_hash(model.net.state_dict()),
        "labels_hash": labels_hash(model.labels),
        "numeric_scheme": "float32",
        "n": 9,
        "date": "2026-01-01",
    }
    return Calibration(**(fields | changes))


def test_a_stored_calibration_of_the_labels_gives_the_confidence(classifier):
    model = touchstone.load(classifier)
    plain = model.classify(TEXTS)
    assert plain[0].confidence is None
    assert "No calibration of its labels" in plain[0].confidence_reason
    model.card = model.card.replace(calibration=(record(model),))
    for before, after in zip(plain, model.classify(TEXTS), strict=True):
        scaled = np.exp(np.array(before.logits) / 2.0)
        assert after.confidence.value == pytest.approx((scaled.max() / scaled.sum(),))
        assert after.probabilities == before.probabilities


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels_hash": "0" * 64}, "other labels"),
        ({"weights_hash": "0" * 64}, "other weights"),
        ({"numeric_scheme": "bfloat16"}, "fitted in bfloat16"),
        ({"params": {"temperature": -1.0}}, "cannot be read"),
    ],
)
def test_a_calibration_that_does_not_hold_gives_no_confidence_and_says_why(classifier, changes, reason):
    model = touchstone.load(classifier)
    model.card = model.card.replace(calibration=(record(model, **changes),))
    answer = model.classify(TEXTS[:1])[0]
    assert answer.confidence is None
    assert reason in answer.confidence_reason
