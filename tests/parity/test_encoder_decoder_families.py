"""Encoder-decoders against transformers: every type and head, each switch that changes the result, every way to run them.

What a row of a padded batch should give is what transformers makes of that row alone: its BART and Marian give padding on the left
positions of its own.
"""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Case, Pair, answers, close, make_pair, rows, widened

from touchstone.files import load_tensors, tensor_header
from touchstone.infer import Engine, Request, Sampling
from touchstone.infer.generation_config import generation_defaults
from touchstone.models import build
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import find_family
from touchstone.models.spec import ModelSpec

pytestmark = pytest.mark.slow

VOCAB, N_SOURCE, N_TARGET = 11, 7, 6

T5 = {"vocab_size": VOCAB, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 5, "dropout_rate": 0.0, "decoder_start_token_id": 0}
SWITCH = T5 | {"num_experts": 3, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "router_jitter_noise": 0.0}
BART = {"vocab_size": VOCAB, "d_model": 12, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 17}
BART |= {"encoder_attention_heads": 3, "decoder_attention_heads": 2, "max_position_embeddings": 16, "dropout": 0.0}
MARIAN = BART | {"pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "decoder_start_token_id": 0}

GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
UNTIED = {"scale_decoder_outputs": False}

CASES = [
    Case("t5", "t5", T5, {"scale_decoder_outputs": True}, head="seq2seq"),
    Case("t5 1.1", "t5", T5 | GATED, UNTIED, head="seq2seq"),
    Case("t5 1.1, tied", "t5", T5 | GATED | {"pad_token_id": 3}, UNTIED, head="seq2seq"),
    Case("t5 gated silu, wide guard", "t5", T5 | {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.3}, head="seq2seq"),
    Case("t5 gelu, default depth", "t5", T5 | {"feed_forward_proj": "gelu", "num_decoder_layers": None}, head="seq2seq"),
    Case("t5 exact gelu behind a gate", "t5", T5 | {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, head="seq2seq"),
    Case("t5 base", "t5", T5, head="base"),
    Case("t5 encoder", "t5", T5 | {"feed_forward_proj": "gated-gelu"}, {"is_encoder_decoder": False}, head="encoder"),
    Case("mt5", "mt5", T5, {"feed_forward_proj": "gated-gelu", "is_gated_act": True}, head="seq2seq"),
    Case("mt5 tied relu", "mt5", T5 | {"feed_forward_proj": "relu", "pad_token_id": 3}, head="seq2seq"),
    Case("mt5 base", "mt5", T5, head="base"),
    Case("mt5 encoder", "mt5", T5, head="encoder"),
    Case("switch", "switch_transformers", SWITCH, {"encoder_sparse_step": 3, "decoder_sparse_step": 2}, head="seq2seq"),
    Case("switch all", "switch_transformers", SWITCH | {"num_sparse_encoder_layers": 3, "dense_act_fn": "gelu_new"}, head="seq2seq"),
    Case("switch none in the encoder", "switch_transformers", SWITCH | {"num_sparse_encoder_layers": 4}, head="seq2seq"),
    Case("switch base", "switch_transformers", SWITCH, head="base"),
    Case("bart", "bart", BART, head="seq2seq"),
    Case("bart scaled relu", "bart", BART | {"scale_embedding": True, "activation_function": "relu"}, head="seq2seq"),
    Case("bart base", "bart", BART | {"activation_function": "gelu_new"}, head="base"),
    Case("mbart", "mbart", BART | {"scale_embedding": True}, head="seq2seq"),
    Case("mbart silu", "mbart", BART | {"activation_function": "swish"}, head="seq2seq"),
    Case("mbart base", "mbart", BART, head="base"),
    Case("marian", "marian", MARIAN | {"scale_embedding": True, "activation_function": "swish"}, head="seq2seq"),
    Case(
        "marian odd width", "marian", MARIAN | {"d_model": 15, "encoder_attention_heads": 5, "decoder_attention_heads": 3}, head="seq2seq"
    ),
    Case("marian base", "marian", MARIAN, head="base"),
]

OWN_HEAD = {"t5 1.1", "mt5"}
"""The cases whose head has a tensor of its own; transformers 5 cannot make such a model, it only reads one."""


@dataclass(frozen=True)
class Batch:
    """Three sources and three targets."""

    source: torch.Tensor
    target: torch.Tensor


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = torch.Generator().manual_seed(3)
    return Batch(torch.randint(4, VOCAB, (3, N_SOURCE), generator=rng), torch.randint(4, VOCAB, (3, N_TARGET), generator=rng))


@pytest.fixture(scope="module", params=rows(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param

    def prepare(model: Any) -> None:
        rng = torch.Generator().manual_seed(8)
        with torch.no_grad():
            for module in model.modules():
                if hasattr(module, "create_weight"):  # Marian's positions, which are no trained numbers
                    module.weight.copy_(module.create_weight())
            if hasattr(model, "final_logits_bias"):
                model.final_logits_bias.normal_(generator=rng)
        if case.name in OWN_HEAD:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=rng, dtype=torch.float64))
        for module in model.modules():
            if hasattr(module, "jitter_noise"):
                module.dtype = torch.float64  # the router's type, chosen when it is made

    return make_pair(case, tmp_path_factory.mktemp("hf") / "model", prepare)


def theirs_of(pair: Pair, source: torch.Tensor, target: torch.Tensor, **inputs: Any) -> Any:
    with widened(pair.theirs), torch.no_grad():
        return run(pair, pair.theirs, source, target, **inputs)


def run(pair: Pair, model: Any, source: torch.Tensor, target: torch.Tensor, **inputs: Any) -> Any:
    return model(input_ids=source, **({} if pair.case.head == "encoder" else {"decoder_input_ids": target, "use_cache": False}), **inputs)


def ours_of(pair: Pair, batch: Batch, net: Any = None, **inputs: Any) -> Any:
    net = pair.loaded.net if net is None else net
    if pair.case.head == "encoder":
        return net(batch.source, mask=inputs.pop("source_mask", None), **inputs)
    return net(batch.target, source_ids=batch.source, **inputs)


def test_a_full_pass_has_the_same_answers(pair: Pair, batch: Batch) -> None:
    close(ours_of(pair, batch).logits.detach(), answers(theirs_of(pair, batch.source, batch.target)))


def test_the_reference_kernel_has_the_same_answers(pair: Pair, batch: Batch) -> None:
    net = load_model(pair.folder, kernel="reference").net
    close(ours_of(pair, batch, net).logits.detach(), answers(theirs_of(pair, batch.source, batch.target)))


def test_single_precision_agrees_to_its_own_rounding(pair: Pair, batch: Batch) -> None:
    single = build(pair.loaded.spec)
    single.load_state_dict(pair.loaded.net.state_dict())
    theirs = deepcopy(pair.theirs).float()
    for module in theirs.modules():
        if hasattr(module, "jitter_noise"):
            module.dtype = torch.float32
    with torch.no_grad():
        expected = answers(run(pair, theirs, batch.source, batch.target))
    close(ours_of(pair, batch, single).logits.detach(), expected, atol=1e-5 * max(float(expected.abs().max()), 1.0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_the_real_tokens_alone(pair: Pair, batch: Batch, side: str) -> None:
    source_mask, target_mask = mask_of([N_SOURCE, 5, 2], N_SOURCE, side), mask_of([3, N_TARGET, 4], N_TARGET, side)
    masks = {"source_mask": source_mask} | ({} if pair.case.head == "encoder" else {"mask": target_mask})
    ours = ours_of(pair, batch, **masks).logits.detach()
    counts = source_mask if pair.case.head == "encoder" else target_mask
    for n in range(3):
        alone = theirs_of(pair, batch.source[n : n + 1, source_mask[n]], batch.target[n : n + 1, target_mask[n]])
        close(ours[n, counts[n]], answers(alone)[0])


def mask_of(lengths: list[int], size: int, side: str) -> torch.Tensor:
    place, n = torch.arange(size), torch.tensor(lengths)[:, None]
    return place >= size - n if side == "left" else place < n


def test_a_padded_batch_of_theirs_has_the_same_answers(pair: Pair, batch: Batch) -> None:
    source_mask, target_mask = mask_of([N_SOURCE, 5, 2], N_SOURCE, "right"), mask_of([3, N_TARGET, 4], N_TARGET, "right")
    if pair.case.head == "encoder":
        theirs = theirs_of(pair, batch.source, batch.target, attention_mask=source_mask.long())
        close(ours_of(pair, batch, source_mask=source_mask).logits.detach()[source_mask], answers(theirs)[source_mask])
        return
    masks = {"attention_mask": source_mask.long(), "decoder_attention_mask": target_mask.long()}
    theirs = answers(theirs_of(pair, batch.source, batch.target, **masks))
    close(ours_of(pair, batch, source_mask=source_mask, mask=target_mask).logits.detach()[target_mask], theirs[target_mask])


@pytest.mark.parametrize("pair", rows([case for case in CASES if case.head != "encoder"]), indirect=True)
@pytest.mark.parametrize("kind", ["growing", "static"])
def test_cached_steps_have_the_answers_of_a_full_pass(pair: Pair, batch: Batch, kind: str) -> None:
    source_mask = mask_of([N_SOURCE, 5, 2], N_SOURCE, "left")
    cache = pair.loaded.net.new_cache(3, kind=kind, max_seq_len=N_TARGET)
    first = pair.loaded.net(batch.target[:, :2], source_ids=batch.source, source_mask=source_mask, cache=cache).logits.detach()
    steps = [pair.loaded.net(batch.target[:, t : t + 1], cache=cache).logits.detach() for t in range(2, N_TARGET)]
    ours = torch.cat([first, *steps], dim=1)
    for n in range(3):
        close(ours[n], answers(theirs_of(pair, batch.source[n : n + 1, source_mask[n]], batch.target[n : n + 1]))[0])


@pytest.mark.parametrize("pair", rows([case for case in CASES if case.head != "encoder"]), indirect=True)
@pytest.mark.parametrize("kind", ["growing", "static"])
def test_beams_go_on_from_the_rows_they_were_taken_from(pair: Pair, batch: Batch, kind: str) -> None:
    net, taken = pair.loaded.net, torch.tensor([2, 0, 2, 1])
    cache = net.new_cache(3, kind=kind, max_seq_len=N_TARGET)
    net(batch.target[:, :3], source_ids=batch.source, cache=cache)
    cache.keep(taken)
    rest = torch.randint(4, VOCAB, (4, 2), generator=torch.Generator().manual_seed(9))
    net(rest[:, :1], cache=cache)
    cache.reorder(swapped := torch.tensor([1, 1, 3, 0]))
    ours = net(rest[:, 1:], cache=cache).logits.detach()
    target = torch.cat([torch.cat([batch.target[taken, :3], rest[:, :1]], dim=1)[swapped], rest[:, 1:]], dim=1)
    close(ours[:, 0], answers(theirs_of(pair, batch.source[taken[swapped]], target))[:, -1])


def test_hidden_states_and_attentions_are_theirs(pair: Pair, batch: Batch) -> None:
    source_mask = mask_of([N_SOURCE, 5, 3], N_SOURCE, "right")
    want = ("hiddens", "attentions")
    asked = {"attention_mask": source_mask.long(), "output_hidden_states": True, "output_attentions": True}
    theirs = theirs_of(pair, batch.source, batch.target, **asked)
    if pair.case.head == "encoder":
        ours = ours_of(pair, batch, source_mask=source_mask, want=want)
        check_side(ours, theirs.hidden_states, theirs.attentions, source_mask)
        return
    ours = ours_of(pair, batch, source_mask=source_mask, want=(*want, "cross_attentions", "encoder.hiddens", "encoder.attentions"))
    every = torch.ones_like(batch.target, dtype=torch.bool)
    check_side(ours.encoder, theirs.encoder_hidden_states, theirs.encoder_attentions, source_mask)
    check_side(ours, theirs.decoder_hidden_states, theirs.decoder_attentions, every)
    assert len(ours.cross_attentions) == len(theirs.cross_attentions) == pair.loaded.spec.n_layers
    for layer, attention in enumerate(theirs.cross_attentions):
        close(ours.cross_attentions[layer].detach(), attention)


def check_side(ours: Any, hiddens: Any, attentions: Any, counts: torch.Tensor) -> None:
    """Theirs end with the hidden states after the final norm, where ours has `hidden`."""
    assert (len(ours.hiddens), len(ours.attentions)) == (len(hiddens), len(attentions))
    for layer, hidden in enumerate(hiddens[:-1]):
        close(ours.hiddens[layer].detach()[counts], hidden[counts])
    close(ours.hidden.detach()[counts], hiddens[-1][counts])
    for layer, attention in enumerate(attentions):
        close(ours.attentions[layer].detach().transpose(1, 2)[counts], attention.transpose(1, 2)[counts])


def test_training_without_dropout_has_the_same_gradients(pair: Pair, batch: Batch) -> None:
    net, theirs = pair.loaded.net.train(), pair.theirs.train()
    with widened(theirs):
        answers(run(pair, theirs, batch.source, batch.target)).sin().sum().backward()
    ours_of(pair, batch).logits.sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    ours = find_family({"model_type": pair.case.model_type}).to_theirs(gradients, type(theirs).__name__)
    ours.pop("final_logits_bias", None)  # trained here, kept as it is there
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    net.zero_grad()
    net.eval()
    theirs.zero_grad()
    theirs.eval()
    assert set(ours) == set(expected)
    for name, gradient in ours.items():
        zero = torch.zeros_like(gradient)  # of an expert that no token came to
        close(gradient, expected[name] if expected[name] is not None else zero, atol=1e-9)


def test_training_with_dropout_drops_in_the_same_places(pair: Pair, batch: Batch) -> None:
    written = pair.theirs.config.to_dict()
    shares = {"dropout_rate": 0.1, "dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3}
    changed = {key: share for key, share in shares.items() if key in written}
    config = deepcopy(pair.theirs.config)
    for key, share in changed.items():
        setattr(config, key, share)
    theirs = type(pair.theirs)(config).double().train()
    if pair.case.name in OWN_HEAD:
        theirs.lm_head.weight = torch.nn.Parameter(pair.theirs.lm_head.weight.clone())
    theirs.load_state_dict(pair.theirs.state_dict())
    theirs.set_attn_implementation("eager")
    for module in theirs.modules():
        if hasattr(module, "jitter_noise"):
            module.dtype = torch.float64
    family = find_family(written)
    spec = family.read(written | changed, stored=family.their_names(pair.loaded.net.state_dict()))
    net = build(spec, kernel="reference").double().train()
    net.load_state_dict(pair.loaded.net.state_dict())
    with torch.random.fork_rng(), torch.no_grad(), widened(theirs):
        torch.manual_seed(11)
        expected = answers(run(pair, theirs, batch.source, batch.target))
        torch.manual_seed(11)
        ours = ours_of(pair, batch, net).logits
    assert not torch.allclose(ours, ours_of(pair, batch).logits)
    close(ours, expected)  # the same generator, drawn from in the same order for tensors of the same shapes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_round_trip_changes_no_tensor_and_no_key(pair: Pair, tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    deepcopy(pair.theirs).to(dtype).save_pretrained(first)
    loaded = load_model(first)
    save_model(second, loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    assert json.loads((second / "config.json").read_text()) == json.loads((first / "config.json").read_text())
    if (first / "generation_config.json").exists():
        assert loaded.generation_config == json.loads((first / "generation_config.json").read_text())
    before, after = (load_tensors(folder / "model.safetensors") for folder in (first, second))
    before = {name: tensor for name, tensor in before.items() if not is_computed(pair, name)}
    assert {name: (t.dtype, t.shape) for name, t in after.items()} == {name: (t.dtype, t.shape) for name, t in before.items()}
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8)), name


def is_computed(pair: Pair, name: str) -> bool:
    """Of Marian, only the base class's files repeat the sines."""
    return pair.case.model_type == "marian" and pair.case.head == "base" and "embed_positions" in name


def test_shards_load_and_those_of_ours_open_there(pair: Pair, batch: Batch, tmp_path: Path) -> None:
    pair.theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    loaded = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", loaded.net, card=loaded.card, max_shard_bytes=4000)
    for folder in ("theirs", "ours"):
        assert len(list((tmp_path / folder).glob("model-*.safetensors"))) > 2
    check_opened(pair, batch, tmp_path / "ours")


def test_a_folder_of_ours_opens_in_transformers_with_the_same_answers(pair: Pair, batch: Batch, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "ours", pair.loaded.net)  # without the card: every key is in our own words
    assert saved.opens_in_transformers
    assert saved.model_type == pair.case.model_type.replace("mt5", "t5")  # an mT5 is a T5 1.1 to the last digit
    check_opened(pair, batch, tmp_path / "ours", type(pair.theirs) if saved.model_type == pair.case.model_type else None)
    assert tensor_header(tmp_path / "ours" / "model.safetensors").keys() >= {"lm_head.weight"} or pair.case.name not in OWN_HEAD


def check_opened(pair: Pair, batch: Batch, folder: Path, kind: Any = None) -> None:
    """transformers opens it, misses nothing, finds nothing that it does not know, and answers as before."""
    opened, report = (kind or pair.case.auto).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", experts_implementation="eager"
    )
    assert not any(not is_computed(pair, name) for what in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[what])
    for module in opened.modules():
        if hasattr(module, "jitter_noise"):
            module.dtype = torch.float64
    with widened(opened), torch.no_grad():
        close(answers(run(pair, opened.double().eval(), batch.source, batch.target)), answers(theirs_of(pair, batch.source, batch.target)))


def test_every_key_that_transformers_writes_is_known(pair: Pair) -> None:
    written = json.loads(pair.theirs.config.to_json_string(use_diff=False))
    written["architectures"] = [type(pair.theirs).__name__]
    family = find_family(written)
    assert family.read(written, stored=tensor_header(pair.folder / "model.safetensors")) == pair.loaded.spec
    assert written.items() >= pair.case.keys.items()


def test_the_parameters_are_counted(pair: Pair) -> None:
    spec = pair.loaded.spec
    assert isinstance(spec, ModelSpec)
    assert spec.n_parameters() == sum(p.numel() for p in pair.loaded.net.parameters())
    bias = pair.theirs.final_logits_bias.numel() if hasattr(pair.theirs, "final_logits_bias") else 0
    assert spec.n_parameters() == bias + sum(p.numel() for p in pair.theirs.parameters() if p.requires_grad)


@pytest.mark.parametrize("pair", rows([case for case in CASES if case.head == "seq2seq"]), indirect=True)
@pytest.mark.parametrize("n_beams", [1, 3])
def test_completions_and_their_scores_are_theirs(pair: Pair, batch: Batch, n_beams: int) -> None:
    settings = {"max_new_tokens": 7, "num_beams": n_beams, "num_return_sequences": n_beams, "do_sample": False}
    with widened(pair.theirs), torch.no_grad():
        theirs = pair.theirs.generate(batch.source, **settings, return_dict_in_generate=True, output_scores=True)
    said = generation_defaults(pair.loaded.generation_config, VOCAB, is_encoder_decoder=True)
    engine = Engine(pair.loaded.net, eos_ids=said.eos_ids or (), defaults=said.sampling, decoder_start_id=said.decoder_start_id)
    sampling = Sampling(max_new_tokens=7, temperature=0.0, num_beams=n_beams, n=n_beams)
    ours = engine.generate([Request(row.tolist(), sampling) for row in batch.source])
    end = pair.theirs.generation_config.eos_token_id
    assert [list(completion.token_ids) for completion in ours] == [until(row[1:].tolist(), end) for row in theirs.sequences]
    if n_beams > 1:
        scores = torch.tensor([completion.score for completion in ours], dtype=torch.float64)
        close(scores, theirs.sequences_scores.double(), atol=1e-6)  # theirs are summed in fp32


def until(token_ids: list[int], end: int) -> list[int]:
    """The tokens as far as the first that ends a text; what follows is padding."""
    return token_ids[: token_ids.index(end) + 1] if end in token_ids else token_ids
