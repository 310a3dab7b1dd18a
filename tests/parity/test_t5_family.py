"""What T5, mT5 and Switch Transformer folders have of their own: heads that a key or a tensor tells of, older files, and experts."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Case, Pair, answers, close, make_pair, widened

from touchstone.errors import ModelFolderError, TouchstoneError, Unsupported
from touchstone.files import load_tensors, read_json, save_tensors, write_json
from touchstone.models import build
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import find_family
from touchstone.models.heads import LmHead
from touchstone.nn.experts import Experts, ExpertsSpec
from touchstone.nn.mlp import MlpSpec
from touchstone.nn.shared import Shared

pytestmark = pytest.mark.slow

VOCAB = 11
T5 = {"vocab_size": VOCAB, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 5, "dropout_rate": 0.0, "decoder_start_token_id": 0}
SWITCH = T5 | {
    "num_layers": 4,
    "num_experts": 3,
    "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 1,
    "router_jitter_noise": 0.0,
}

# The keys of published folders, their sizes made small.
T5_SMALL = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "n_positions": 512, "output_past": True, "d_ff": 20}
T5_SMALL |= {"d_kv": 5, "d_model": 12, "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0}
T5_SMALL |= {
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "vocab_size": VOCAB,
}
T5_SMALL |= {"relative_attention_num_buckets": 32, "task_specific_params": {"summarization": {"num_beams": 4}}}
FLAN = T5_SMALL | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3, "use_cache": True}
FLAN |= {"dense_act_fn": "gelu_new", "is_gated_act": True, "relative_attention_max_distance": 128, "transformers_version": "4.23.1"}
MT5 = FLAN | {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "tokenizer_class": "T5Tokenizer"}
SWITCH_BASE = T5_SMALL | {"model_type": "switch_transformers", "architectures": ["SwitchTransformersForConditionalGeneration"]}
SWITCH_BASE |= {"num_experts": 3, "expert_capacity": 64, "encoder_sparse_step": 2, "decoder_sparse_step": 2, "router_bias": False}
SWITCH_BASE |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2, "router_dtype": "float32"}
SWITCH_BASE |= {"router_type": "tokens_masked", "batch_prioritized_routing": False, "num_selected_experts": 1, "add_router_probs": False}
SWITCH_BASE |= {"feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": False, "router_ignore_padding_tokens": False}


def read(config: dict[str, Any], **more: Any) -> Any:
    return find_family(config).read(config | more)


@pytest.mark.parametrize(
    ("config", "gated", "activation", "tied", "scaled"),
    [
        (T5_SMALL, False, "relu", True, True),
        (FLAN, True, "gelu_tanh", False, False),
        (MT5, True, "gelu_tanh", False, False),
        (T5_SMALL | {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, True, "gelu", True, True),
    ],
    ids=["t5-small", "flan", "mt5", "another activation than the word says"],
)
def test_published_configs_say_what_transformers_makes_of_them(
    config: dict[str, Any], gated: bool, activation: str, tied: bool, scaled: bool
) -> None:
    spec = read(config)
    mlp = spec.encoder.blocks[0].mlp
    assert (mlp.gated, mlp.activation) == (gated, activation)
    assert spec.head == LmHead(tied=tied, scale=12**-0.5 if scaled else 1.0)
    assert (spec.encoder.dropout, spec.decoder.final_dropout, mlp.dropout, spec.decoder.blocks[0].cross.dropout) == (0.1,) * 4


def test_a_published_switch_config_is_read() -> None:
    spec = read(SWITCH_BASE)
    assert [isinstance(block.mlp, ExpertsSpec) for block in (*spec.encoder.blocks, *spec.decoder.blocks)] == [False, True] * 2


@pytest.mark.parametrize(
    ("config", "kind", "named"),
    [
        (T5_SMALL | {"feed_forward_proj": "gated-mish"}, Unsupported, "feed_forward_proj"),
        (T5_SMALL | {"is_encoder_decoder": False}, Unsupported, "is_encoder_decoder"),
        (T5_SMALL | {"relative_attention_num_buckets": 7}, ModelFolderError, "n_buckets"),
        (T5_SMALL | {"d_kw": 5}, ModelFolderError, "did you mean `d_kv`"),
        (SWITCH_BASE | {"router_bias": True}, Unsupported, "router_bias"),
        (SWITCH_BASE | {"tie_word_embeddings": False}, Unsupported, "tie_word_embeddings"),
        (SWITCH_BASE | {"encoder_sparse_step": -1}, ModelFolderError, "encoder_sparse_step"),
    ],
)
def test_what_is_wrong_or_not_built_is_named(config: dict[str, Any], kind: type[TouchstoneError], named: str) -> None:
    with pytest.raises(kind, match=named):
        read(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(Case("t5", "t5", T5, head="seq2seq"), tmp_path_factory.mktemp("hf") / "model").folder


def test_an_older_file_repeats_the_token_table_and_loads(folder: Path, tmp_path: Path) -> None:
    tensors = load_tensors(folder / "model.safetensors")
    shared = tensors["shared.weight"]
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    old = tensors | {name: shared.clone() for name in names}
    old["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    write_folder(tmp_path / "old", folder, old)
    loaded = load_model(tmp_path / "old")
    assert torch.equal(loaded.net.embed.weight, shared)
    assert list(loaded.extra.ignored_tensors) == ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"])
def test_a_table_of_its_own_where_the_config_ties_it_is_an_error(folder: Path, tmp_path: Path, name: str) -> None:
    tensors = load_tensors(folder / "model.safetensors")
    write_folder(tmp_path / "other", folder, tensors | {name: tensors["shared.weight"] + 1})
    with pytest.raises(ModelFolderError, match=name):
        load_model(tmp_path / "other")


def test_the_start_of_a_target_is_known_without_a_generation_config(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "bare", folder, load_tensors(folder / "model.safetensors"))
    loaded = load_model(tmp_path / "bare")
    assert loaded.generation_config == {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    save_model(tmp_path / "ours", loaded.net, generation_config=loaded.generation_config)
    assert read_json(tmp_path / "ours" / "config.json")["decoder_start_token_id"] == 0


def write_folder(target: Path, source: Path, tensors: dict[str, torch.Tensor]) -> None:
    target.mkdir()
    write_json(target / "config.json", read_json(source / "config.json"))
    save_tensors(target / "model.safetensors", tensors, {"format": "pt"})


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    def prepare(model: Any) -> None:
        for module in model.modules():
            if hasattr(module, "jitter_noise"):
                module.dtype = torch.float64

    return make_pair(Case("switch", "switch_transformers", SWITCH, head="seq2seq"), tmp_path_factory.mktemp("hf") / "switch", prepare)


def test_the_losses_of_the_routers_are_theirs(switch: Pair) -> None:
    """Of one text: of several, transformers takes the balance in each alone and then the mean."""
    rng = torch.Generator().manual_seed(3)
    source, target = (torch.randint(4, VOCAB, (1, size), generator=rng) for size in (9, 7))
    with widened(switch.theirs), torch.no_grad():
        theirs = switch.theirs(input_ids=source, decoder_input_ids=target, labels=target, output_router_logits=True)
    ours = switch.loaded.net(target, source_ids=source).aux
    assert set(ours) == {"balance", "router_z"}
    close(ours["balance"].detach(), 0.001 * (theirs.encoder_aux_loss + theirs.decoder_aux_loss))
    close(ours["router_z"].detach(), 0.001 * (theirs.encoder_z_loss + theirs.decoder_z_loss))


def test_an_expert_keeps_the_tokens_that_transformers_lets_pass(switch: Pair) -> None:
    rng = torch.Generator().manual_seed(4)
    source, target = (torch.randint(4, VOCAB, (2, size), generator=rng) for size in (9, 7))
    ours = switch.loaded.net(target, source_ids=source).logits.detach()
    crowded = deepcopy(switch.theirs)
    for capacity, same in ((9, True), (1, False)):
        for module in crowded.modules():
            if hasattr(module, "expert_capacity"):
                module.expert_capacity = capacity
        with widened(crowded), torch.no_grad():
            theirs = answers(crowded(input_ids=source, decoder_input_ids=target))
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10) == same


def test_the_router_multiplies_in_fp32_in_a_network_of_bf16(switch: Pair) -> None:
    """So it picks the experts that transformers picks."""
    theirs = deepcopy(switch.theirs).to(torch.bfloat16)
    for module in theirs.modules():
        if hasattr(module, "jitter_noise"):
            module.dtype = torch.float32
    spec = switch.loaded.spec.encoder.blocks[1].mlp
    assert isinstance(spec, ExpertsSpec)
    experts = switch.loaded.net.encoder.layers[1].mlp
    ours = Experts(spec, 12).to(torch.bfloat16)
    ours.load_state_dict(experts.state_dict())
    x = torch.randn(1, 40, 12, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    shared = Shared(masks={})
    with torch.no_grad():
        ours(x, shared)
        _, _, logits = theirs.encoder.block[1].layer[1].mlp.router(x.clone())
    assert shared.routes[0].logits.dtype == torch.float32
    assert torch.equal(shared.routes[0].logits, logits[0])


def test_no_layer_with_experts_is_a_t5(tmp_path: Path) -> None:
    spec = read(T5_SMALL)
    assert save_model(tmp_path / "m", build(spec)).model_type == "t5"


def test_experts_where_no_step_puts_them_stay_our_own_type(tmp_path: Path) -> None:
    spec = read(SWITCH_BASE | {"num_layers": 3, "encoder_sparse_step": 2})
    plain = MlpSpec(d_ff=20, activation="relu", dropout=0.1)
    experts = spec.encoder.blocks[1].mlp
    blocks = tuple(block.replace(mlp=mlp) for block, mlp in zip(spec.encoder.blocks, (experts, experts, plain), strict=True))
    moved = spec.replace(encoder=spec.encoder.replace(blocks=blocks))
    assert save_model(tmp_path / "m", build(moved)).model_type == "touchstone-encoder-decoder"
    assert load_model(tmp_path / "m").spec == moved
