"""Texts of a pair as token ids: a context and what follows it, or a source and its target.

Pair encoding is that of lm-evaluation-harness 0.4.9 (`TemplateLM._encode_pair`), so figures can be compared.
"""

from touchstone.errors import ConfigError
from touchstone.text.tokenizer import Tokenizer

__all__ = ["encode_pair", "encode_source_pair"]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str, prefix_id: int | None) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation, split as lm-evaluation-harness does.

    Trailing white space of the context moves to the continuation; the continuation's tokens are those of the joined text after as many
    as the context has alone (where the joined text has no more, the harness fails; here the two are encoded apart). An empty context
    becomes prefix_id.
    Raises ConfigError for an empty continuation, or an empty context without prefix_id.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not continuation:
        raise ConfigError("`continuation` is empty; there is nothing to score.")
    if not kept:
        if prefix_id is None:
            raise ConfigError("An empty `context` needs a beginning- or end-of-text token, and this tokenizer has neither; give a context.")
        return [prefix_id], list(tokenizer.encode(continuation))
    alone, joined = list(tokenizer.encode(kept)), list(tokenizer.encode(kept + continuation))
    rest = joined[len(alone) :]
    return alone, rest or list(tokenizer.encode(continuation))


def encode_source_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a source, with what the tokenizer puts around it, and of a target, with nothing added, each encoded alone.

    Raises ConfigError where either has no token.
    """
    source, target = list(tokenizer.encode_special(context).token_ids), list((tokenizer.target or tokenizer).encode(continuation))
    if not source or not target:
        empty = " and ".join(f"`{name}`" for name, ids in (("context", source), ("continuation", target)) if not ids)
        raise ConfigError(f"{empty} has no token; an encoder-decoder scores one text after reading another, so give both.")
    return source, target
