import json
import math

import numpy as np
import pytest
import torch

from touchstone.errors import ConfigError, ModelFolderError, NoTokenizer, TokenizerError, Unsupported
from touchstone.infer import language_model, loading
from touchstone.infer.language_model import ABILITIES, LanguageModel
from touchstone.infer.loading import load, save
from touchstone.infer.request import Request, Sampling
from touchstone.infer.score import loglikelihood, rolling_token_logprobs
from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.models.card import Calibration, Card
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.weights import weights_hash
from touchstone.nn.prepacked import PrepackedProduct
from touchstone.nn.products import Multiplying, ProductChoice
from touchstone.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

TEXT = "def add(a, b):\n    return a + b\n\n\ndef mul(a, b):\n    return a * b\n"
TOKENIZER = Tokenizer.train([TEXT * 3], vocab_size=270, pattern="code")
SAMPLING = {"max_new_tokens": 12, "seed": 3}


def transformer(**changes):
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 4, "max_seq_len": 32} | changes
    return build(decoder_spec(vocab_size=TOKENIZER.vocab_size, **sizes), seed=1).eval()


def lstm():
    return build(recurrent_spec(vocab_size=TOKENIZER.vocab_size, d_model=8, d_hidden=10), seed=1).eval()


def ngram():
    return NgramModel.fit(NgramSpec(vocab_size=TOKENIZER.vocab_size, order=3), np.array(TOKENIZER.encode(TEXT * 3)))


KINDS = {"transformer": transformer, "lstm": lstm, "ngram": ngram}


@pytest.fixture(params=KINDS)
def model(request):
    return LanguageModel(KINDS[request.param](), tokenizer=TOKENIZER)


def test_every_kind_of_model_generates_text_that_joins_its_stream(model):
    prompts = ["def add", "\n"]
    completions = model.generate(prompts, n=2, **SAMPLING)
    assert [(c.request_index, c.index) for c in completions] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for completion in completions:
        assert completion.prompt_token_ids == tuple(TOKENIZER.encode(prompts[completion.request_index]))
        assert completion.text == TOKENIZER.decode(completion.token_ids)
    joined = dict.fromkeys([(c.request_index, c.index) for c in completions], "")
    for event in model.stream(prompts, n=2, **SAMPLING):
        joined[event.request_index, event.index] += event.text
    assert list(joined.values()) == [completion.text for completion in completions]


def test_generated_logprobs_equal_the_loglikelihood_of_the_completion(model):
    [completion] = model.generate("def mul", **SAMPLING)
    [scored] = model.loglikelihood([(completion.prompt_token_ids, completion.token_ids)])
    assert completion.logprobs == pytest.approx(scored.token_logprobs, abs=1e-5)


def test_every_kind_of_model_scores_pairs_and_texts_of_any_length(model):
    [pair] = model.loglikelihood([("def add(", "a, b)")])
    assert len(pair.token_logprobs) == len(TOKENIZER.encode("def add(a, b)")) - len(TOKENIZER.encode("def add("))
    for n in (1, 7, 40):
        [rolling] = model.rolling([TEXT * n])
        [direct] = rolling_token_logprobs(model.net, [TOKENIZER.encode(TEXT * n)], prefix_id=TOKENIZER.eos_id)
        assert rolling.token_logprobs == pytest.approx(direct.tolist(), abs=1e-9)
        assert rolling.n_bytes == len(TEXT.encode()) * n
        assert rolling.bits_per_byte == pytest.approx(-direct.sum() / math.log(2) / (len(TEXT.encode()) * n))


def test_a_stride_reads_more_left_context():
    model = LanguageModel(transformer(), tokenizer=TOKENIZER)
    [disjoint], [overlapping] = model.rolling([TEXT * 2]), model.rolling([TEXT * 2], stride=8)
    [direct] = rolling_token_logprobs(model.net, [TOKENIZER.encode(TEXT * 2)], prefix_id=TOKENIZER.eos_id, stride=8)
    assert overlapping.token_logprobs == pytest.approx(direct.tolist(), abs=1e-9)
    assert overlapping.token_logprobs != disjoint.token_logprobs


