"""Reading and writing configs; the numbers the specs then compute are held against transformers in tests/parity."""

import contextlib
from typing import Any

import pytest

from touchstone.errors import ModelFolderError, Unsupported
from touchstone.models import decoder_spec, recurrent_spec
from touchstone.models.families import choose_family, families, find_family, same_function
from touchstone.models.spec import ModelSpec

# The published config.json files, and the published numbers of parameters.
GPT2 = {
    **{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256},
    **{"embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2"},
    **{"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None},
    **{"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True},
    **{"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257},
}
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000},
    **{"eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336},
    **{"max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32},
    **{"num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False},
    "rope_scaling": {
        **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        **{"original_max_position_embeddings": 8192, "rope_type": "llama3"},
    },
    **{"torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 128256},
}
MISTRAL = {
    **{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096},
    **{"initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral"},
    **{"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0},
    **{"sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32000},
}
QWEN2 = {
    **{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643},
    **{"hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 131072},
    **{"max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2},
    **{"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
    **{"use_cache": True, "use_sliding_window": False, "vocab_size": 151936},
}
QWEN3 = {
    **{"architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "head_dim": 128},
    **{"eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072},
    **{"max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16},
    **{"num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000},
    **{"sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936},
}


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    config = {key: value for key, value in {**config, **changes}.items() if value is not ...}
    return find_family(config).read(config)


@pytest.mark.parametrize(
    ("config", "n_parameters"),
    [(GPT2, 124_439_808), (LLAMA, 8_030_261_248), (MISTRAL, 7_241_732_096), (QWEN2, 494_032_768), (QWEN3, 596_049_920)],
    ids=["gpt2", "llama 3.1 8B", "mistral 7B", "qwen2 0.5B", "qwen3 0.6B"],
)
def test_published_configs_give_the_published_number_of_parameters(config: dict[str, Any], n_parameters: int) -> None:
    assert read(config).n_parameters() == n_parameters


def test_keys_of_published_folders_that_say_nothing_are_no_obstacle() -> None:
    assert read(GPT2, n_special=0, predict_special_tokens=True, output_past=True) == read(GPT2)
    assert read(LLAMA, is_llama_config=True, rope_interleaved=False, max_sequence_length=9) == read(LLAMA)
    assert read(LLAMA, **{"transformers.js_config": {}}) == read(LLAMA)


@pytest.mark.parametrize("config", [GPT2, LLAMA, MISTRAL, QWEN2, QWEN3], ids=lambda config: config["model_type"])
def test_a_spec_is_written_as_the_type_it_was_read_from(config: dict[str, Any]) -> None:
    spec = read(config)
    choice = choose_family(spec, prefer=config["model_type"])
    assert choice.model_type == config["model_type"]
    assert choice.family.read(choice.config) == spec
    assert choice.architecture == config["architectures"][0]


def test_the_switches_of_gpt2_set_the_factor_of_each_layer() -> None:
    d_head = 64
    plain = [block.attn.scale for block in read(GPT2).stack.blocks]
    by_layer = [block.attn.scale for block in read(GPT2, scale_attn_by_inverse_layer_idx=True).stack.blocks]
    neither = [block.attn.scale for block in read(GPT2, scale_attn_weights=False).stack.blocks]
    assert plain == [None] * 12
    assert by_layer == pytest.approx([1 / (d_head**0.5 * layer) for layer in range(1, 13)])
    assert neither == [1.0] * 12


def test_windows_lie_where_the_config_class_puts_them() -> None:
    def windows(config: dict[str, Any], **changes: Any) -> list[int | None]:
        return [block.attn.window for block in read(config, **changes).stack.blocks]

    assert windows(MISTRAL) == [4096] * 32
    assert windows(MISTRAL, sliding_window=None) == [None] * 32
    assert windows(QWEN2) == [None] * 24
    assert windows(QWEN2, use_sliding_window=True, max_window_layers=20) == [None] * 20 + [131072] * 4
    types = ["sliding_attention", "full_attention"] * 12
    assert windows(QWEN2, use_sliding_window=True, sliding_window=9, layer_types=types) == [9, None] * 12


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_sise": 4096}, "unknown key `hidden_sise`; did you mean `hidden_size`"),
        ({"rope_thteta": 1.0}, "unknown key `rope_thteta`; did you mean `rope_theta`"),
        ({"hidden_size": -1}, "`hidden_size` should be a whole number from 1"),
        ({"hidden_size": 0}, "`hidden_size` should be a whole number from 1"),
        ({"hidden_size": 10**12}, "`hidden_size` should be a whole number from 1"),
        ({"hidden_size": "4096"}, "`hidden_size` should be a whole number from 1"),
        ({"hidden_size": True}, "`hidden_size` should be a whole number from 1"),
        ({"num_hidden_layers": 10**12}, "`num_hidden_layers` should be a whole number from 1"),
        ({"hidden_size": ...}, "`hidden_size` is missing"),
        ({"num_attention_heads": 7}, "multiple of `num_key_value_heads`"),
        ({"num_attention_heads": 24}, "`hidden_size` (4096) must be a multiple of `num_attention_heads` (24)"),
        ({"head_dim": 9}, "`head_dim` (9) must be even"),
        ({"rms_norm_eps": float("nan")}, "`rms_norm_eps` should be a number from 0"),
        ({"attention_dropout": 1.0}, "below 1"),
        ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` should be true or false"),
        ({"architectures": "LlamaForCausalLM"}, "`architectures` should be a list"),
        ({"rope_scaling": {"rope_type": "linear"}}, "`factor` is missing in the rotary settings"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "facto": 1.0}}, "unknown key `facto` in the rotary settings"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}, "must exceed"),
        ({"rope_scaling": 2}, "should be mappings"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}, "contradict each other"),
        ({"rope_parameters": {"rope_theta": 10.0}, "rope_scaling": ...}, "`rope_theta` (500000) and the one in `rope_parameters`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_config_cannot_mean_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelFolderError) as error:
        read(LLAMA, **changes)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (LLAMA, {"hidden_act": "quick_gelu"}, "`hidden_act` 'quick_gelu' is not built"),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary scaling 'dynamic' is not built"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "`partial_rotary_factor`"),
        (LLAMA, {"rope_interleaved": True}, "`rope_interleaved`"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "`quantization_config`"),
        (LLAMA, {"per_layer_config": {"0": {"hidden_size": 2}}}, "`per_layer_config`"),
        (LLAMA, {"architectures": ["LlamaForRewardModel"]}, "another kind of model"),
        (GPT2, {"add_cross_attention": True}, "cross-attention"),
        (GPT2, {"pruned_heads": {"0": [1]}}, "`pruned_heads`"),
        (GPT2, {"is_encoder_decoder": True}, "`is_encoder_decoder`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_change_the_result_and_is_not_built_says_so(config: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported) as error:
        read(config, **changes)
    assert says in str(error.value)


def test_all_problems_of_a_config_are_reported_together() -> None:
    with pytest.raises(ModelFolderError) as error:
        read(LLAMA, hidden_size=-1, vocab_size="many", hidden_act="quick_gelu", layer_norm=1)
    assert all(part in str(error.value) for part in ("`hidden_size`", "`vocab_size`", "`hidden_act`", "unknown key `layer_norm`"))


@pytest.mark.slow
@pytest.mark.parametrize("config", [GPT2, LLAMA, MISTRAL, QWEN2, QWEN3], ids=lambda config: config["model_type"])
def test_no_value_of_any_key_escapes_the_readers_own_errors(config: dict[str, Any]) -> None:
    few = {key: 2 for key in ("n_layer", "num_hidden_layers") if key in config}
    odd = [None, -1, 0, 1, 3, 10**30, 1e308, float("nan"), True, "", "x", [], ["x"], [None], {}, {"type": "yarn"}, {"rope_type": 5}]
    keys = {*config, "rope_parameters", "layer_types", "head_dim", "num_key_value_heads", "sliding_window", "use_sliding_window", "n_inner"}
    for key in sorted(keys - {"model_type"}):
        for value in odd:
            with contextlib.suppress(ModelFolderError, Unsupported):
                assert isinstance(read(config, **few, **{key: value}) if key not in few else read(config, **{key: value}), ModelSpec)


def test_keys_that_change_nothing_are_listed_with_their_reason() -> None:
    family = find_family(GPT2)
    left_out = family.left_out(GPT2)
    assert set(left_out) >= {"n_ctx", "initializer_range", "summary_type", "task_specific_params", "bos_token_id"}
    assert all(len(reason) > 10 for reason in left_out.values())


def test_a_config_may_use_the_general_names_of_its_keys() -> None:
    general = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    renamed = {**GPT2, **{new: GPT2[old] for new, old in general.items()}}
    for old in general.values():
        del renamed[old]
    assert read(renamed) == read(GPT2)
    with pytest.raises(ModelFolderError, match="one setting"):
        read(GPT2, hidden_size=5)


def test_code_in_a_folder_is_left_out_and_an_unknown_type_with_code_is_refused() -> None:
    config = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}, "trust_remote_code": True}
    assert "nothing in a model folder is executed" in find_family(config).left_out(config)["auto_map"]
    assert read(config) == read(LLAMA)
    with pytest.raises(ModelFolderError, match="never executed"):
        find_family({**config, "model_type": "evil"})


def test_a_type_that_does_not_exist_gets_the_nearest_ones() -> None:
    with pytest.raises(ModelFolderError, match="Did you mean `llama`"):
        find_family({"model_type": "lama"})
    with pytest.raises(ModelFolderError, match="`model_type` should be a text"):
        find_family({})


@pytest.mark.parametrize(
    ("settings", "model_type"),
    [
        ({"positions": "alibi"}, "touchstone-decoder"),
        ({"positions": "sinusoidal"}, "touchstone-decoder"),
        ({"norm_place": "post"}, "touchstone-decoder"),
        ({"windows": (None, 3)}, "touchstone-decoder"),
        ({"qk_norm": True, "gated": False}, "touchstone-decoder"),
        ({"gated": False, "activation": "gelu"}, "arcee"),
        ({"bias": True, "window": 3}, "touchstone-decoder"),
    ],
    ids=str,
)
def test_only_what_no_class_expresses_is_kept_as_our_own_type(settings: dict[str, Any], model_type: str) -> None:
    spec = decoder_spec(**({"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 9} | settings))
    choice = choose_family(spec)
    assert choice.model_type == model_type
    assert choice.family.read(choice.config) == spec


def test_a_single_block_that_differs_makes_a_type_unfit() -> None:
    spec = decoder_spec(vocab_size=11, d_model=12, n_layers=2, n_heads=3, max_seq_len=9)
    first, last = spec.stack.blocks
    odd = last.replace(mlp=last.mlp.replace(d_ff=last.mlp.d_ff + 1))
    changed = spec.replace(decoder=spec.stack.replace(blocks=(first, odd)))
    assert choose_family(spec).model_type == "llama"
    assert choose_family(changed).is_native


def test_a_recurrent_model_is_kept_as_our_own_type() -> None:
    spec = recurrent_spec(vocab_size=11, d_model=5, d_hidden=7, n_layers=2, cell="gru")
    choice = choose_family(spec)
    assert choice.model_type == "touchstone-recurrent"
    assert choice.family.read(choice.config) == spec
    with pytest.raises(ModelFolderError, match="does not go with a recurrent spec"):
        choice.family.read({**choice.config, "model_type": "touchstone-decoder", "architectures": None})


def test_dropout_and_written_defaults_are_no_other_function() -> None:
    spec = decoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9)
    dropped = decoder_spec(vocab_size=11, d_model=12, n_layers=1, n_heads=3, max_seq_len=9, dropout=0.3)
    (block,) = spec.stack.blocks
    told = block.replace(attn=block.attn.replace(scale=4**-0.5, position=block.attn.position.replace(d_rotary=4)))
    assert same_function(spec, dropped)
    assert same_function(spec, spec.replace(decoder=spec.stack.replace(blocks=(told,))))
    by_layer = [block.replace(dropout=p) for p in (0.0, 0.2)]
    assert same_function(
        spec.replace(decoder=spec.stack.replace(blocks=by_layer)), spec.replace(decoder=spec.stack.replace(blocks=[block, block]))
    )
    other = block.replace(attn=block.attn.replace(scale=0.4))
    assert not same_function(spec, spec.replace(decoder=spec.stack.replace(blocks=(other,))))


def test_every_family_names_its_types_once() -> None:
    names = [name for family in families() for name in family.architectures]
    assert len(names) == len(set(names))
    assert {"gpt2", "llama", "mistral", "qwen2", "qwen3", "arcee"} < set(names)
