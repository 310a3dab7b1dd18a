import pytest

from touchstone.config import apply_overrides, load, parse, to_yaml
from touchstone.errors import ConfigError, UnknownName
from touchstone.models import build
from touchstone.models.families import choose_family
from touchstone.models.ngram import NgramSpec
from touchstone.models.spec import ModelSpec
from touchstone.text.prepare import DataConfig
from touchstone.train.estimate import DROPOUT_S, PACES, estimate
from touchstone.train.recipes import RECIPES, recipe
from touchstone.train.run_config import RunConfig

NEURAL = [name for name in RECIPES if name != "ngram"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_settings_file(name, tmp_path):
    config = recipe(name).config
    assert config.name == name
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load(RunConfig, path) == config


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NEURAL if name != "gpt2-124m"])
def test_the_parameters_stated_are_those_of_the_network(name):
    made = recipe(name)
    net = build(made.config.to_spec(made.config.tokenizer.vocab_size), seed=None)
    assert made.parameters == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", [name for name in NEURAL if recipe(name).config.objective.kind == "causal"][:1])
def test_an_objective_and_a_model_must_fit_each_other(name):
    data = recipe(name).config.model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"`objective` \(masked-lm\) trains models of the kind `encoder`, not `decoder`"):
        parse(RunConfig, data | {"objective": {"kind": "masked-lm"}})


@pytest.mark.parametrize(
    ("name", "kind", "n_labels"),
    [("classify-bow", "classify", 7), ("classify-lstm", "classify", 7), ("tag-small", "tag", 5), ("span-small", "span", None)],
)
def test_a_model_that_labels_gets_the_head_of_its_objective_with_as_many_labels_as_the_data(name, kind, n_labels):
    head = recipe(name).config.to_spec(50, n_labels).head
    assert head.kind == kind
    assert n_labels is None or head.n_labels == n_labels


def test_t5_small_and_bart_small_and_bert_small_are_the_shapes_of_their_families():
    t5, bart, bert = (recipe(name).config.to_spec(99) for name in ("t5-small", "bart-small", "bert-small"))
    assert {block.attn.scale for block in (*t5.encoder.blocks, *t5.decoder.blocks)} == {1.0}
    assert t5.max_seq_len is None
    assert t5.head.scale == pytest.approx(t5.d_model**-0.5)
    assert {block.norm_place for block in bart.decoder.blocks} == {"post"}
    assert bart.encoder.input_norm is not None
    assert bert.head.kind == "masked-lm"
    assert bert.embed.n_token_types == 2


CLASSES = {
    "quickstart": "Qwen3ForCausalLM",
    "gpt-small": "GPT2LMHeadModel",
    "llama-small": "LlamaForCausalLM",
    "lstm-lm": "TouchstoneRecurrent",
    "gru-lm": "TouchstoneRecurrent",
    "gpt2-124m": "GPT2LMHeadModel",
    "bert-small": "BertForMaskedLM",
    "t5-small": "T5ForConditionalGeneration",
    "bart-small": "BartForConditionalGeneration",
    "transformer-base": "TouchstoneEncoderDecoder",
    "lstm-attention": "TouchstoneRecurrentEncoderDecoder",
    "classify-bow": "TouchstoneEncoderForClassify",
    "classify-lstm": "TouchstoneRecurrentEncoderForClassify",
    "classify-transformer": "BertForSequenceClassification",
    "tag-small": "TouchstoneRecurrentEncoderForTag",
    "span-small": "BertForQuestionAnswering",
}


@pytest.mark.parametrize("name", NEURAL)
def test_a_recipe_is_saved_as_the_class_that_holds_its_shape(name):
    assert choose_family(recipe(name).config.to_spec(99, 3)).architecture == CLASSES[name]


def test_an_offset_of_positions_needs_a_table_to_stand_in():
    settings = recipe("t5-small").config.model.replace(position_offset=2)
    with pytest.raises(ConfigError, match=r"`position_offset` \(2\) belongs to a learned table, not to `relative` positions"):
        settings.to_spec(99, 16)


def test_only_hidden_tokens_are_scored_so_that_a_large_vocabulary_costs_less():
    config = recipe("bert-small").config
    spec = config.to_spec(8192)
    n_tokens = config.train.n_steps * config.train.batch_size * config.context
    head = spec.head.flops(spec.d_hidden, 8192)
    expected = 3 * n_tokens * (spec.flops_per_token(config.context) - 0.85 * head)
    assert estimate(config, 8192).flops == pytest.approx(expected)


