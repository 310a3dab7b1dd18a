"""Encoders of BERT's kind against transformers: every type and head, each switch that changes the result, every way to run them."""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Case, Pair, close, make_pair, rows, widened

from touchstone.files import load_tensors, tensor_header
from touchstone.models import build
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import find_family
from touchstone.models.heads import PoolHead

pytestmark = pytest.mark.slow

VOCAB, LENGTH, LABELS = 19, 8, 5

DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
BERT = {"vocab_size": VOCAB, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20}
BERT |= {"max_position_embeddings": 13, "type_vocab_size": 3, **DROPOUTS}
ROBERTA = BERT | {"max_position_embeddings": 16, "type_vocab_size": 1, "pad_token_id": 1}
DISTIL = {"vocab_size": VOCAB, "dim": 12, "n_layers": 3, "n_heads": 4, "hidden_dim": 20, "max_position_embeddings": 13}
DISTIL |= {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0, "seq_classif_dropout": 0.0}

NAMES = {"id2label": {str(n): f"label {n}" for n in range(LABELS)}, "label2id": {f"label {n}": n for n in range(LABELS)}}
HEADS: dict[str, dict[str, Any]] = {"masked-lm": {}, "classify": NAMES, "tag": NAMES, "span": {}, "base": {}}
TYPES: dict[str, dict[str, Any]] = {"bert": BERT, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "distilbert": DISTIL}

ONE = {"id2label": {"0": "score"}, "label2id": {"score": 0}}

CASES = [
    *(Case(f"{name} {head}", name, sizes | labels, head=head) for name, sizes in TYPES.items() for head, labels in HEADS.items()),
    Case("bert relu, wide guard", "bert", BERT | {"hidden_act": "relu", "layer_norm_eps": 0.3}, head="masked-lm"),
    Case("bert tanh gelu, one head", "bert", BERT | {"hidden_act": "gelu_new", "num_attention_heads": 1}, head="masked-lm"),
    Case("bert untied", "bert", BERT | {"tie_word_embeddings": False}, {"tie_word_embeddings": False}, head="masked-lm"),
    Case("bert silu classifier", "bert", BERT | NAMES | {"hidden_act": "silu"}, head="classify"),
    Case("bert several labels at once", "bert", BERT | NAMES | {"problem_type": "multi_label_classification"}, head="classify"),
    Case("bert one score", "bert", BERT | ONE, head="classify"),
    Case("bert default labels", "bert", BERT, head="tag"),
    Case("roberta relu, two kinds", "roberta", ROBERTA | {"hidden_act": "relu", "type_vocab_size": 2}, head="masked-lm"),
    Case("roberta other padding", "roberta", ROBERTA | {"pad_token_id": 3}, {"pad_token_id": 3}, head="masked-lm"),
    Case("roberta untied", "roberta", ROBERTA | {"tie_word_embeddings": False}, head="masked-lm"),
    Case("xlm-roberta one score", "xlm-roberta", ROBERTA | ONE, head="classify"),
    Case("distilbert untied relu", "distilbert", DISTIL | {"tie_word_embeddings": False, "activation": "relu"}, head="masked-lm"),
    Case("distilbert sinusoids", "distilbert", DISTIL | {"sinusoidal_pos_embds": True}, {"sinusoidal_pos_embds": True}, head="base"),
]


@dataclass(frozen=True)
class Batch:
    """Three texts of eight tokens, with a kind for each token where the model has kinds."""

    token_ids: torch.Tensor
    token_types: torch.Tensor | None

    def theirs(self) -> dict[str, torch.Tensor]:
        return {} if self.token_types is None else {"token_type_ids": self.token_types}


