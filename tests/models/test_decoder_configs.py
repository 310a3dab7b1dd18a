"""Configs of decoders with experts and with other heads than a language model's; what they compute is held in tests/parity."""

from typing import Any

import pytest

from touchstone.errors import ModelFolderError, Unsupported
from touchstone.models.families import choose_family, find_family
from touchstone.models.heads import ClassifyHead, LmHead, SpanHead, TagHead
from touchstone.models.spec import ModelSpec
from touchstone.nn.experts import ExpertsSpec

# The published config.json files, and the published numbers of parameters.
MIXTRAL = {
    **{"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"},
    **{"hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768},
    **{"model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8},
    **{"num_local_experts": 8, "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0},
    **{"router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    **{"transformers_version": "4.36.0.dev0", "use_cache": True, "vocab_size": 32000},
}
QWEN2_MOE = {
    **{"architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643},
    **{"hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 8192},
    **{"max_window_layers": 21, "model_type": "qwen2_moe", "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 16},
    **{"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    **{"use_cache": True, "use_sliding_window": False, "vocab_size": 151936, "decoder_sparse_step": 1, "moe_intermediate_size": 1408},
    **{"shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "num_experts": 60, "norm_topk_prob": False},
    **{"output_router_logits": False, "router_aux_loss_coef": 0.001},
}
QWEN3_MOE = {
    **{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643},
    **{"decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048},
    **{"initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48},
    **{"mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": True},
    **{"num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4},
    **{"output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0},
    **{"router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    **{"use_cache": True, "use_sliding_window": False, "vocab_size": 151936},
}
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 11, "hidden_size": 12, "intermediate_size": 20},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 9},
}

with_experts = pytest.mark.parametrize("config", [MIXTRAL, QWEN2_MOE, QWEN3_MOE], ids=lambda config: config["model_type"])


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    config = {key: value for key, value in {**config, **changes}.items() if value is not ...}
    return find_family(config).read(config)


def experts(spec: ModelSpec) -> list[int]:
    """The layers that have them."""
    return [layer for layer, block in enumerate(spec.stack.blocks) if isinstance(block.mlp, ExpertsSpec)]


@pytest.mark.parametrize(
    ("config", "n_parameters"),
    [(MIXTRAL, 46_702_792_704), (QWEN2_MOE, 14_315_784_192), (QWEN3_MOE, 30_532_122_624)],
    ids=["mixtral 8x7B", "qwen1.5-moe A2.7B", "qwen3 30B-A3B"],
)
def test_published_configs_give_the_published_number_of_parameters(config: dict[str, Any], n_parameters: int) -> None:
    assert read(config).n_parameters() == n_parameters


@with_experts
def test_a_spec_is_written_as_the_type_it_was_read_from(config: dict[str, Any]) -> None:
    spec = read(config, output_router_logits=True)
    assert spec.stack.blocks[0].mlp.balance_weight == config["router_aux_loss_coef"]
    choice = choose_family(spec)
    assert choice.model_type == config["model_type"]
    assert choice.family.read(choice.config) == spec


@with_experts
def test_the_number_of_experts_has_two_names(config: dict[str, Any]) -> None:
    old, new = ("num_local_experts", "num_experts") if "num_local_experts" in config else ("num_experts", "num_local_experts")
    assert read(config, **{old: ..., new: config[old]}) == read(config)
    with pytest.raises(ModelFolderError, match="are one setting"):
        read(config, **{new: 3})


def test_the_factor_of_the_balance_loss_counts_only_where_the_router_is_asked_for() -> None:
    assert read(MIXTRAL).stack.blocks[0].mlp.balance_weight == 0.0
    assert read(MIXTRAL, output_router_logits=True).stack.blocks[0].mlp.balance_weight == 0.02


def test_experts_lie_where_the_config_class_puts_them() -> None:
    assert experts(read(QWEN2_MOE, num_hidden_layers=5)) == [0, 1, 2, 3, 4]
    assert experts(read(QWEN2_MOE, num_hidden_layers=5, decoder_sparse_step=2)) == [1, 3]
    assert experts(read(QWEN3_MOE, num_hidden_layers=5, mlp_only_layers=[0, 3])) == [1, 2, 4]
    assert experts(read(QWEN3_MOE, num_hidden_layers=6, mlp_only_layers=[0, 3], decoder_sparse_step=2)) == [1, 5]


def test_windows_lie_where_the_config_class_puts_them() -> None:
    def windows(config: dict[str, Any], **changes: Any) -> list[int | None]:
        return [block.attn.window for block in read(config, num_hidden_layers=4, **changes).stack.blocks]

    assert windows(MIXTRAL) == windows(MIXTRAL, sliding_window=...) == [None] * 4
    assert windows(MIXTRAL, sliding_window=9) == [9] * 4
    assert windows(QWEN2_MOE) == [None] * 4
    assert windows(QWEN2_MOE, use_sliding_window=True, sliding_window=9, max_window_layers=3) == [9, None, 9, None]
    assert windows(QWEN3_MOE, sliding_window=9) == [None] * 4
    assert windows(QWEN3_MOE, sliding_window=9, use_sliding_window=True) == [9] * 4
    assert windows(QWEN3_MOE, sliding_window=..., use_sliding_window=True) == [4096] * 4


def test_keys_that_the_class_does_not_read_pass_where_they_say_what_it_does() -> None:
    said = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}
    assert read(QWEN3_MOE, **said) == read(QWEN3_MOE)
    for key, value in {"qkv_bias": True, "use_qk_norm": False, "shared_expert_intermediate_size": 9}.items():
        with pytest.raises(Unsupported, match=key):
            read(QWEN3_MOE, **{key: value})


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (MIXTRAL, {"num_experts_per_tok": 9}, r"`n_active` \(9\) must be at most `n_experts` \(8\)"),
        (MIXTRAL, {"num_local_experts": 0}, "`num_local_experts` should be a whole number from 1"),
        (MIXTRAL, {"router_jitter_noise": 1.5}, "`router_jitter_noise` should be a number"),
        (MIXTRAL, {"router_aux_loss_coef": -1}, "`router_aux_loss_coef` should be a number"),
        (QWEN2_MOE, {"mlp_only_layers": 3}, "`mlp_only_layers` should list"),
        (QWEN2_MOE, {"mlp_only_layers": ["0"]}, "`mlp_only_layers` should list"),
        (QWEN2_MOE, {"decoder_sparse_step": 0}, "`decoder_sparse_step` should be a whole number from 1"),
        (QWEN3_MOE, {"norm_topk_prob": "yes"}, "`norm_topk_prob` should be true or false"),
        (QWEN3_MOE, {"moe_intermediate_sise": 3}, "unknown key `moe_intermediate_sise`; did you mean `moe_intermediate_size`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_config_of_experts_cannot_mean_is_refused(config: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelFolderError, match=says):
        read(config, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "head"),
    [
        ("LlamaForCausalLM", {}, LmHead(tied=False)),
        ("LlamaModel", {}, None),
        ("LlamaModel", {"tie_word_embeddings": True}, LmHead(tied=True)),
        ("LlamaForSequenceClassification", {}, ClassifyHead(n_labels=2, pooling="last", bias=False)),
        ("LlamaForSequenceClassification", {"num_labels": 1}, ClassifyHead(n_labels=1, pooling="last", bias=False, problem="regression")),
        ("LlamaForTokenClassification", {}, TagHead(n_labels=2, dropout=0.1)),
        ("LlamaForTokenClassification", {"hidden_dropout": 0.3}, TagHead(n_labels=2, dropout=0.3)),
        ("LlamaForTokenClassification", {"hidden_dropout": 0.3, "classifier_dropout": 0.0}, TagHead(n_labels=2)),
        ("LlamaForTokenClassification", {"token_classification_bias": False}, TagHead(n_labels=2, bias=False, dropout=0.1)),
        ("LlamaForQuestionAnswering", {}, SpanHead()),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_class_says_the_head_and_the_keys_its_details(name: str, changes: dict[str, Any], head: Any) -> None:
    spec = read(LLAMA, architectures=[name], **changes)
    assert spec.head == head
    choice = choose_family(spec)
    assert choice.architecture == (name if head != LmHead(tied=True) else "LlamaForCausalLM")
    assert choice.family.read(choice.config) == spec


def test_one_label_to_choose_from_is_no_classification() -> None:
    keys = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "problem_type": "single_label_classification"}
    with pytest.raises(ModelFolderError, match="needs two labels; one number is a regression"):
        read(LLAMA, **keys)


def test_a_head_that_no_class_has_makes_the_folder_our_own() -> None:
    spec = read(LLAMA, architectures=["LlamaForSequenceClassification"])
    assert isinstance(spec.head, ClassifyHead)
    for changes in ({"pooling": "mean"}, {"bias": True}, {"activation": "tanh"}, {"n_labels": 1}):
        assert choose_family(spec.replace(head=spec.head.replace(**changes))).is_native
