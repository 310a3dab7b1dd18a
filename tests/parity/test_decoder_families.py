"""Decoders against transformers, which is the oracle: tiny random models, each switch that changes the result, every way to run them.

A new decoder type is one more row in CASES. transformers keeps a few steps in fp32 whatever the model's type; its modules are run with
those widened (`Wide`), so that float64 results can be compared to the last digits.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from touchstone.files import load_tensors, tensor_header
from touchstone.models import build
from touchstone.models.checkpoint import LoadedModel, load_model, save_model
from touchstone.models.families import find_family

pytestmark = pytest.mark.slow

VOCAB, LENGTH = 11, 8

GPT2 = {"vocab_size": VOCAB, "n_positions": 13, "n_embd": 12, "n_layer": 3, "n_head": 3, "n_inner": 20}
GPT2 |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {"vocab_size": VOCAB, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA |= {"num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
FREE = LLAMA | {"num_attention_heads": 10, "num_key_value_heads": 5}  # heads that do not divide the width

LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 48}  # wavelengths 6, 29 and 135: one kept, one on the ramp, one divided
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Case:
    """A config class of transformers, and the settings to try it with."""

    name: str
    model_type: str
    settings: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)  # keys that must stand in config.json, so that a case cannot lose its point

    def __str__(self) -> str:
        return self.name


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
]


class Wide:
    """The torch module with one name changed, for transformers' own modules to look into."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def widened(model: torch.nn.Module) -> Iterator[None]:
    module = sys.modules[type(model).__module__]
    module.torch = Wide()
    try:
        yield
    finally:
        module.torch = torch


@dataclass(frozen=True)
class Pair:
    """One random model on both sides, in float64."""

    case: Case
    theirs: Any
    folder: Path
    loaded: LoadedModel

    def their_logits(self, token_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        with widened(self.theirs), torch.no_grad():
            return self.theirs(token_ids, **inputs).logits


def rows(cases: list[Case]) -> list[Any]:
    """The first case of each type runs in every check; the rest are for the long run."""
    first = {case.model_type: case for case in reversed(cases)}
    return [pytest.param(case, id=str(case), marks=() if first[case.model_type] is case else pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module", params=rows(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from transformers import AutoConfig, AutoModelForCausalLM

    case: Case = request.param
    config = AutoConfig.for_model(case.model_type, **case.settings)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    randomise(theirs)
    folder = tmp_path_factory.mktemp("hf") / "model"
    theirs.save_pretrained(folder)
    return Pair(case, theirs, folder, load_model(folder))


def randomise(model: torch.nn.Module) -> None:
    """Every parameter of its own: fresh models have norms of one and biases of zero, which hide mistakes."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name or "ln_" in name else 0.0, 0.4, generator=rng)


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(3))


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_a_full_pass_has_the_same_logits(pair: Pair, token_ids: torch.Tensor) -> None:
    close(pair.loaded.net(token_ids).logits.detach(), pair.their_logits(token_ids))


def test_the_reference_kernel_has_the_same_logits(pair: Pair, token_ids: torch.Tensor) -> None:
    net = load_model(pair.folder, kernel="reference").net
    close(net(token_ids).logits.detach(), pair.their_logits(token_ids))


def test_single_precision_agrees_to_its_own_rounding(pair: Pair, token_ids: torch.Tensor) -> None:
    single = build(pair.loaded.spec)
    single.load_state_dict(pair.loaded.net.state_dict())
    with torch.no_grad():
        theirs = deepcopy(pair.theirs).float()(token_ids).logits
    scale = float(theirs.abs().max())
    close(single(token_ids).logits.detach(), theirs, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_the_real_tokens_alone(pair: Pair, token_ids: torch.Tensor, side: str) -> None:
    lengths = torch.tensor([LENGTH, 5, 2])
    place = torch.arange(LENGTH)
    mask = place >= LENGTH - lengths[:, None] if side == "left" else place < lengths[:, None]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    theirs = pair.their_logits(token_ids, attention_mask=mask.long(), position_ids=positions)
    ours = pair.loaded.net(token_ids, mask=mask).logits.detach()
    close(ours[mask], theirs[mask])


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_cached_steps_have_the_logits_of_a_full_pass(pair: Pair, token_ids: torch.Tensor, kind: str) -> None:
    cache = pair.loaded.net.new_cache(3, kind=kind, max_seq_len=LENGTH)
    cuts = [(0, 3), *((t, t + 1) for t in range(3, LENGTH))]
    steps = [pair.loaded.net(token_ids[:, a:b], cache=cache).logits.detach() for a, b in cuts]
    close(torch.cat(steps, dim=1), pair.their_logits(token_ids))


def test_training_without_dropout_has_the_same_gradients(pair: Pair, token_ids: torch.Tensor) -> None:
    net, theirs = pair.loaded.net.train(), pair.theirs.train()
    weight = torch.linspace(-1, 1, VOCAB, dtype=torch.float64)
    with widened(theirs):
        (theirs(token_ids).logits.log_softmax(-1) @ weight).sum().backward()
    (net(token_ids).logits.log_softmax(-1) @ weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    ours = find_family({"model_type": pair.case.model_type}).to_theirs(gradients, type(theirs).__name__)
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    net.zero_grad()
    net.eval()
    theirs.zero_grad()
    theirs.eval()
    assert set(ours) == set(expected)
    for name, gradient in ours.items():
        close(gradient, expected[name], atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_round_trip_changes_no_tensor_and_no_key(pair: Pair, tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    deepcopy(pair.theirs).to(dtype).save_pretrained(first)
    loaded = load_model(first)
    save_model(second, loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((second / name).read_text()) == json.loads((first / name).read_text())
    before, after = (load_tensors(folder / "model.safetensors") for folder in (first, second))
    assert tensor_header(first / "model.safetensors") == tensor_header(second / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_a_folder_of_ours_opens_in_transformers_with_the_same_logits(pair: Pair, token_ids: torch.Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(tmp_path / "ours", pair.loaded.net)  # without the card: every key is in our own words
    opened, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with widened(opened), torch.no_grad():
        close(opened.eval()(token_ids).logits, pair.their_logits(token_ids))


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
        old |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope if rope["rope_type"] != "default" else None}
        if old["rope_scaling"]:
            old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    assert find_family(old).read(old) == pair.loaded.spec