def whole(pair: Pair, output: Any) -> torch.Tensor:
    """What our logits should be, of an output of theirs."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if "logits" in output:
        return output.logits
    return output.pooler_output if isinstance(pair.loaded.spec.head, PoolHead) else output.last_hidden_state


def expected(pair: Pair, batch: Batch, **inputs: Any) -> torch.Tensor:
    return whole(pair, pair.their_output(batch.token_ids, **batch.theirs(), **inputs))


def is_pooled(pair: Pair) -> bool:
    return pair.loaded.spec.head is not None and pair.loaded.spec.head.kind in ("classify", "pool")


def make_sound(model: torch.nn.Module) -> None:
    """The two biases of an untied head are one here; the second is the one that transformers reads."""
    named = dict(model.named_parameters())
    for first, second in (("cls.predictions.bias", "cls.predictions.decoder.bias"), ("lm_head.bias", "lm_head.decoder.bias")):
        if second in named:
            named[first].data.copy_(named[second].data)


@pytest.fixture(scope="module", params=rows(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp("hf") / "model", prepare=make_sound)


@pytest.fixture(scope="module")
def batch(pair: Pair) -> Batch:
    rng = torch.Generator().manual_seed(3)
    n_types = pair.loaded.spec.embed.n_token_types
    token_ids = torch.randint(4, VOCAB, (3, LENGTH), generator=rng)
    return Batch(token_ids, torch.randint(0, n_types, (3, LENGTH), generator=rng) if n_types else None)


def test_a_full_pass_has_the_same_answers(pair: Pair, batch: Batch) -> None:
    close(pair.loaded.net(batch.token_ids, token_types=batch.token_types).logits.detach(), expected(pair, batch))


def test_the_reference_kernel_has_the_same_answers(pair: Pair, batch: Batch) -> None:
    net = load_model(pair.folder, kernel="reference").net
    close(net(batch.token_ids, token_types=batch.token_types).logits.detach(), expected(pair, batch))


def test_tokens_without_kinds_are_of_the_first(pair: Pair, batch: Batch) -> None:
    close(pair.loaded.net(batch.token_ids).logits.detach(), whole(pair, pair.their_output(batch.token_ids)))


def test_single_precision_agrees_to_its_own_rounding(pair: Pair, batch: Batch) -> None:
    single = build(pair.loaded.spec)
    single.load_state_dict(pair.loaded.net.state_dict())
    with torch.no_grad():
        theirs = whole(pair, deepcopy(pair.theirs).float()(batch.token_ids, **batch.theirs()))
    ours = single(batch.token_ids, token_types=batch.token_types).logits.detach()
    close(ours, theirs, atol=1e-5 * max(float(theirs.abs().max()), 1.0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_the_real_tokens_alone(pair: Pair, batch: Batch, side: str) -> None:
    place, lengths = torch.arange(LENGTH), torch.tensor([LENGTH, 5, 2])
    mask = place >= LENGTH - lengths[:, None] if side == "left" else place < lengths[:, None]
    ours = pair.loaded.net(batch.token_ids, token_types=batch.token_types, mask=mask).logits.detach()
    if is_pooled(pair):  # theirs reads the first place, even where that is padding: each text alone has none
        alone = [(batch.token_ids[n : n + 1, mask[n]], _rows(batch.token_types, n, mask)) for n in range(3)]
        close(ours, torch.cat([expected(pair, Batch(*one)) for one in alone]))
        return
    first = pair.loaded.spec.encoder.position.offset
    positions = (mask.long().cumsum(1) - 1).clamp(min=0) + first
    close(ours[mask], expected(pair, batch, attention_mask=mask.long(), position_ids=positions)[mask])


def _rows(token_types: torch.Tensor | None, n: int, mask: torch.Tensor) -> torch.Tensor | None:
    return None if token_types is None else token_types[n : n + 1, mask[n]]


def test_hidden_states_and_attentions_are_theirs(pair: Pair, batch: Batch) -> None:
    mask = torch.arange(LENGTH) < torch.tensor([LENGTH, 6, 4])[:, None]
    theirs = pair.their_output(
        batch.token_ids, **batch.theirs(), attention_mask=mask.long(), output_hidden_states=True, output_attentions=True
    )
    with torch.no_grad():
        ours = pair.loaded.net(batch.token_ids, token_types=batch.token_types, mask=mask, want=("hiddens", "attentions"))
    assert (len(ours.hiddens), len(ours.attentions)) == (len(theirs.hidden_states), len(theirs.attentions)) == (4, 3)
    for layer, hidden in enumerate(theirs.hidden_states):
        close(ours.hiddens[layer][mask], hidden[mask])
    for layer, attention in enumerate(theirs.attentions):
        close(ours.attentions[layer].transpose(1, 2)[mask], attention.transpose(1, 2)[mask])


def test_training_without_dropout_has_the_same_gradients(pair: Pair, batch: Batch) -> None:
    net, theirs = pair.loaded.net.train(), pair.theirs.train()
    with widened(theirs):
        whole(pair, theirs(batch.token_ids, **batch.theirs())).sin().sum().backward()
    net(batch.token_ids, token_types=batch.token_types).logits.sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    ours = find_family({"model_type": pair.case.model_type}).to_theirs(gradients, type(theirs).__name__)
    expect = {name: parameter.grad for name, parameter in theirs.named_parameters(remove_duplicate=False)}
    n_theirs = len(list(theirs.parameters()))
    net.zero_grad()
    net.eval()
    theirs.zero_grad()
    theirs.eval()
    assert len(ours) == n_theirs
    assert set(ours) <= set(expect)
    unread = {name for name, gradient in expect.items() if gradient is None}
    assert unread <= {"cls.predictions.bias", "lm_head.bias"}  # of an untied head, whose second bias counts
    for name in set(ours) - unread:
        close(ours[name], expect[name], atol=1e-9)


def test_training_with_dropout_drops_in_the_same_places(pair: Pair, batch: Batch) -> None:
    config = deepcopy(pair.theirs.config)
    shares = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.3}
    shares |= {"dropout": 0.1, "attention_dropout": 0.2, "qa_dropout": 0.3, "seq_classif_dropout": 0.4}
    written = config.to_dict()
    for key in shares.keys() & written.keys():
        setattr(config, key, shares[key])
        written[key] = shares[key]
    theirs = type(pair.theirs)(config).double().train()
    theirs.load_state_dict(pair.theirs.state_dict())
    theirs.set_attn_implementation("eager")
    spec = find_family(written).read(written, stored=pair.theirs.state_dict())
    net = build(spec, kernel="reference").double().train()
    net.load_state_dict(pair.loaded.net.state_dict())
    with torch.random.fork_rng(), torch.no_grad(), widened(theirs):
        torch.manual_seed(11)
        expect = whole(pair, theirs(batch.token_ids, **batch.theirs()))
        torch.manual_seed(11)
        ours = net(batch.token_ids, token_types=batch.token_types).logits
    assert not torch.allclose(ours, pair.loaded.net(batch.token_ids, token_types=batch.token_types).logits)
    close(ours, expect)  # the same generator, drawn from in the same order for tensors of the same shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_round_trip_changes_no_tensor_and_no_key(pair: Pair, tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    deepcopy(pair.theirs).to(dtype).save_pretrained(first)
    loaded = load_model(first)
    save_model(second, loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    assert json.loads((second / "config.json").read_text()) == json.loads((first / "config.json").read_text())
    before, after = (load_tensors(folder / "model.safetensors") for folder in (first, second))
    assert tensor_header(first / "model.safetensors") == tensor_header(second / "model.safetensors")
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_shards_load_and_those_of_ours_open_there(pair: Pair, batch: Batch, tmp_path: Path) -> None:
    pair.theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    loaded = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", loaded.net, card=loaded.card, max_shard_bytes=4000)
    for folder in ("theirs", "ours"):
        assert len(list((tmp_path / folder).glob("model-*.safetensors"))) > 2
    opened = open_there(pair, tmp_path / "ours")
    with torch.no_grad():
        close(whole(pair, opened(batch.token_ids, **batch.theirs())), expected(pair, batch))


def test_a_folder_of_ours_opens_in_transformers_with_the_same_answers(pair: Pair, batch: Batch, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "ours", pair.loaded.net)  # without the card: every key is in our own words
    assert (saved.model_type, saved.opens_in_transformers) == (pair.case.model_type.removeprefix("xlm-"), True)
    opened = open_there(pair, tmp_path / "ours")
    assert opened.config.get_text_config().tie_word_embeddings == (pair.case.settings.get("tie_word_embeddings") is not False)
    with widened(opened), torch.no_grad():
        close(whole(pair, opened(batch.token_ids, **batch.theirs())), expected(pair, batch))


def open_there(pair: Pair, folder: Path) -> Any:
    opened, report = pair.case.auto.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return opened.eval()


def test_every_key_that_transformers_writes_is_known(pair: Pair) -> None:
    written = json.loads(pair.theirs.config.to_json_string(use_diff=False))
    assert find_family(written).read(written) == pair.loaded.spec
    assert written.items() >= pair.case.keys.items()


@pytest.mark.parametrize("case", [case for case in CASES if "id2label" in case.settings][:3], ids=str)
def test_the_names_of_the_labels_come_along(case: Case, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path / "theirs")
    names = tuple(case.settings["id2label"].values())
    assert pair.loaded.card.labels == names
    save_model(tmp_path / "ours", pair.loaded.net, card=pair.loaded.card.replace(hf_config=None))
    assert tuple(open_there(pair, tmp_path / "ours").config.id2label.values()) == names
