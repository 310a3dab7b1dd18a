"""What a model's `generation_config.json` says about sampling, and every setting in it that has no effect here, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from touchstone.errors import ConfigError, ModelFolderError
from touchstone.infer.request import Sampling

__all__ = ["GenerationDefaults", "generation_defaults"]

_SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "min_new_tokens", "no_repeat_ngram_size")
_TOKENS = {
    "bad_words_ids": "bad_words_ids",
    "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
    "forced_bos_token_id": "forced_bos_ids",
    "forced_eos_token_id": "forced_eos_ids",
}
_BEAMS = ("num_beams", "length_penalty", "early_stopping", "renormalize_logits")
_LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
_READ_ELSEWHERE = ("do_sample", "num_beams", "eos_token_id", "bos_token_id", "stop_strings", *_SAME, *_TOKENS)

_NOT_BUILT = "not built: Hugging Face would choose other tokens"
_UNUSED = {
    "max_length": "a completion's length is `max_new_tokens` alone",
    "min_length": "a completion's least length is `min_new_tokens` alone",
    "num_return_sequences": "the number of choices is asked for with `n`",
    "pad_token_id": "rows of a batch are told apart by a mask, not by a token",
    **dict.fromkeys(_BEAMS, "belongs to beam search, and `num_beams` asks for none"),
    "transformers_version": "says which version wrote the file",
    "_from_model_config": "says where the file came from",
    "decoder_start_token_id": "belongs to an encoder-decoder",
    "remove_invalid_values": "logits that are no numbers end a completion with an error",
    "use_cache": "completions are always made with a cache",
    **dict.fromkeys(
        (
            "diversity_penalty",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "guidance_scale",
            "num_beam_groups",
            "penalty_alpha",
            "sequence_bias",
            "top_h",
            "typical_p",
            "watermarking_config",
        ),
        _NOT_BUILT,
    ),
}


@dataclass(frozen=True)
class GenerationDefaults:
    """Defaults for unset sampling fields, the end tokens, and `unused`: setting -> why it has no effect.

    eos_ids, bos_id: None where the file does not say.
    decoder_start_id: what the decoder of an encoder-decoder begins with: the file's, else the beginning-of-text token.
    """

    sampling: Sampling
    eos_ids: tuple[int, ...] | None
    bos_id: int | None
    unused: dict[str, str]
    decoder_start_id: int | None = None


def generation_defaults(generation_config: Mapping[str, Any], vocab_size: int, *, is_encoder_decoder: bool = False) -> GenerationDefaults:
    """Read the file's contents; `"do_sample": false` means greedy, and so does its absence where the file asks for beams.

    is_encoder_decoder: its lengths count the start token and the completion alone, so `max_length` and `min_length` have a meaning.
    Raises ModelFolderError if a value is out of range or a token is not in the vocabulary.
    """
    said = {key: value for key, value in generation_config.items() if value is not None and not _says_none(key, value)}
    beams = _BEAMS if said.get("num_beams", 1) != 1 else ()
    lengths = {key: ours for key, ours in _LENGTHS.items() if is_encoder_decoder and key in said and ours not in said}
    fields = {key: said[key] for key in (*_SAME, *beams) if key in said}
    fields |= {ours: said[key] for key, ours in _TOKENS.items() if key in said}
    fields |= {ours: _without_start(said[key]) for key, ours in lengths.items()}
    if said.get("do_sample") is False or (beams and "do_sample" not in said):
        fields["temperature"] = 0.0
    if "stop_strings" in said:
        fields["stop"] = said["stop_strings"]
    try:
        sampling = Sampling(**fields)
    except ConfigError as error:
        raise ModelFolderError(f"generation_config.json: {error}") from None
    eos = said.get("eos_token_id")
    eos_ids = None if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    bos_id, start_id = said.get("bos_token_id"), said.get("decoder_start_token_id")
    single = {"bos_token_id": bos_id, "decoder_start_token_id": start_id}
    _check_ids(
        {"eos_token_id": eos_ids or (), **{key: () if id is None else (id,) for key, id in single.items()}, **_named(sampling)}, vocab_size
    )
    read = {*_READ_ELSEWHERE, *beams, *lengths, *(("decoder_start_token_id",) if is_encoder_decoder else ())}
    return GenerationDefaults(
        sampling=sampling,
        eos_ids=eos_ids,
        bos_id=bos_id,
        unused={key: _UNUSED.get(key, "not a setting of this version") for key in said if key not in read},
        decoder_start_id=bos_id if start_id is None else start_id,
    )


def _without_start(length: Any) -> Any:
    """A length that counted the start token too; none of it is left of 0. What is no number is left for the fields' types to refuse."""
    return max(0, length - 1) if type(length) is int else length


def _says_none(key: str, value: Any) -> bool:
    """A negative id is how some files say that there is none."""
    return key in ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id") and type(value) is int and value < 0


def _named(sampling: Sampling) -> dict[str, tuple[int, ...]]:
    """The tokens that the settings name, by the names of the file."""
    named = {key: getattr(sampling, ours) or () for key, ours in _TOKENS.items()}
    return {**named, "bad_words_ids": tuple(token for run in sampling.bad_words_ids or () for token in run)}


def _check_ids(named: Mapping[str, tuple[Any, ...]], vocab_size: int) -> None:
    for name, ids in named.items():
        wrong = [id for id in ids if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < vocab_size]
        if wrong:
            raise ModelFolderError(f"generation_config.json: `{name}` holds {wrong[0]!r}; the model's tokens are 0 to {vocab_size - 1}.")
