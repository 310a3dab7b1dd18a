"""Networks of every family in int8: near the fp32 network, written and read back bit for bit, and strict about what they read."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from touchstone import load, save
from touchstone.errors import ConfigError, ModelFolderError, Unsupported
from touchstone.files import load_tensors, save_tensors
from touchstone.infer.language_model import LanguageModel
from touchstone.models import (
    ClassifyHead,
    build,
    decoder_spec,
    encoder_decoder_spec,
    encoder_spec,
    recurrent_encoder_decoder_spec,
    recurrent_spec,
)
from touchstone.models.card import Calibration, Card, Score
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.ngram import NgramModel, NgramSpec
from touchstone.models.quantized import is_int8, numeric_scheme, quantize, sample_ids
from touchstone.models.weights import weights_hash
from touchstone.nn.experts import Experts, ExpertsSpec
from touchstone.nn.int8 import Int8Linear
from touchstone.nn.linear import Linear
from touchstone.nn.mlp import MlpSpec

pytestmark = pytest.mark.slow

V = 41
SIZES = {"vocab_size": V, "d_model": 36, "n_layers": 2, "n_heads": 4, "max_seq_len": 24}
SIDES = {"vocab_size": V, "d_model": 36, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 1, "max_seq_len": 24}


def experts_spec():
    spec = decoder_spec(**SIZES, d_head=8)
    mlp = MlpSpec(d_ff=20, activation="silu", gated=True)
    experts = ExpertsSpec(n_experts=3, n_active=2, expert=mlp, shared=mlp)
    return spec.replace(decoder=spec.decoder.replace(blocks=tuple(block.replace(mlp=experts) for block in spec.decoder.blocks)))


SPECS = {
    "gpt2": lambda: decoder_spec(
        **SIZES, positions="learned", norm="layer", bias=True, gated=False, activation="gelu_tanh", d_head=9, tied=True
    ),
    "llama": lambda: decoder_spec(**SIZES, n_kv_heads=2, d_head=8, tied=False),
    "experts": experts_spec,
    "masked": lambda: encoder_spec(**SIZES),
    "classifier": lambda: encoder_spec(**SIZES, head=ClassifyHead(n_labels=3, activation="tanh")),
    "translator": lambda: encoder_decoder_spec(**SIDES, head_bias=True),
    "t5": lambda: encoder_decoder_spec(**SIDES, norm="rms", norm_place="pre", bias=False, positions="relative", attention_scale=1.0),
    "lstm": lambda: recurrent_spec(vocab_size=V, d_model=20, d_hidden=20, tied=True),
    "gru, attending": lambda: recurrent_encoder_decoder_spec(vocab_size=V, d_model=12, d_hidden=14, cell="gru"),
}


def random_net(spec, std=0.15):
    net = build(spec)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, std, generator=rng)
    return net.eval()


def token_ids(seed=1):
    return torch.randint(0, V, (3, 7), generator=torch.Generator().manual_seed(seed))


def logits(net):
    source = token_ids(2) if net.spec.encoder is not None and net.spec.decoder is not None else None
    with torch.inference_mode():
        return net(token_ids(), source_ids=source).logits


def apart(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def with_large_channels(net):
    """The same function, two channels of every norm's output 200 times as large and the weights that read them as much smaller."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for block in net.decoder.layers:
            readers = ((block.norm1, (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj)), (block.norm2, _readers(block.mlp)))
            for norm, layers in readers:
                for parameter in norm.parameters():
                    parameter[[3, 30]] *= 200
                for layer in layers:
                    layer.weight[:, [3, 30]] /= 200
    return net


def _readers(mlp):
    return [module for name, module in mlp.named_modules() if name.endswith(("gate_proj", "up_proj", "router", "shared_gate"))]


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def net(request):
    return random_net(request.param())


def test_a_network_in_int8_is_near_the_one_in_fp32(net):
    exact = logits(net)
    assert numeric_scheme(net) == "float32"
    found = quantize(net)
    assert found is net
    assert is_int8(net)
    assert numeric_scheme(net) == "int8"
    assert apart(logits(net), exact) < 0.06


