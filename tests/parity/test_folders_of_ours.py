"""Folders that Touchstone writes, opened by transformers; and folders of transformers' base classes, opened by Touchstone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from touchstone.files import tensor_header
from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.spec import ModelSpec

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 4, "max_seq_len": 16}
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer", "bias": True, "gated": False}

SPECS = [
    ("gpt2", GPT2 | {"activation": "gelu_tanh", "d_head": 3}),
    ("llama", {"n_kv_heads": 2, "d_head": 6, "tied": False}),
    ("llama", {"n_kv_heads": 2, "d_head": 4, "bias": True, "dropout": 0.1}),
    ("mistral", {"window": 3, "d_head": 6}),
    ("mistral", {"n_heads": 5, "d_head": 4}),
    ("qwen3", {"qk_norm": True, "n_kv_heads": 2, "d_head": 6}),
    ("qwen3", {"qk_norm": True, "d_head": 4, "windows": (None, 5)}),
    ("arcee", {"gated": False, "activation": "relu2", "d_head": 4, "n_kv_heads": 1}),
]


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("model_type", "settings"), SPECS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_decoder_is_saved_as_the_class_that_computes_it(
    model_type: str, settings: dict[str, Any], token_ids: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    spec: ModelSpec = decoder_spec(**(SIZES | settings))
    net = build(spec, seed=3).eval()
    saved = save_model(tmp_path / "m", net)
    assert (saved.model_type, saved.opens_in_transformers) == (model_type, True)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(token_ids).logits, net(token_ids).logits, rtol=0, atol=1e-5)
    assert load_model(tmp_path / "m").spec == spec


def test_transformers_takes_no_id_from_its_defaults(tmp_path: Path) -> None:
    from transformers import AutoConfig

    save_model(tmp_path / "m", build(decoder_spec(**(SIZES | GPT2 | {"d_head": 3}))), generation_config={"eos_token_id": 7})
    config = AutoConfig.from_pretrained(tmp_path / "m")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, 7, None)


@pytest.mark.parametrize(("model_type", "prefix"), [("gpt2", "transformer."), ("qwen3", "model.")])
def test_a_base_class_folder_loads_and_is_written_back_as_it_was(
    model_type: str, prefix: str, token_ids: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 4}
    sizes |= {"intermediate_size": 20, "num_key_value_heads": 1} if model_type == "qwen3" else {}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    if model_type == "gpt2":
        del sizes["head_dim"]
    theirs = AutoModel.from_config(AutoConfig.for_model(model_type, **sizes, **ids, tie_word_embeddings=True)).eval()
    theirs.save_pretrained(tmp_path / "base")
    header = tensor_header(tmp_path / "base" / "model.safetensors")
    assert not any(name.startswith(prefix) for name in header)
    loaded = load_model(tmp_path / "base")
    with torch.no_grad():
        expected = theirs(token_ids).last_hidden_state
        hidden = loaded.net.eval().body(token_ids).hidden
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)
    save_model(tmp_path / "again", loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    assert tensor_header(tmp_path / "again" / "model.safetensors") == header
    config = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("base", "again")]
    assert config[0] == config[1]


def test_shards_of_transformers_load_and_ours_open_there(token_ids: torch.Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    net = build(decoder_spec(**(SIZES | {"d_head": 6})), seed=4).eval()
    save_model(tmp_path / "ours", net, max_shard_bytes=2000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 2
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="3KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    again = load_model(tmp_path / "theirs").net.eval()
    with torch.no_grad():
        expected = net(token_ids).logits
        assert torch.equal(again(token_ids).logits, expected)
        torch.testing.assert_close(theirs(token_ids).logits, expected, rtol=0, atol=1e-5)