def test_bytes_are_counted_in_utf8(model):
    assert model.rolling(["é試"])[0].n_bytes == 5


def test_prompts_may_be_text_ids_requests_or_a_list_of_them():
    model = LanguageModel(transformer(), tokenizer=TOKENIZER)
    ids = TOKENIZER.encode("def")
    greedy = {"temperature": 0.0, "max_new_tokens": 5}
    [expected] = model.generate("def", **greedy)
    for prompts in (ids, [ids], ["def"], Request("def"), [Request(ids)], tuple(ids)):
        [completion] = model.generate(prompts, **greedy)
        assert completion.token_ids == expected.token_ids
    mixed = model.generate(["def", ids, Request("def", Sampling(max_new_tokens=2))], **greedy)
    assert [len(completion.token_ids) for completion in mixed] == [5, 5, 2]


def test_an_unknown_setting_gets_the_nearest_right_name(model):
    with pytest.raises(ConfigError, match="temperature"):
        model.generate("def", temprature=0.3)


def test_the_engine_that_moved_the_weights_stays_until_a_weight_is_changed(monkeypatch):
    model = LanguageModel(transformer(), tokenizer=TOKENIZER)
    before = model.weights_hash
    first = model.engine
    monkeypatch.setattr(language_model, "weights_hash", lambda tensors: pytest.fail("no bit was changed, and all were read again"))
    assert (model.engine, model.weights_hash) == (first, before)
    monkeypatch.undo()
    with torch.no_grad():
        model.net.embed.weight[0] += 1.0
    assert model.engine is not first
    assert model.weights_hash != before


def test_a_lone_surrogate_is_refused_as_text(model):
    for call in (lambda: model.generate("a\ud800"), lambda: model.rolling(["\ud800"]), lambda: model.loglikelihood([("a", "\ud800")])):
        with pytest.raises(TokenizerError, match="surrogate"):
            call()


def test_without_a_tokenizer_ids_work_and_text_says_what_is_missing():
    model = LanguageModel(transformer(), generation_config={"eos_token_id": 0})
    assert model.generate([1, 2], max_new_tokens=2)[0].text is None
    assert model.rolling([[1, 2, 3]])[0].n_bytes is None
    assert len(model.loglikelihood([([1], [2, 3])])[0].token_logprobs) == 2
    for call in (lambda: model.generate("a"), lambda: model.rolling(["a"]), lambda: model.loglikelihood([("a", "b")])):
        with pytest.raises(NoTokenizer):
            call()


def test_a_text_cannot_be_scored_without_a_token_to_stand_before_it():
    with pytest.raises(ConfigError, match="before it"):
        LanguageModel(transformer()).rolling([[1, 2]])


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.rolling("one text"),
        lambda m: m.rolling([[1, 10**6]]),
        lambda m: m.rolling([[True]]),
        lambda m: m.loglikelihood([("a", [1])]),
        lambda m: m.loglikelihood([([1], [-1])]),
        lambda m: m.loglikelihood([("a", "")]),
    ],
)
def test_bad_texts_are_refused(model, call):
    with pytest.raises(ConfigError):
        call(model)


def test_what_a_model_cannot_do_raises_with_the_reason_and_what_it_can(model):
    assert model.can == {"generate", "loglikelihood", "rolling"}
    for ability in set(ABILITIES) - model.can:
        with pytest.raises(Unsupported, match=rf"cannot `{ability}`: .*It can generate, loglikelihood, rolling"):
            getattr(model, ability)(["a text"])


def test_end_tokens_come_from_the_generation_config_else_the_tokenizer():
    assert LanguageModel(transformer(), tokenizer=TOKENIZER).eos_ids == (TOKENIZER.eos_id,)
    assert LanguageModel(transformer(), tokenizer=TOKENIZER, generation_config={"eos_token_id": [5, 6]}).eos_ids == (5, 6)
    assert LanguageModel(transformer()).eos_ids == ()