def test_everything_multiplied_by_is_int8_but_what_chooses_and_what_remembers(net):
    quantize(net)
    kept = [module for module in net.modules() if isinstance(module, Experts)]
    choosing = {id(part) for experts in kept for part in (experts.router, getattr(experts, "shared_gate", None))}
    assert {id(module) for module in net.modules() if isinstance(module, Linear)} == choosing - {id(None)}
    assert all(module.weight.dtype == torch.int8 for module in net.modules() if isinstance(module, Int8Linear))
    cells = {id(p) for module in net.modules() if isinstance(module, nn.LSTM | nn.GRU) for p in module.parameters()}
    wide = [name for name, p in net.named_parameters() if p.ndim == 2 and id(p) not in cells]
    small = ("positions", "token_types", "relative_bias", "score_vector", "router", "shared_gate")
    assert all(any(part in name for part in small) for name in wide)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_folder_gives_the_same_bits_back(net, tmp_path):
    quantize(net)
    saved = save_model(tmp_path / "m", net)
    assert (saved.model_type, saved.opens_in_transformers) == ("touchstone-int8", False)
    loaded = load_model(tmp_path / "m")
    assert is_int8(loaded.net)
    assert loaded.spec == net.spec
    assert torch.equal(logits(loaded.net.eval()), logits(net))
    assert weights_hash(loaded.net.state_dict()) == weights_hash(net.state_dict())
    assert "opens in Touchstone only" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize("name", ["gpt2", "llama", "experts"])
def test_large_channels_cost_nothing_with_factors_and_nearly_everything_without(name, monkeypatch, tmp_path):
    net = with_large_channels(random_net(SPECS[name]()))
    exact = logits(net)
    torch.testing.assert_close(exact, logits(random_net(SPECS[name]())), rtol=1e-3, atol=1e-4)  # the function is the same
    plain = copy.deepcopy(net)
    monkeypatch.setattr("touchstone.models.quantized._choose_smooth", lambda inputs: {})
    without = apart(logits(quantize(plain)), exact)
    monkeypatch.undo()
    quantize(net)
    assert apart(logits(net), exact) < 0.06 < 0.2 < without
    save_model(tmp_path / "m", net)
    assert torch.equal(logits(load_model(tmp_path / "m").net.eval()), logits(net))


def test_layers_that_read_one_input_have_the_same_factors():
    net = quantize(with_large_channels(random_net(SPECS["experts"]())))
    for block in net.decoder.layers:
        inner = [module for name, module in block.mlp.named_modules() if name.endswith(("gate_proj", "up_proj"))]
        for layers in ([block.attn.q_proj, block.attn.k_proj, block.attn.v_proj], inner):
            assert layers[0].smooth is not None
            assert all(torch.equal(layer.smooth, layers[0].smooth) for layer in layers)


def test_the_tokens_to_calibrate_by_can_be_given_and_are_else_the_same_every_time():
    net = random_net(SPECS["llama"]())
    assert torch.equal(sample_ids(net), sample_ids(net))
    assert sample_ids(net).shape == (2, 24)
    given, drawn = quantize(copy.deepcopy(net), token_ids()), quantize(copy.deepcopy(net))
    again = quantize(copy.deepcopy(net))
    assert torch.equal(logits(drawn), logits(again))
    assert apart(logits(given), logits(net)) < 0.06


def test_a_network_is_changed_once():
    with pytest.raises(ConfigError, match="int8 already"):
        quantize(quantize(random_net(SPECS["gpt2"]())))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoding_with_a_cache_gives_what_a_full_pass_gives(name):
    net = quantize(random_net(SPECS[name]()))
    full, cache = logits(net), net.new_cache(batch_size=3)
    with torch.inference_mode():
        steps = torch.cat([net(token_ids()[:, t : t + 1], cache=cache).logits for t in range(7)], dim=1)
    torch.testing.assert_close(steps, full, rtol=0, atol=0.15 * float(full.std()))  # a code may round the other way


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "m", quantize(with_large_channels(random_net(SPECS["llama"]()))))
    return tmp_path / "m"


def change_tensors(folder, change):
    tensors = load_tensors(folder / "model.safetensors")
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)


