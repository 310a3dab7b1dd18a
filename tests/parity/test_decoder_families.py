"""Decoders against transformers, which is the oracle: tiny random models, each switch that changes the result, every way to run them.

A new decoder type is one more row in CASES, and one in HEADS for what else its folders may be.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import Case, Pair, answers, close, make_pair, rows, widened

from touchstone.files import load_tensors, tensor_header
from touchstone.models import build
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import Family, find_family
from touchstone.models.net import ModelOutput

pytestmark = pytest.mark.slow

VOCAB, LENGTH = 11, 8

GPT2 = {"vocab_size": VOCAB, "n_positions": 13, "n_embd": 12, "n_layer": 3, "n_head": 3, "n_inner": 20}
GPT2 |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {"vocab_size": VOCAB, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA |= {"num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
FREE = LLAMA | {"num_attention_heads": 10, "num_key_value_heads": 5}  # heads that do not divide the width
MIXTRAL = LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2}
QWEN3_MOE = LLAMA | {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 7}
QWEN2_MOE = QWEN3_MOE | {"shared_expert_intermediate_size": 9}
BALANCED = {"output_router_logits": True, "router_aux_loss_coef": 0.3}

LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 48}  # wavelengths 6, 29 and 135: one kept, one on the ramp, one divided
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}

CASES = [
    Case("gpt2", "gpt2", GPT2),
    Case("gpt2 no scale", "gpt2", GPT2 | {"scale_attn_weights": False}),
    Case("gpt2 scaled by layer", "gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    Case("gpt2 scaled by layer alone", "gpt2", GPT2 | {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}),
    Case("gpt2 untied relu", "gpt2", GPT2 | {"tie_word_embeddings": False, "activation_function": "relu"}),
    Case("gpt2 exact gelu, default width", "gpt2", GPT2 | {"n_inner": None, "activation_function": "gelu"}),
    Case("gpt2 wide guard", "gpt2", GPT2 | {"layer_norm_epsilon": 0.3, "activation_function": "gelu_fast"}),
    Case("llama", "llama", LLAMA),
    Case("llama tied with biases", "llama", LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    Case("llama all heads, gelu", "llama", LLAMA | {"num_key_value_heads": 4, "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 0.2}),
    Case(
        "llama one key head, theta",
        "llama",
        LLAMA | {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    ),
    Case("llama linear rope", "llama", LLAMA | {"rope_parameters": LINEAR}),
    Case("llama llama3 rope", "llama", LLAMA | {"rope_parameters": LLAMA3}),
    Case("llama yarn rope", "llama", LLAMA | {"rope_parameters": YARN}),
    Case("llama yarn rope, mscale", "llama", LLAMA | {"rope_parameters": YARN | {"mscale": 2.0, "mscale_all_dim": 0.5, "truncate": False}}),
    Case(
        "llama yarn rope, factor",
        "llama",
        LLAMA | {"rope_parameters": YARN | {"attention_factor": 1.7, "beta_fast": 3.0, "beta_slow": 0.2}},
    ),
    Case("mistral", "mistral", FREE | {"sliding_window": None}),
    Case("mistral window", "mistral", LLAMA | {"sliding_window": 3}),
    Case("qwen2", "qwen2", LLAMA | {"tie_word_embeddings": True}),
    Case("qwen2 some windows", "qwen2", FREE | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    Case("qwen3", "qwen3", FREE, {"layer_types": ["full_attention"] * 3}),
    Case(
        "qwen3 windows by layer, biases",
        "qwen3",
        LLAMA
        | {"attention_bias": True, "use_sliding_window": True, "sliding_window": 4}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Case("arcee", "arcee", LLAMA | {"mlp_bias": True}),
    Case("arcee silu", "arcee", LLAMA | {"hidden_act": "silu", "attention_bias": True}),
    Case("mixtral", "mixtral", MIXTRAL),
    Case("mixtral window, all experts, gelu", "mixtral", MIXTRAL | {"sliding_window": 3, "num_experts_per_tok": 5, "hidden_act": "gelu"}),
    Case("mixtral one expert, balanced", "mixtral", MIXTRAL | BALANCED | {"num_experts_per_tok": 1, "tie_word_embeddings": True}),
    Case("qwen2_moe", "qwen2_moe", QWEN2_MOE | BALANCED, {"sliding_window": 0}),
    Case("qwen2_moe dense between", "qwen2_moe", QWEN2_MOE | {"decoder_sparse_step": 2, "norm_topk_prob": True, "qkv_bias": False}),
    Case(
        "qwen2_moe some windows",
        "qwen2_moe",
        QWEN2_MOE | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2, "mlp_only_layers": [0, 2]},
        {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    ),
    Case("qwen3_moe", "qwen3_moe", QWEN3_MOE | {"norm_topk_prob": True}),
    Case("qwen3_moe dense first", "qwen3_moe", QWEN3_MOE | BALANCED | {"mlp_only_layers": [0], "attention_bias": True}),
    Case("qwen3_moe windows", "qwen3_moe", QWEN3_MOE | {"use_sliding_window": True, "sliding_window": 3, "decoder_sparse_step": 3}),
]

SETTINGS = {
    **{"gpt2": GPT2, "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "arcee": LLAMA},
    **{"mixtral": MIXTRAL, "qwen2_moe": QWEN2_MOE, "qwen3_moe": QWEN3_MOE},
}
LABELS = {"num_labels": 4, "pad_token_id": 0}
STILL = {"classifier_dropout": 0.0}  # a tagger's, 0.1 unless it is given
NAMED = {"id2label": {0: "no", 1: "yes", 2: "?"}, "label2id": {"no": 0, "yes": 1, "?": 2}}

HEADS = [
    *(Case(f"{name} classify", name, settings | LABELS, head="classify") for name, settings in SETTINGS.items()),
    *(Case(f"{name} tag", name, settings | LABELS | STILL, head="tag") for name, settings in SETTINGS.items()),
    *(Case(f"{name} span", name, settings, head="span") for name, settings in SETTINGS.items()),
    *(Case(f"{name} base", name, settings | {"tie_word_embeddings": False}, head="base") for name, settings in SETTINGS.items()),
    Case("gpt2 base tied", "gpt2", GPT2, head="base"),
    Case("llama base tied", "llama", LLAMA | {"tie_word_embeddings": True}, head="base"),
    Case(
        "llama classify names",
        "llama",
        LLAMA | LABELS | NAMED | {"num_labels": 3, "problem_type": "multi_label_classification"},
        head="classify",
    ),
    Case("gpt2 classify one number", "gpt2", GPT2 | LABELS | {"num_labels": 1}, head="classify"),
    Case(
        "qwen2 tag no bias", "qwen2", LLAMA | LABELS | STILL | {"token_classification_bias": False, "tie_word_embeddings": True}, head="tag"
    ),
]


@pytest.fixture(scope="module", params=rows([*CASES, *HEADS]))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture(scope="module", params=rows(CASES))
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One that predicts tokens."""
    return make_pair(request.param, tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(3))