def test_defaults_come_from_the_generation_config():
    model = LanguageModel(transformer(), tokenizer=TOKENIZER, generation_config={"do_sample": False, "max_new_tokens": 4, "max_length": 9})
    [first], [second] = model.generate("def"), model.generate("def")
    assert len(first.token_ids) == 4
    assert first.token_ids == second.token_ids
    assert set(model.unused_settings) == {"max_length"}


class TestConfidence:
    def calibrated(self, net, **changes):
        record = {
            "target": "next-token",
            "method": "temperature",
            "params": {"temperature": 1.5},
            "statistic": {},
            "weights_hash": weights_hash(net.state_dict()),
            "numeric_scheme": "float32",
            "n": 10,
            "date": "2025-01-01",
        }
        return LanguageModel(net, tokenizer=TOKENIZER, card=Card(calibration=(Calibration(**{**record, **changes}),)))

    def test_is_the_calibrated_probability_of_each_token_and_logprobs_stay_raw(self):
        net = transformer()
        model = self.calibrated(net)
        [completion] = model.generate("def add", temperature=0.7, **SAMPLING)
        ids = [*completion.prompt_token_ids, *completion.token_ids]
        with torch.no_grad():
            logits = net(torch.tensor([ids[:-1]])).logits[0, len(completion.prompt_token_ids) - 1 :]
        index = torch.tensor(completion.token_ids)[:, None]
        assert completion.confidence.value == pytest.approx((logits / 1.5).softmax(-1).gather(1, index)[:, 0].tolist(), abs=1e-5)
        assert (completion.confidence.method, completion.confidence.target) == ("temperature", "next-token")
        assert completion.confidence_reason is None
        assert completion.logprobs == pytest.approx(logits.log_softmax(-1).gather(1, index)[:, 0].tolist(), abs=1e-5)
        [scored] = model.loglikelihood([(completion.prompt_token_ids, completion.token_ids)])
        assert scored.confidence.value == pytest.approx(completion.confidence.value, abs=1e-5)
        assert [e.completion.confidence for e in model.stream("def add", temperature=0.7, **SAMPLING) if e.completion] == [
            completion.confidence
        ]

    def test_is_absent_with_the_reason_where_the_record_does_not_hold(self):
        model = self.calibrated(transformer(), weights_hash="another")
        [completion] = model.generate("def", **SAMPLING)
        [scored] = model.loglikelihood([("def", " add")])
        for result in (completion, scored):
            assert result.confidence is None
            assert "other weights" in result.confidence_reason

    def test_does_not_outlive_a_change_of_the_weights(self):
        model = self.calibrated(transformer())
        assert model.generate("def", **SAMPLING)[0].confidence is not None
        with torch.no_grad():
            model.net.embed.weight.mul_(1.01)
        assert model.generate("def", **SAMPLING)[0].confidence is None
        assert model.loglikelihood([("def", " add")])[0].confidence is None

    def test_needs_the_number_type_it_was_fitted_in(self):
        net = transformer().to(torch.float64)
        assert "float64" in self.calibrated(net).generate("def", **SAMPLING)[0].confidence_reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_to_the_same_answers(kind, tmp_path):
    model = LanguageModel(KINDS[kind](), tokenizer=TOKENIZER, generation_config={"eos_token_id": TOKENIZER.eos_id, "top_k": 9})
    save(model, tmp_path / "out")
    again = load(tmp_path / "out", device="cpu")
    assert [c.token_ids for c in again.generate(["def", "\n"], **SAMPLING)] == [
        c.token_ids for c in model.generate(["def", "\n"], **SAMPLING)
    ]
    assert again.rolling([TEXT])[0].logprob == pytest.approx(model.rolling([TEXT])[0].logprob, abs=1e-9)
    assert again.spec == model.spec
    assert again.runtime.reasons["dtype"]


