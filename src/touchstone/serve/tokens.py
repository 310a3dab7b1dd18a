"""Tokens as clients see them: their text, their bytes, and how likely they were."""

from collections.abc import Sequence
from typing import Any

from touchstone.infer import TokenLogprob
from touchstone.text.tokenizer import Tokenizer

__all__ = ["told", "told_tops"]

_LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's servers say the same


def told(tokenizer: Tokenizer | None, token_id: int, logprob: float | None) -> dict[str, Any]:
    """One token; bytes that are no text alone are written as OpenAI writes them, `bytes:\\xe4`, and a token without bytes by its id."""
    data = tokenizer.token_bytes(token_id) if tokenizer is not None else b""
    try:
        text = data.decode("utf-8") or f"token_id:{token_id}"
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    entry: dict[str, Any] = {"id": token_id, "token": text, "bytes": list(data)}
    if logprob is not None:
        entry["logprob"] = max(logprob, _LEAST_LOGPROB)
    return entry


def told_tops(tokenizer: Tokenizer | None, tops: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The likeliest tokens of a step, likeliest first."""
    return [told(tokenizer, top.token_id, top.logprob) for top in tops]
