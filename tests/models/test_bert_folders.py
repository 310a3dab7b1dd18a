"""Published configs of BERT's kind, and what their folders hold besides; the numbers computed are held in tests/parity."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from touchstone.errors import ModelFolderError, Unsupported
from touchstone.files import load_tensors, save_tensors, tensor_header
from touchstone.models import build, encoder_spec
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import choose_family, find_family
from touchstone.models.heads import ClassifyHead, MaskedLmHead, PoolHead, SpanHead, TagHead
from touchstone.models.spec import ModelSpec

# The published config.json files.
BERT = {
    **{"architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu"},
    **{"hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12},
    **{"max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0},
    **{"position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True},
    "vocab_size": 30522,
}
CHINESE = BERT | {"vocab_size": 21128, "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12}
CHINESE |= {"pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform"}
ROBERTA = BERT | {"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "vocab_size": 50265, "type_vocab_size": 1}
ROBERTA |= {"max_position_embeddings": 514, "layer_norm_eps": 1e-05, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
XLM_R = ROBERTA | {"architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "vocab_size": 250002, "output_past": True}
DISTIL = {
    **{"activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768, "dropout": 0.1},
    **{"hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12},
    **{"n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False},
    **{"tie_weights_": True, "transformers_version": "4.10.0.dev0", "vocab_size": 30522},
}

TINY: dict[str, Any] = {"vocab_size": 11, "d_model": 12, "n_layers": 2, "n_heads": 3, "max_seq_len": 16}


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    config = {key: value for key, value in {**config, **changes}.items() if value is not ...}
    return find_family(config).read(config)


@pytest.mark.parametrize(
    ("config", "name", "n_parameters"),
    [
        (BERT, "BertModel", 109_482_240),
        (CHINESE, "BertModel", 102_267_648),
        (ROBERTA, "RobertaModel", 124_645_632),
        (XLM_R, "XLMRobertaModel", 278_043_648),
        (DISTIL, "DistilBertModel", 66_362_880),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_published_configs_give_the_published_number_of_parameters(config: dict[str, Any], name: str, n_parameters: int) -> None:
    assert read(config, architectures=[name]).n_parameters() == n_parameters


@pytest.mark.parametrize("config", [BERT, ROBERTA, XLM_R, DISTIL], ids=lambda config: config["model_type"])
def test_a_spec_is_written_as_the_type_it_was_read_from(config: dict[str, Any]) -> None:
    spec = read(config)
    choice = choose_family(spec, prefer=config["model_type"])
    assert (choice.model_type, choice.architecture) == (config["model_type"], config["architectures"][0])
    assert choice.family.read(choice.config) == spec


def test_roberta_counts_positions_from_the_row_after_its_padding() -> None:
    stack = read(ROBERTA).encoder
    assert stack is not None
    assert stack.position is not None
    assert (stack.position.offset, stack.position.max_seq_len) == (2, 512)
    assert read(ROBERTA, pad_token_id=5).max_seq_len == 508


@pytest.mark.parametrize("value", [None, -1, 513, "1"])
def test_roberta_without_a_padding_row_is_refused(value: Any) -> None:
    with pytest.raises(ModelFolderError, match="positions are counted from the row after it"):
        read(ROBERTA, pad_token_id=value)


def test_a_classifier_drops_out_where_its_config_says() -> None:
    head = read(BERT, architectures=["BertForSequenceClassification"], classifier_dropout=0.3).head
    assert head == ClassifyHead(n_labels=2, activation="tanh", dropout=0.3)
    head = read(ROBERTA, architectures=["RobertaForSequenceClassification"]).head
    assert head == ClassifyHead(n_labels=2, activation="tanh", dropout=0.1, drop_pooled=True)
    head = read(DISTIL, architectures=["DistilBertForSequenceClassification"], num_labels=1).head
    assert head == ClassifyHead(n_labels=1, activation="relu", dropout=0.2, problem="regression")
    assert read(BERT, architectures=["BertForTokenClassification"], num_labels=9, classifier_dropout=0.0).head == TagHead(n_labels=9)
    assert read(DISTIL, architectures=["DistilBertForQuestionAnswering"], qa_dropout=0.4).head == SpanHead(dropout=0.4)


def test_the_names_of_labels_are_left_out_where_no_head_has_labels() -> None:
    names = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "problem_type": None}
    family = find_family(BERT)
    assert names.keys() <= family.left_out({**BERT, **names}).keys()
    classifier = family.left_out({**BERT, **names, "architectures": ["BertForSequenceClassification"]})
    assert classifier.keys() & names.keys() == {"label2id"}
    assert classifier["label2id"] == "repeats `id2label`"


def test_two_labels_of_one_name_are_refused() -> None:
    names = {"id2label": {"0": "yes", "1": "no", "2": "yes"}}
    with pytest.raises(ModelFolderError, match="`id2label` gives the name 'yes' to more labels than one"):
        read(BERT, architectures=["BertForSequenceClassification"], **names)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (BERT, {"architectures": ["BertForPreTraining"]}, "next-sentence head.*write BertForMaskedLM there"),
        (BERT, {"architectures": ["BertLMHeadModel"]}, "BertLMHeadModel, which looks back only"),
        (BERT, {"architectures": ["BertForMultipleChoice"]}, "is another kind of model; read here: BertForMaskedLM"),
        (BERT, {"is_decoder": True}, "`is_decoder`.*look back only"),
        (BERT, {"add_cross_attention": True}, "`add_cross_attention`"),
        (BERT, {"position_embedding_type": "relative_key"}, "`position_embedding_type`"),
        (ROBERTA, {"architectures": ["RobertaForCausalLM"]}, "RobertaForCausalLM, which looks back only"),
        (BERT, {"pruned_heads": {"1": [0]}}, "`pruned_heads`"),
    ],
)
def test_what_is_not_built_is_refused_with_its_reason(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        read(config, **changes)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (BERT, {"hidden_size": 770}, r"`hidden_size` \(770\) must be a multiple of `num_attention_heads`"),
        (DISTIL, {"dim": 770}, r"`dim` \(770\) must be a multiple of `n_heads`"),
        (DISTIL, {"hidden_size": 12}, "`hidden_size`.*`dim`.*are one setting"),
        (BERT, {"intermediate_size": ...}, "`intermediate_size` is missing"),
        (BERT, {"architectures": ["BertForQuestionAnswering"], "num_labels": 3}, "scores two ends, and config.json names 3 labels"),
        (DISTIL, {"architectures": ["DistilBertForQuestionAnswering"], "num_labels": 1}, "scores two ends"),
        (BERT, {"layer_norm_epsilon": 1e-5}, "unknown key `layer_norm_epsilon`; did you mean `layer_norm_eps`"),
    ],
)
def test_what_is_wrong_in_a_config_is_said(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFolderError, match=message):
        read(config, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "bert", build(encoder_spec(**TINY), seed=3))
    (tmp_path / "bert" / "COMPLETE.json").unlink()
    return tmp_path / "bert"


def rewrite(folder: Path, names: dict[str, str], more: dict[str, torch.Tensor] | None = None) -> None:
    """Parts of the tensors' names replaced, and other tensors added."""
    tensors = load_tensors(folder / "model.safetensors")
    for old, new in names.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_tensors(folder / "model.safetensors", tensors | (more or {}), {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def same_state(folder: Path, other: Path) -> bool:
    first, second = (load_model(each).net.state_dict() for each in (folder, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_names_of_2018_are_read_and_written_as_those_of_today(folder: Path, tmp_path: Path) -> None:
    before = tensor_header(folder / "model.safetensors")
    loaded = load_model(folder)
    rewrite(folder, {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"})
    again = load_model(folder)
    save_model(tmp_path / "again", again.net, card=again.card)
    assert tensor_header(tmp_path / "again" / "model.safetensors") == before
    assert all(torch.equal(tensor, again.net.state_dict()[name]) for name, tensor in loaded.net.state_dict().items())


def test_what_a_pretraining_leaves_beside_the_language_model_is_listed(folder: Path, tmp_path: Path) -> None:
    more = {"bert.pooler.dense.weight": torch.ones(12, 12), "bert.pooler.dense.bias": torch.ones(12)}
    more |= {"cls.seq_relationship.weight": torch.ones(2, 12), "cls.seq_relationship.bias": torch.ones(2)}
    rewrite(folder, {}, more | {"bert.embeddings.position_ids": torch.arange(16)[None]})
    loaded = load_model(folder)
    assert set(loaded.extra.ignored_tensors) == {*more, "bert.embeddings.position_ids"}
    assert isinstance(loaded.spec.head, MaskedLmHead)


@pytest.mark.slow
def test_a_tied_bias_may_stand_in_the_file_twice(folder: Path) -> None:
    bias = load_tensors(folder / "model.safetensors")["cls.predictions.bias"]
    rewrite(folder, {}, {"cls.predictions.decoder.bias": bias.clone()})
    assert load_model(folder).spec.head == MaskedLmHead(norm=load_model(folder).spec.head.norm)
    rewrite(folder, {}, {"cls.predictions.decoder.bias": bias + 1})
    with pytest.raises(ModelFolderError, match=r"`cls\.predictions\.decoder\.bias` is another tensor"):
        load_model(folder)


@pytest.mark.slow
def test_a_folder_that_names_no_class_is_what_its_tensors_say(folder: Path, tmp_path: Path) -> None:
    configure(folder, architectures=...)
    assert isinstance(load_model(folder).spec.head, MaskedLmHead)
    save_model(tmp_path / "base", build(encoder_spec(**TINY, head=PoolHead())))
    configure(tmp_path / "base", architectures=...)
    (tmp_path / "base" / "COMPLETE.json").unlink()
    loaded = load_model(tmp_path / "base")
    assert isinstance(loaded.spec.head, PoolHead)
    save_model(tmp_path / "again", loaded.net, card=loaded.card)
    assert "architectures" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert same_state(tmp_path / "base", tmp_path / "again")


@pytest.mark.slow
def test_a_base_model_without_a_pooler_gives_hidden_states(tmp_path: Path) -> None:
    net = build(encoder_spec(**TINY, head=PoolHead())).eval()
    save_model(tmp_path / "bert", net)
    (tmp_path / "bert" / "COMPLETE.json").unlink()
    tensors = load_tensors(tmp_path / "bert" / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_tensors(tmp_path / "bert" / "model.safetensors", kept, {"format": "pt"})
    loaded = load_model(tmp_path / "bert")
    assert loaded.spec.head is None
    token_ids = torch.tensor([[3, 1, 4, 1]])
    with torch.no_grad():
        assert torch.equal(loaded.net.eval()(token_ids).logits, net(token_ids).hidden)
    saved = save_model(tmp_path / "again", loaded.net, card=loaded.card)
    assert saved.model_type == "bert"
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "bert" / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads((tmp_path / "bert" / "config.json").read_text())


def test_a_head_that_no_class_has_is_saved_as_our_own_type(tmp_path: Path) -> None:
    net = build(encoder_spec(**TINY, head=ClassifyHead(n_labels=4, pooling="mean")))
    saved = save_model(tmp_path / "m", net)
    assert (saved.model_type, saved.opens_in_transformers) == ("touchstone-encoder", False)
    assert load_model(tmp_path / "m").spec == net.spec