@pytest.mark.parametrize(
    ("chosen", "memory_bytes", "is_prepacked"), [("onednn", 1 << 40, True), ("onednn", 1 << 10, False), ("torch", 1 << 40, False)]
)
def test_weights_are_laid_out_where_that_gains_and_there_is_room_and_the_reason_says_so(
    chosen, memory_bytes, is_prepacked, tmp_path, monkeypatch
):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    monkeypatch.setattr(loading, "choose_product", lambda net: ProductChoice(chosen, 1.5, "it was said so"))
    monkeypatch.setattr(loading, "memory_bytes", lambda: memory_bytes)
    monkeypatch.setattr(loading, "prepacking_works", lambda: True)
    model = load(tmp_path / "out", device="cpu", dtype="float32")
    products = {type(module.product) is PrepackedProduct for module in model.net.modules() if isinstance(module, Multiplying)}
    assert products == {is_prepacked}
    assert ("laid out" in model.runtime.reasons["product"]) == is_prepacked
    assert model.runtime.reasons["product"].startswith(f"{chosen}: it was said so")


def test_a_model_loads_in_the_number_type_asked_for(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    model = load(tmp_path / "out", device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in model.net.parameters()} == {torch.bfloat16}
    exact = load(tmp_path / "out", device="cpu", dtype="float64")
    [half], [double] = model.rolling([TEXT]), exact.rolling([TEXT])
    assert half.bits_per_byte == pytest.approx(double.bits_per_byte, rel=0.02)
    assert model.generate("def", max_new_tokens=3, ignore_eos=True)[0].finish_reason == "length"


def test_angles_of_a_half_precision_model_are_computed_from_full_precision_frequencies(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    [angles] = load(tmp_path / "out", device="cpu", dtype="bfloat16").net.decoder.rotaries
    exponent = torch.arange(0, 6, 2, dtype=torch.float32) / 6
    torch.testing.assert_close(angles.frequencies, 1.0 / 10_000.0**exponent)


def test_a_model_is_loaded_in_the_invariant_mode(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    model = load(tmp_path / "out", invariant=True)
    prompts = ["def", "return x", "import os"]
    together = model.generate(prompts, seed=1, max_new_tokens=6)
    alone = [model.generate(prompt, seed=1, max_new_tokens=6)[0] for prompt in prompts]
    assert [(c.token_ids, c.logprobs) for c in together] == [(c.token_ids, c.logprobs) for c in alone]
    pairs = [("def", " f"), ("return x", " + y"), ("import", " os")]
    assert model.loglikelihood(pairs) == [model.loglikelihood([pair])[0] for pair in pairs]
    assert model.rolling(["def f", "x"]) == [model.rolling(["def f"])[0], model.rolling(["x"])[0]]


def test_the_invariant_mode_is_refused_where_it_does_not_hold(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    with pytest.raises(Unsupported, match="float32"):
        load(tmp_path / "out", dtype="float64", invariant=True)


def test_guessing_ahead_changes_no_token(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    plain = load(tmp_path / "out").generate("def def def", seed=3, max_new_tokens=9)[0]
    for draft in ("prompt-lookup", tmp_path / "out"):
        assert load(tmp_path / "out", draft=draft).generate("def def def", seed=3, max_new_tokens=9)[0].token_ids == plain.token_ids
    save(LanguageModel(ngram(), tokenizer=TOKENIZER), tmp_path / "other")
    with pytest.raises(Unsupported, match="draft model must be a decoder"):
        load(tmp_path / "out", draft=tmp_path / "other")


def test_an_unknown_scheme_of_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="weights"):
        load(tmp_path, weights="int4")


def test_an_ngram_model_is_not_moved(tmp_path):
    save(LanguageModel(ngram(), tokenizer=TOKENIZER), tmp_path / "out")
    with pytest.raises(Unsupported, match="float64"):
        load(tmp_path / "out", dtype="bfloat16")


@pytest.mark.slow
class TestHuggingFaceParity:
    def check(self, theirs, folder, tolerance=2e-5):
        theirs.eval().save_pretrained(folder)
        ours = load(folder, device="cpu", dtype="float32")
        prompts = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
        completions = ours.generate(prompts, temperature=0.0, max_new_tokens=15, ignore_eos=True, repetition_penalty=1.2)
        for prompt, completion in zip(prompts, completions, strict=True):
            with torch.no_grad():
                expected = theirs.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=15,
                    min_new_tokens=15,
                    repetition_penalty=1.2,
                    pad_token_id=0,
                )[0, len(prompt) :]
                logits = theirs(torch.tensor([prompt + expected.tolist()])).logits[0, len(prompt) - 1 : -1]
            assert completion.token_ids == tuple(expected.tolist())
            raw = logits.log_softmax(-1).gather(1, expected[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(raw.tolist(), abs=tolerance)

    def test_greedy_generation_equals_gpt2(self, tmp_path):
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=37, n_positions=40, n_embd=24, n_layer=2, n_head=4, initializer_range=0.4, bos_token_id=0, eos_token_id=0
        )
        self.check(GPT2LMHeadModel(config), tmp_path)

    def test_greedy_generation_equals_llama(self, tmp_path):
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=37,
            max_position_embeddings=40,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
        )
        self.check(LlamaForCausalLM(config), tmp_path)


def test_a_damaged_generation_config_is_refused(tmp_path):
    save(LanguageModel(transformer(), tokenizer=TOKENIZER), tmp_path / "out")
    path = tmp_path / "out" / "generation_config.json"
    path.write_text(json.dumps({"top_p": 3}))
    with pytest.raises(ModelFolderError, match="top_p"):
        load(tmp_path / "out")


def test_loglikelihood_of_text_is_that_of_its_encoded_pair():
    model = LanguageModel(transformer(), tokenizer=TOKENIZER)
    [text] = model.loglikelihood([("def add ", "mul")])
    [ids] = loglikelihood(model.net, [(TOKENIZER.encode("def add"), TOKENIZER.encode("def add mul")[len(TOKENIZER.encode("def add")) :])])
    assert text.token_logprobs == ids.token_logprobs


def test_pairs_to_score_are_two_each():
    model = LanguageModel(ngram(), tokenizer=TOKENIZER)
    for given, message in (
        ("ab", r"write \[\(context, continuation\)\] for one"),
        (["ab"], r"Pair 0: give \(context, continuation\), not a str"),
        ([("a", "b"), ("a", "b", "c")], "Pair 1: give"),
        ([None], "Pair 0: give"),
        ([(b"a", b"b")], "Text 0 is a bytes; give text or a list of token ids"),
        (None, "takes a list of pairs, not a NoneType"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.loglikelihood(given)


def test_texts_to_score_and_prompts_come_as_lists():
    model = LanguageModel(ngram(), tokenizer=TOKENIZER)
    for given, message in (
        ("a", r"`rolling` takes a list; write \[text\] for one"),
        ({"a": 1}, "`rolling` takes a list of texts, not a dict"),
        ([None], "Text 0 is a NoneType"),
        ([5], "Text 0 is a int"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.rolling(given)
    for given in (None, 5, {"a": 1}):
        with pytest.raises(ConfigError, match="`generate` takes a list of prompts, not a "):
            model.generate(given)
    assert model.rolling(text for text in ["def"]) == model.rolling(["def"])
    assert len(model.generate((text for text in ["def", "a"]), max_new_tokens=1, seed=1)) == 2


@pytest.mark.parametrize("stride", [0, 33, 1.5, "8", True])
def test_a_stride_is_a_whole_number_of_the_context(stride):
    with pytest.raises(ConfigError, match="must be a whole number from 1 to the context of 32 tokens"):
        LanguageModel(transformer(), tokenizer=TOKENIZER).rolling([TEXT], stride=stride)
