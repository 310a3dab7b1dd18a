"""What a model's `generation_config.json` says about sampling, and every setting in it that has no effect here, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from touchstone.errors import ConfigError, ModelFolderError
from touchstone.infer.request import Sampling

__all__ = ["GenerationDefaults", "generation_defaults"]

_SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "min_new_tokens")
_BEAMS = ("num_beams", "length_penalty", "early_stopping")
_READ_ELSEWHERE = ("do_sample", "eos_token_id", "bos_token_id", "stop_strings", *_SAME, *_BEAMS)

_NOT_BUILT = "not built: Hugging Face would choose other tokens"
_UNUSED = {
    "max_length": "a completion's length is `max_new_tokens` alone",
    "min_length": "a completion's least length is `min_new_tokens` alone",
    "num_return_sequences": "the number of choices is asked for with `n`",
    "pad_token_id": "rows of a batch are told apart by a mask, not by a token",
    "transformers_version": "says which version wrote the file",
    "_from_model_config": "says where the file came from",
    "use_cache": "completions are always made with a cache",
    **dict.fromkeys(
        (
            "bad_words_ids",
            "begin_suppress_tokens",
            "diversity_penalty",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "guidance_scale",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "penalty_alpha",
            "sequence_bias",
            "suppress_tokens",
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
    """

    sampling: Sampling
    eos_ids: tuple[int, ...] | None
    bos_id: int | None
    unused: dict[str, str]


def generation_defaults(generation_config: Mapping[str, Any], vocab_size: int) -> GenerationDefaults:
    """Read the file's contents; an explicit `"do_sample": false` means greedy.

    Raises ModelFolderError if a value is out of range or an end token is not in the vocabulary.
    """
    said = {key: value for key, value in generation_config.items() if value is not None}
    fields = {key: said[key] for key in _SAME if key in said}
    if said.get("do_sample") is False:
        fields["temperature"] = 0.0
    if said.get("num_beams", 1) != 1:
        fields |= {key: said[key] for key in _BEAMS if key in said}
    if "stop_strings" in said:
        fields["stop"] = said["stop_strings"]
    try:
        sampling = Sampling(**fields)
    except ConfigError as error:
        raise ModelFolderError(f"generation_config.json: {error}") from None
    eos = said.get("eos_token_id")
    eos_ids = None if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    bos_id = said.get("bos_token_id")
    if isinstance(bos_id, int) and bos_id < 0:
        bos_id = None  # how some files say that there is none
    for name, ids in (("eos_token_id", eos_ids or ()), ("bos_token_id", () if bos_id is None else (bos_id,))):
        wrong = [id for id in ids if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < vocab_size]
        if wrong:
            raise ModelFolderError(f"generation_config.json: `{name}` holds {wrong[0]!r}; the model's tokens are 0 to {vocab_size - 1}.")
    unused = {key: _UNUSED.get(key, "not a setting of this version") for key in said if key not in _READ_ELSEWHERE}
    return GenerationDefaults(sampling, eos_ids, bos_id, unused)
