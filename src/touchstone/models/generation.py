"""generation_config.json: read with care, because a wrong end-of-text id makes a model that never stops.

An id outside the vocabulary is an error, padding that ends the text a warning, an unknown key is listed. Values are carried as they are.
"""

import math
from collections.abc import Mapping
from typing import Any

from touchstone.config import closest
from touchstone.errors import ModelFolderError
from touchstone.models.families.family import GENERATION_KEYS

__all__ = ["check_generation", "generation_from_config", "unknown_settings"]

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

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
    negative = [(key, token_id) for key in ("bos_token_id", "pad_token_id") for token_id in ids[key] if token_id < 0]
    problems += [
        f"`{key}` ({token_id}) is no token of a vocabulary of {vocab_size}"
        for key in _IDS
        for token_id in ids[key]
        if not 0 <= token_id < vocab_size and (key, token_id) not in negative
    ]
    for key, (least, most) in _RANGES.items():
        value = config.get(key)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most):
            problems.append(f"`{key}` ({str(value)[:60]}) should be a number from {least:g} to {most:g}")
    if problems:
        raise ModelFolderError(f"{source}: {'; '.join(problems)}.")
    shared = [pad for pad in ids["pad_token_id"] if pad in ids["eos_token_id"]]
    warnings = [f"`pad_token_id` ({pad}) also ends a text; a training that leaves padding out would never teach the end." for pad in shared]
    return warnings + [f"`{key}` ({token_id}) is negative, taken as none." for key, token_id in negative]


def generation_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of config.json, for a folder without generation_config.json, as transformers takes them."""
    return {key: config[key] for key in _IDS if config.get(key) is not None}


def unknown_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that no version of transformers writes, with the reason they are left alone."""
    return {key: _reason(key) for key in config if key not in GENERATION_KEYS}


def _reason(key: str) -> str:
    near = closest(key, GENERATION_KEYS, n=1)
    return f"is no generation setting{f'; `{near[0]}` is' if near else ''}"


def _ids(config: Mapping[str, Any], key: str, problems: list[str]) -> list[int]:
    found = config.get(key)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token_id) is int for token_id in ids) or (isinstance(found, list) and key != "eos_token_id"):
        problems.append(f"`{key}` ({str(found)[:60]}) should be a token id" + (" or a list of them" if key == "eos_token_id" else ""))
        return []
    return ids
