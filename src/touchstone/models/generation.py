"""generation_config.json: read with care, because a wrong end-of-text id makes a model that never stops.

An id outside the vocabulary is an error, padding that ends the text a warning, an unknown key is listed. Values are carried as they are.
"""

import math
from collections.abc import Mapping
from typing import Any

from touchstone.config import closest
from touchstone.errors import ModelFolderError, printable
from touchstone.models.families.family import GENERATION_KEYS

__all__ = ["check_generation", "generation_from_config", "unknown_settings"]

_MOST_SHOWN = 12  # ids that are no tokens, and unknown keys with the nearest right one, which takes long to find
_ONE_ID = ("bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_SOME_IDS = ("eos_token_id", "forced_eos_token_id")  # one, or a list of them
_IDS = (*_ONE_ID, *_SOME_IDS)

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, math.inf),
    "length_penalty": (-math.inf, math.inf),
    "max_new_tokens": (0, math.inf),
    "min_new_tokens": (0, math.inf),
    "num_beams": (1, math.inf),
}


def check_generation(config: Mapping[str, Any], vocab_size: int, source: str) -> list[str]:
    """Raise ModelFolderError on settings that cannot be meant; return one sentence for each that is legal and odd."""
    problems: list[str] = []
    ids = {key: _ids(config, key, problems) for key in _IDS}
    negative = [(key, token_id) for key in _ONE_ID for token_id in ids[key] if token_id < 0]
    outside = [(key, token_id) for key in _IDS for token_id in ids[key] if not 0 <= token_id < vocab_size]
    wrong = [pair for pair in outside if pair not in negative]
    problems += [f"`{key}` ({printable(token_id)}) is no token of a vocabulary of {vocab_size}" for key, token_id in wrong[:_MOST_SHOWN]]
    if len(wrong) > _MOST_SHOWN:
        problems.append(f"and {len(wrong) - _MOST_SHOWN} more ids are none")
    for key, (least, most) in _RANGES.items():
        value = config.get(key)
        if value is not None and not (_is_finite(value) and least <= value <= most):
            said = printable(value if isinstance(value, str) else repr(value))
            problems.append(f"`{key}` ({said}) should be a number from {least:g} to {most:g}")
    if problems:
        raise ModelFolderError(f"{source}: {'; '.join(problems)}.")
    shared = [pad for pad in ids["pad_token_id"] if pad in ids["eos_token_id"]]
    warnings = [f"`pad_token_id` ({pad}) also ends a text; a training that leaves padding out would never teach the end." for pad in shared]
    return warnings + [f"`{key}` ({printable(token_id)}) is negative, taken as none." for key, token_id in negative]


def generation_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of config.json, for a folder without generation_config.json, as transformers takes them."""
    return {key: config[key] for key in _IDS if config.get(key) is not None}


def unknown_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that no version of transformers writes, with the reason they are left alone."""
    unknown = [key for key in config if key not in GENERATION_KEYS]
    near = {key: closest(key, GENERATION_KEYS, n=1) for key in unknown[:_MOST_SHOWN]}
    return {key: "is no generation setting" + (f"; `{near[key][0]}` is" if near.get(key) else "") for key in unknown}


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number of more digits than a float reaches
        return False


def _ids(config: Mapping[str, Any], key: str, problems: list[str]) -> list[int]:
    found = config.get(key)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token_id) is int for token_id in ids) or (isinstance(found, list) and key not in _SOME_IDS):
        problems.append(f"`{key}` ({printable(found)}) should be a token id" + (" or a list of them" if key in _SOME_IDS else ""))
        return []
    return ids