def our_answers(pair: Pair, output: ModelOutput) -> torch.Tensor:
    """A base class gives hidden states, even where the tied head is at hand."""
    return output.hidden if pair.case.head == "base" else output.logits


def test_a_full_pass_has_the_same_logits(pair: Pair, token_ids: torch.Tensor) -> None:
    close(our_answers(pair, pair.loaded.net(token_ids)).detach(), pair.their_logits(token_ids))


def test_the_reference_kernel_has_the_same_logits(pair: Pair, token_ids: torch.Tensor) -> None:
    net = load_model(pair.folder, kernel="reference").net
    close(our_answers(pair, net(token_ids)).detach(), pair.their_logits(token_ids))


def test_single_precision_agrees_to_its_own_rounding(pair: Pair, token_ids: torch.Tensor) -> None:
    single = build(pair.loaded.spec)
    single.load_state_dict(pair.loaded.net.state_dict())
    with torch.no_grad():
        theirs = answers(deepcopy(pair.theirs).float()(token_ids))
    scale = float(theirs.abs().max())
    close(our_answers(pair, single(token_ids)).detach(), theirs, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_the_real_tokens_alone(pair: Pair, token_ids: torch.Tensor, side: str) -> None:
    mask = padded(side)
    padded_ids = torch.where(mask, token_ids, 0)  # their classifiers find the last token by the padding's id
    theirs = pair.their_logits(padded_ids, attention_mask=mask.long(), position_ids=positions(mask))
    ours = our_answers(pair, pair.loaded.net(padded_ids, mask=mask)).detach()
    kept = slice(None) if pair.case.head == "classify" else mask
    close(ours[kept], theirs[kept])


def padded(side: str) -> torch.Tensor:
    lengths, place = torch.tensor([LENGTH, 5, 2]), torch.arange(LENGTH)
    return place >= LENGTH - lengths[:, None] if side == "left" else place < lengths[:, None]


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_cached_steps_have_the_logits_of_a_full_pass(decoder: Pair, token_ids: torch.Tensor, kind: str) -> None:
    cache = decoder.loaded.net.new_cache(3, kind=kind, max_seq_len=LENGTH)
    cuts = [(0, 3), *((t, t + 1) for t in range(3, LENGTH))]
    steps = [decoder.loaded.net(token_ids[:, a:b], cache=cache).logits.detach() for a, b in cuts]
    close(torch.cat(steps, dim=1), decoder.their_logits(token_ids))


def test_attention_weights_and_hidden_states_are_the_same_in_every_layer(pair: Pair, token_ids: torch.Tensor) -> None:
    theirs = pair.their_output(token_ids, output_attentions=True, output_hidden_states=True)
    ours = pair.loaded.net(token_ids, want=["attentions", "hiddens"])
    assert len(theirs.attentions) == len(ours.attentions)
    for layer, weights in enumerate(theirs.attentions):
        close(ours.attentions[layer].detach(), weights)
    for layer, hidden in enumerate(theirs.hidden_states[:-1]):
        close(ours.hiddens[layer].detach(), hidden)
    close(ours.hidden.detach(), theirs.hidden_states[-1])  # theirs is after the final norm


def test_training_without_dropout_has_the_same_gradients(pair: Pair, token_ids: torch.Tensor) -> None:
    net, theirs = pair.loaded.net.train(), pair.theirs.train()

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return (scores.log_softmax(-1) @ torch.linspace(-1, 1, scores.shape[-1], dtype=torch.float64)).sum()

    with widened(theirs):
        loss(answers(theirs(token_ids))).backward()
    loss(our_answers(pair, net(token_ids))).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    ours = as_they_run(find_family({"model_type": pair.case.model_type})).to_theirs(gradients, type(theirs).__name__)
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    net.zero_grad()
    net.eval()
    theirs.zero_grad()
    theirs.eval()
    assert set(ours) == set(expected)
    for name, gradient in ours.items():
        close(gradient, torch.zeros_like(gradient) if expected[name] is None else expected[name], atol=1e-9)


def test_training_with_dropout_drops_in_the_same_places(pair: Pair, token_ids: torch.Tensor) -> None:
    written = pair.theirs.config.to_dict()
    shares = {"embd_pdrop": 0.1, "attn_pdrop": 0.2, "resid_pdrop": 0.3, "attention_dropout": 0.1, "classifier_dropout": 0.4}
    changed = {key: share for key, share in shares.items() if key in written}
    config = deepcopy(pair.theirs.config)
    for key, share in changed.items():
        setattr(config, key, share)
    theirs = type(pair.theirs)(config).double().train()
    theirs.load_state_dict(pair.theirs.state_dict())
    theirs.set_attn_implementation("eager")
    net = build(find_family(written).read(written | changed), kernel="reference").double().train()
    net.load_state_dict(pair.loaded.net.state_dict())
    with torch.random.fork_rng(), torch.no_grad(), widened(theirs):
        torch.manual_seed(11)
        expected = answers(theirs(token_ids))
        torch.manual_seed(11)
        ours = our_answers(pair, net(token_ids))
    assert not torch.allclose(ours, our_answers(pair, pair.loaded.net(token_ids)))
    close(ours, expected)  # the same generator, drawn from in the same order for tensors of the same shapes


def as_they_run(family: Family) -> Family:
    """The family with the tensors that transformers has in memory, where they are not those of its files."""
    return replace(family, weights=family.also_read) if family.also_read is not None else family


@pytest.mark.parametrize("side", ["whole", "left", "right"])
def test_the_balance_loss_is_theirs_times_its_factor(decoder: Pair, token_ids: torch.Tensor, side: str) -> None:
    if decoder.case.settings.get("router_aux_loss_coef") is None:
        assert not decoder.loaded.net(token_ids).aux
        return
    mask = padded(side) if side != "whole" else torch.ones(3, LENGTH, dtype=torch.bool)
    inputs = {"attention_mask": mask.long(), "position_ids": positions(mask), "output_router_logits": True}
    theirs = decoder.their_output(token_ids, **inputs).aux_loss
    ours = decoder.loaded.net(token_ids, mask=mask).aux["balance"].detach()
    close(ours, 0.3 * theirs.double())
    assert ours > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_round_trip_changes_no_tensor_and_no_key(pair: Pair, tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    deepcopy(pair.theirs).to(dtype).save_pretrained(first)
    loaded = load_model(first)
    save_model(second, loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    for path in [first / "config.json", *first.glob("generation_config.json")]:
        assert json.loads((second / path.name).read_text()) == json.loads(path.read_text())
    same_files(first, second)


def same_files(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.glob("model*.safetensors"))
    assert names == sorted(path.name for path in second.glob("model*.safetensors"))
    for name in names:
        assert tensor_header(first / name) == tensor_header(second / name)
        before, after = (load_tensors(folder / name) for folder in (first, second))
        for tensor in before:
            assert torch.equal(after[tensor].view(torch.uint8), before[tensor].view(torch.uint8)), tensor


def test_a_sharded_folder_is_read_and_written(pair: Pair, token_ids: torch.Tensor, tmp_path: Path) -> None:
    pair.theirs.save_pretrained(tmp_path / "theirs", max_shard_size="4KB")
    loaded = load_model(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    close(our_answers(pair, loaded.net(token_ids)).detach(), pair.their_logits(token_ids))
    save_model(tmp_path / "ours", loaded.net, card=loaded.card, max_shard_bytes=4000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists()
    close(opened(pair, tmp_path / "ours", token_ids), pair.their_logits(token_ids))


def test_a_folder_of_ours_opens_in_transformers_with_the_same_logits(pair: Pair, token_ids: torch.Tensor, tmp_path: Path) -> None:
    generation = {**pair.loaded.generation_config, "pad_token_id": 0}
    saved = save_model(tmp_path / "ours", pair.loaded.net, generation_config=generation)  # without the card: all in our own words
    assert saved.opens_in_transformers
    close(opened(pair, tmp_path / "ours", token_ids), pair.their_logits(token_ids))


def opened(pair: Pair, folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    model, report = pair.case.auto.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", experts_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_labels == pair.theirs.config.num_labels
    with widened(model), torch.no_grad():
        return answers(model.eval()(token_ids))


@pytest.mark.parametrize("case", rows([case for case in [*CASES, *HEADS] if case.model_type in ("mixtral", "qwen2_moe", "qwen3_moe")]))
def test_experts_are_read_as_transformers_runs_them_and_written_as_it_publishes_them(
    case: Case, token_ids: torch.Tensor, tmp_path: Path
) -> None:
    pair = make_pair(case, tmp_path / "published")
    pair.theirs.save_pretrained(tmp_path / "fused", save_original_format=False)
    names = set(tensor_header(tmp_path / "fused" / "model.safetensors"))
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    loaded = load_model(tmp_path / "fused")
    close(our_answers(pair, loaded.net(token_ids)).detach(), pair.their_logits(token_ids))
    save_model(tmp_path / "again", loaded.net, card=loaded.card)
    same_files(tmp_path / "published", tmp_path / "again")


def test_every_key_that_transformers_writes_is_known(pair: Pair) -> None:
    written = json.loads(pair.theirs.config.to_json_string(use_diff=False))
    family = find_family(written)
    assert family.read(written) == pair.loaded.spec
    assert written.items() >= pair.case.keys.items()


def test_settings_of_transformers_4_say_the_same(pair: Pair) -> None:
    new = json.loads((pair.folder / "config.json").read_text())
    rope = new.pop("rope_parameters", None)
    old = new | {"torch_dtype": new.pop("dtype")}
    if rope is not None:
        old |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        old["rope_scaling"] = rope if rope["rope_type"] != "default" else None
        if old["rope_scaling"]:
            old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    assert find_family(old).read(old) == pair.loaded.spec