def test_gpt2_124m_is_gpt2():
    made = recipe("gpt2-124m")
    assert made.parameters == 124_439_808  # Hugging Face's gpt2
    assert (made.config.context, made.config.tokenizer.vocab_size) == (1024, 50257)


@pytest.mark.parametrize("name", NEURAL)
def test_overrides_reach_every_level(name):
    data = recipe(name).config.model_dump(mode="json")
    width = next(key for key in ("n_layers", "n_decoder_layers", "d_model") if key in data["model"])  # a bag of words has no layers
    changed = parse(RunConfig, apply_overrides(data, ["train.seed=7", "train.optim.learning_rate=1e-4", f"model.{width}=2"]))
    assert (changed.train.seed, changed.train.optim.learning_rate, getattr(changed.model, width)) == (7, 1e-4, 2)
    spec = changed.to_spec(99)
    assert (spec.d_model if width == "d_model" else spec.n_layers) == 2


def test_the_ngram_recipe_has_nothing_to_train():
    config = recipe("ngram").config
    assert isinstance(config.to_spec(77), NgramSpec)
    assert config.train is None
    with pytest.raises(ConfigError, match="n-gram"):
        config.replace(train=recipe("quickstart").config.train)
    with pytest.raises(ConfigError, match="n-gram"):
        recipe("quickstart").config.replace(train=None)


def test_time_is_operations_over_the_pace_of_the_size():
    config = recipe("gpt-small").config
    spec = config.to_spec(8192)
    assert isinstance(spec, ModelSpec)
    taken = estimate(config, 8192)
    n_tokens = config.train.n_steps * config.train.batch_size * config.context
    assert taken.n_tokens == n_tokens
    assert taken.seconds == pytest.approx(3 * spec.flops_per_token(config.context) * n_tokens / PACES[3e7])
    assert recipe("gpt-small").minutes == pytest.approx(taken.seconds / 60)


def test_a_decoder_that_writes_hidden_spans_alone_costs_their_share():
    config = recipe("t5-small").config
    share = 0.15 * (1 + 1 / 3)
    spec = config.to_spec(8192)
    sides = [stack.product_flops_per_token(256) + stack.attention_flops_per_token(128) for stack in (spec.encoder, spec.decoder)]
    a_token = sides[0] + share * (sides[1] + spec.head.flops(256, 8192))
    assert estimate(config, 8192).flops == pytest.approx(3 * a_token * 1500 * 24 * 128)


def test_dropout_costs_the_time_of_its_places_and_the_memory_of_its_widest_mask():
    config = recipe("classify-transformer").config
    here, without = (estimate(c, 4096) for c in (config, config.replace(model=config.model.replace(dropout=0.0))))
    places = 128 + 2 * (2 * 128 + 4 * 128)  # embeddings; in each layer two sublayers, and every key for every head
    assert here.seconds - without.seconds == pytest.approx(DROPOUT_S * places * here.n_tokens)
    assert here.memory_bytes - without.memory_bytes > 4 * 20 * 4 * 128 * 32 * 128


def test_memory_grows_with_what_is_held_at_once_alone():
    config = recipe("gpt2-124m").config
    here = estimate(config, 50257).memory_bytes
    assert estimate(config.replace(train=config.train.replace(micro_batch_size=8)), 50257).memory_bytes > here
    assert estimate(config.replace(train=config.train.replace(batch_size=960)), 50257).memory_bytes == here
    assert here > 16 * 124_439_808


def test_an_unknown_recipe_names_the_near_ones():
    with pytest.raises(UnknownName, match="Did you mean `gpt-small`"):
        recipe("gpt-smal")


def test_a_context_beyond_the_models_positions_is_refused():
    with pytest.raises(ConfigError, match=r"at most `model\.max_seq_len`"):
        parse(RunConfig, apply_overrides(recipe("llama-small").config.model_dump(mode="json"), ["model.max_seq_len=128"]))


def test_a_models_positions_cover_the_context_unless_more_is_asked_for():
    config = recipe("llama-small").config
    assert config.to_spec(50).max_seq_len == 256
    assert parse(RunConfig, apply_overrides(config.model_dump(mode="json"), ["model.max_seq_len=512"])).to_spec(50).max_seq_len == 512


def test_the_text_of_a_run_is_replaced_as_a_whole():
    config = recipe("gpt-small").config.replace(data=DataConfig(sources=("my_texts",)))
    assert config.data.corpus is None
