"""What BART, mBART and Marian folders have of their own: older keys, a bias that may be missing, computed positions; the Transformer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Case, close, make_pair

from touchstone.errors import TouchstoneError, Unsupported
from touchstone.files import load_tensors, read_json, save_tensors, tensor_header, write_json
from touchstone.models import build, encoder_decoder_spec
from touchstone.models.checkpoint import load_model, save_model
from touchstone.models.families import find_family
from touchstone.nn.position import LearnedPositions, SinusoidalPositions, sinusoids

pytestmark = pytest.mark.slow

VOCAB = 11

# The keys of published folders, their sizes made small.
BART_CNN = {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "_num_labels": 3, "activation_dropout": 0.0}
BART_CNN |= {"activation_function": "gelu", "add_final_layer_norm": False, "attention_dropout": 0.0, "bos_token_id": 0, "d_model": 12}
BART_CNN |= {"classif_dropout": 0.0, "decoder_attention_heads": 2, "decoder_ffn_dim": 17, "decoder_layerdrop": 0.0, "decoder_layers": 2}
BART_CNN |= {"decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True, "encoder_attention_heads": 3, "encoder_ffn_dim": 20}
BART_CNN |= {"encoder_layerdrop": 0.0, "encoder_layers": 3, "eos_token_id": 2, "force_bos_token_to_be_generated": True, "pad_token_id": 1}
BART_CNN |= {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "gradient_checkpointing": False, "init_std": 0.02, "length_penalty": 2.0}
BART_CNN |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, "is_encoder_decoder": True, "prefix": " "}
BART_CNN |= {"max_length": 142, "max_position_embeddings": 16, "min_length": 56, "no_repeat_ngram_size": 3, "normalize_before": False}
BART_CNN |= {"normalize_embedding": True, "num_beams": 4, "num_hidden_layers": 3, "output_past": True, "scale_embedding": False}
BART_CNN |= {
    "static_position_embeddings": False,
    "task_specific_params": {},
    "use_cache": True,
    "vocab_size": VOCAB,
    "extra_pos_embeddings": 2,
}
OPUS_MT = BART_CNN | {"model_type": "marian", "architectures": ["MarianMTModel"], "activation_function": "swish", "pad_token_id": 10}
OPUS_MT |= {"add_bias_logits": False, "bad_words_ids": [[10]], "static_position_embeddings": True, "normalize_embedding": False}
OPUS_MT |= {"scale_embedding": True, "decoder_start_token_id": 10, "decoder_vocab_size": VOCAB, "share_encoder_decoder_embeddings": True}
MBART = BART_CNN | {"model_type": "mbart", "architectures": ["MBartForConditionalGeneration"], "normalize_before": True}
MBART |= {"add_final_layer_norm": True, "scale_embedding": True, "add_bias_logits": False, "tokenizer_class": "MBart50Tokenizer"}


def read(config: dict[str, Any]) -> Any:
    return find_family(config).read(config)


@pytest.mark.parametrize(
    ("config", "positions", "place", "input_norm", "final_norm", "scale"),
    [
        (BART_CNN, LearnedPositions(max_seq_len=16, offset=2), "post", True, False, 1.0),
        (MBART, LearnedPositions(max_seq_len=16, offset=2), "pre", True, True, 12**0.5),
        (OPUS_MT, SinusoidalPositions(max_seq_len=16, layout="halves"), "post", False, False, 12**0.5),
    ],
    ids=["bart-large-cnn", "mbart-large-50", "opus-mt"],
)
def test_published_configs_say_what_transformers_makes_of_them(
    config: dict[str, Any], positions: Any, place: str, input_norm: bool, final_norm: bool, scale: float
) -> None:
    spec = read(config)
    for stack in (spec.encoder, spec.decoder):
        assert stack.position == positions
        assert stack.blocks[0].norm_place == place
        assert (stack.input_norm is not None, stack.final_norm is not None) == (input_norm, final_norm)
    assert spec.embed.scale == scale
    assert (len(spec.encoder.blocks), len(spec.decoder.blocks)) == (3, 2)
    assert (spec.encoder.blocks[0].attn.n_heads, spec.decoder.blocks[0].cross.n_heads) == (3, 2)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (OPUS_MT | {"decoder_vocab_size": 13}, "decoder_vocab_size"),
        (OPUS_MT | {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        (BART_CNN | {"tie_word_embeddings": False}, "tie_word_embeddings"),
        (BART_CNN | {"encoder_layerdrop": 0.1}, "encoder_layerdrop"),
        (BART_CNN | {"normalize_before": True}, "normalize_before"),
        (BART_CNN | {"static_position_embeddings": True}, "static_position_embeddings"),
        (MBART | {"normalize_embedding": False}, "normalize_embedding"),
        (BART_CNN | {"d_model": 13}, "must be a multiple of `encoder_attention_heads`"),
        (BART_CNN | {"architectures": ["BartForCausalLM"]}, "architectures"),
    ],
)
def test_what_is_wrong_or_not_built_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(TouchstoneError, match=named):
        read(config)


def test_separate_vocabularies_say_why_they_are_refused() -> None:
    with pytest.raises(Unsupported, match="a decoder with a vocabulary of its own is not in the spec"):
        read(OPUS_MT | {"decoder_vocab_size": 13})


def test_a_bart_without_the_bias_has_none(tmp_path: Path) -> None:
    from transformers import BartForConditionalGeneration

    sizes = {"vocab_size": VOCAB, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 20, "decoder_ffn_dim": 17}
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 2, "max_position_embeddings": 16}
    pair = make_pair(Case("bart", "bart", sizes | heads, head="seq2seq"), tmp_path / "whole")
    tensors = load_tensors(tmp_path / "whole" / "model.safetensors")
    assert not tensors.pop("final_logits_bias").any()
    (tmp_path / "less").mkdir()
    write_json(tmp_path / "less" / "config.json", read_json(tmp_path / "whole" / "config.json"))
    save_tensors(tmp_path / "less" / "model.safetensors", tensors, {"format": "pt"})
    loaded = load_model(tmp_path / "less")
    assert loaded.spec.head.bias is False
    saved = save_model(tmp_path / "again", loaded.net, card=loaded.card, generation_config=loaded.generation_config)
    assert saved.model_type == "bart"
    assert tensor_header(tmp_path / "again" / "model.safetensors") == tensor_header(tmp_path / "less" / "model.safetensors")
    assert read_json(tmp_path / "again" / "config.json") == read_json(tmp_path / "less" / "config.json")
    _, report = BartForConditionalGeneration.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rng = torch.Generator().manual_seed(2)
    source, target = (torch.randint(4, VOCAB, (2, size), generator=rng) for size in (5, 3))
    ours, whole = (net.eval()(target, source_ids=source).logits.detach() for net in (loaded.net, pair.loaded.net))
    close(ours, whole)


@pytest.mark.parametrize("width", [12, 15])
def test_computed_positions_are_theirs_to_the_last_bit(width: int) -> None:
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    theirs = MarianSinusoidalPositionalEmbedding(512, width).create_weight()
    assert torch.equal(sinusoids(SinusoidalPositions(max_seq_len=512, layout="halves"), width), theirs)


def test_stored_positions_of_an_old_marian_are_left_out_with_the_reason(tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCAB, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 20, "decoder_ffn_dim": 17}
    rest = {"encoder_attention_heads": 3, "decoder_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0}
    make_pair(Case("marian", "marian", sizes | rest | {"decoder_start_token_id": 0}, head="seq2seq"), tmp_path / "new")
    tensors = load_tensors(tmp_path / "new" / "model.safetensors")
    names = [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    assert not set(names) & tensors.keys()
    (tmp_path / "old").mkdir()
    write_json(tmp_path / "old" / "config.json", read_json(tmp_path / "new" / "config.json"))
    save_tensors(tmp_path / "old" / "model.safetensors", tensors | {name: torch.ones(16, 12) for name in names}, {"format": "pt"})
    assert load_model(tmp_path / "old").extra.ignored_tensors == dict.fromkeys(names, "is a table of sines and cosines, which is computed")


SIZES: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 12, "n_heads": 3, "n_encoder_layers": 3, "n_decoder_layers": 2, "d_ff": 20}


def test_the_original_transformer_is_kept_as_our_own_type(tmp_path: Path) -> None:
    """Sines and cosines that alternate are in no class of transformers."""
    spec = encoder_decoder_spec(**SIZES, dropout=0.1)
    net = build(spec, seed=5).eval()
    saved = save_model(tmp_path / "m", net)
    assert (saved.model_type, saved.opens_in_transformers) == ("touchstone-encoder-decoder", False)
    again = load_model(tmp_path / "m")
    assert again.spec == spec
    rng = torch.Generator().manual_seed(2)
    source, target = (torch.randint(0, VOCAB, (2, size), generator=rng) for size in (5, 3))
    assert torch.equal(again.net.eval()(target, source_ids=source).logits, net(target, source_ids=source).logits)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        (
            "t5",
            {"positions": "relative", "norm": "rms", "norm_place": "pre", "bias": False, "attention_scale": 1.0, "head_scale": 12**-0.5},
        ),
        (
            "t5",
            {
                "positions": "relative",
                "norm": "rms",
                "norm_place": "pre",
                "bias": False,
                "attention_scale": 1.0,
                "d_head": 7,
                "gated": True,
            },
        ),
        ("touchstone-encoder-decoder", {"positions": "learned", "input_norm": True}),
        ("touchstone-encoder-decoder", {"positions": "relative", "norm": "rms", "norm_place": "pre", "bias": False}),
    ],
    ids=["t5", "t5 gated", "positions without the two rows", "distances with a scale"],
)
def test_a_spec_is_saved_as_the_class_that_computes_it(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    spec = encoder_decoder_spec(**(SIZES | settings))
    net = build(spec, seed=5).eval()
    assert save_model(tmp_path / "m", net, generation_config={"decoder_start_token_id": 0}).model_type == model_type
    assert load_model(tmp_path / "m").spec == spec
    if model_type != "t5":
        return
    from transformers import AutoModelForSeq2SeqLM

    theirs, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rng = torch.Generator().manual_seed(2)
    source, target = (torch.randint(0, VOCAB, (2, size), generator=rng) for size in (5, 3))
    with torch.no_grad():
        close(net(target, source_ids=source).logits, theirs.eval()(input_ids=source, decoder_input_ids=target).logits, atol=1e-5)