def change_config(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_every_tensor_that_does_not_fit_is_reported(folder):
    def change(tensors):
        del tensors["embed.rows.scale"]
        tensors["extra"] = torch.zeros(2)
        tensors["lm_head.rows.weight"] = tensors["lm_head.rows.weight"][1:].clone()
        tensors["decoder.layers.0.attn.q_proj.weight"] = tensors["decoder.layers.0.attn.q_proj.weight"].float()
        tensors["decoder.layers.1.attn.q_proj.scale"] = tensors["decoder.layers.1.attn.q_proj.scale"].double()

    change_tensors(folder, change)
    with pytest.raises(ModelFolderError) as raised:
        load_model(folder)
    for text in (
        "1 missing: `embed.rows.scale`",
        "1 unknown: `extra`",
        "1 of the wrong shape: `lm_head.rows.weight` ([40, 36] should be [41, 36])",
        "2 of a type not read",
        "`decoder.layers.0.attn.q_proj.weight` (F32 should be I8)",
        "`decoder.layers.1.attn.q_proj.scale` (F64 should be F32)",
    ):
        assert text in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"more": 1}, "unknown keys more"),
        ({"spec": 3}, "`spec` should be a mapping"),
        ({"spec": {"kind": 1}}, "spec"),
        ({"smoothed": "all"}, "`smoothed` should list"),
        ({"smoothed": ["decoder.layers.9.attn.q_proj"]}, "is no int8 layer of the model"),
        ({"smoothed": []}, "unknown: `decoder.layers.0.attn.k_proj.smooth`"),
    ],
)
def test_a_config_that_does_not_fit_says_so(folder, keys, text):
    change_config(folder, **keys)
    with pytest.raises(ModelFolderError, match=text):
        load_model(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    change_tensors(folder, lambda tensors: tensors["embed.rows.scale"].fill_(float("nan")))
    with pytest.raises(ModelFolderError, match="not finite"):
        load_model(folder)


def test_a_folder_keeps_the_type_that_it_has(tmp_path):
    net = quantize(random_net(SPECS["gpt2"]()))
    with pytest.raises(ConfigError, match="None for n-gram counts and int8"):
        save_model(tmp_path / "m", net, dtype=torch.bfloat16)


def test_a_model_is_opened_in_int8_and_says_how(tmp_path):
    net = random_net(SPECS["llama"]())
    save_model(tmp_path / "m", net)
    model = load(tmp_path / "m", weights="int8")
    assert is_int8(model.net)
    assert "int8 by" in model.runtime.reasons["weights"]
    assert apart(logits(model.net), logits(net)) < 0.06
    save(model, tmp_path / "eight")
    again = load(tmp_path / "eight")
    assert is_int8(again.net)
    assert torch.equal(logits(again.net), logits(model.net))
    request = {"max_new_tokens": 5, "temperature": 0}
    written = [each.generate([[1, 2, 3]], **request)[0].token_ids for each in (model, again)]
    assert written[0] == written[1]
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("m", "eight")}
    assert size["eight"] < 0.4 * size["m"]  # scales and headers weigh more in so small a network


def test_what_cannot_be_opened_in_int8_is_refused(tmp_path):
    save_model(tmp_path / "m", random_net(SPECS["llama"]()))
    for asked in ({"dtype": "bfloat16"}, {"device": "cuda"}):
        with pytest.raises(Unsupported, match="leave both at auto"):
            load(tmp_path / "m", weights="int8", **asked)
    with pytest.raises(ConfigError, match="'int8'"):
        load(tmp_path / "m", weights="int4")
    save_model(tmp_path / "n", NgramModel.fit(NgramSpec(order=2, vocab_size=5), np.array([1, 2, 3, 1, 2])))
    with pytest.raises(Unsupported, match="n-gram"):
        load(tmp_path / "n", weights="int8")


def test_a_calibration_and_scores_of_fp32_do_not_hold_in_int8(tmp_path):
    net = random_net(SPECS["llama"]())
    record = Calibration(
        target="next-token",
        method="temperature",
        params={"temperature": 1.5},
        statistic={},
        weights_hash=weights_hash(net.state_dict()),
        numeric_scheme="float32",
        n=9,
        date="2026-01-01",
    )
    score = Score(name="bits per byte", value=1.0, n=3, method="none", on="a text")
    save_model(tmp_path / "m", net, card=Card(calibration=(record,), scores=(score,)))
    request = {"max_new_tokens": 1, "temperature": 0}
    as_stored, in_int8 = load(tmp_path / "m"), load(tmp_path / "m", weights="int8")
    assert as_stored.generate([[1, 2]], **request)[0].confidence is not None
    found = in_int8.generate([[1, 2]], **request)[0]
    assert found.confidence is None
    assert "fitted in float32 and the model runs in int8" in found.confidence_reason
    assert in_int8.card.scores == ()
    own = record.replace(numeric_scheme="int8", weights_hash=weights_hash(in_int8.net.state_dict()))
    assert LanguageModel(in_int8.net, card=Card(calibration=(own,))).generate([[1, 2]], **request)[0].confidence is not None
