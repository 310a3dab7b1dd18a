"""Reading whole texts: the hidden states or the answers of a network for rows of tokens of any lengths, batched by length.

The results of a row are those of reading it alone, up to rounding.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ConfigError
from touchstone.infer.packed_body import PackedBody, can_pack_stack, packed_rows
from touchstone.infer.packed_layer import FusedLayer, PackedLayer
from touchstone.infer.runner import at_least_fp32, evaluating
from touchstone.models.heads import ClassifyHead, PoolHead
from touchstone.models.net import Body, LanguageNet
from touchstone.models.quantized import is_int8
from touchstone.models.transformer import Decoder, Encoder, EncoderDecoder
from touchstone.text.batch import group_by_token_budget
from touchstone.text.tokenizer import Encoded

__all__ = ["Row", "check_whole", "read_answers", "read_hidden", "reading_length", "several", "several_texts"]

MAX_TOKENS = 4096  # padded tokens of one forward pass
PACKED_TOKENS = 1024  # tokens of one packed pass: its hidden states stay near the core

_Read = tuple[list[int], Tensor, Tensor | None, list[int]]


@dataclass(frozen=True, slots=True)
class Row:
    """One text, or pair of texts, as the network reads it."""

    token_ids: tuple[int, ...]
    token_types: tuple[int, ...] | None = None

    @classmethod
    def of(cls, encoded: Encoded, net: LanguageNet) -> "Row":
        """An encoded text; its token types where the network knows more than one."""
        return cls(encoded.token_ids, encoded.token_types if net.spec.embed.n_token_types > 1 else None)


def several(items: Any, method: str, takes: str, *, one: str = "text") -> list[Any]:
    """What was given to a method as a list of what it takes; ConfigError for a text alone (`one`: how it is written in a list), and for
    what has no order.
    """
    if isinstance(items, str):
        raise ConfigError(f"`{method}` takes a list; write [{one}] for one.")
    if isinstance(items, bytes | Mapping | Set) or not isinstance(items, Iterable):
        raise ConfigError(f"`{method}` takes a list of {takes}, not a {type(items).__name__}.")
    return list(items)


def several_texts(items: Any, method: str, takes: Literal["texts", "pairs", "texts or pairs"] = "texts") -> list[Any]:
    """`several`, each a text or a pair of texts as a tuple; ConfigError with the number of the first that is something else."""
    if takes != "texts" and isinstance(items, tuple) and items and isinstance(items[0], str):
        raise ConfigError(f"`{method}` takes a list; write [(first, second)] for one.")
    found = []
    for number, item in enumerate(several(items, method, takes, one="(first, second)" if takes == "pairs" else "text")):
        is_pair = isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item)
        if not (is_pair if takes == "pairs" else isinstance(item, str) or (is_pair and takes != "texts")):
            raise ConfigError(f"`{method}` takes {takes}; number {number} is {_shown(item)}.")
        found.append(tuple(item) if is_pair else item)
    return found


def check_whole(name: str, value: Any, least: int) -> None:
    """ConfigError unless a setting is a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"`{name}` must be a whole number from {least}, not {value!r}.")


def reading_length(net: LanguageNet) -> int | None:
    """The longest text that the network reads whole, in tokens; None = any."""
    return net.spec.max_source_len if net.spec.encoder is not None else net.spec.max_seq_len


def read_answers(net: LanguageNet, rows: Sequence[Row]) -> list[Float[Tensor, "..."]]:
    """What the head says of each row, in at least fp32: (L,) of a classifier, (T, L) of a tagger, (T, 2) of a span finder, (D,) pooled."""
    whole = isinstance(net.spec.head, ClassifyHead | PoolHead)
    found: list[Tensor | None] = [None] * len(rows)
    for place, hidden, mask, alone in _read(net, rows):
        answers = at_least_fp32(net.head(hidden, mask=mask))
        for number, row in enumerate(place):
            found[row] = answers[number] if whole else answers[number, : alone[number]]
    return [answer for answer in found if answer is not None]


def read_hidden(net: LanguageNet, rows: Sequence[Row]) -> list[Float[Tensor, "T D"]]:
    """The last hidden states of each row, of the encoder where there is one."""
    found: list[Tensor | None] = [None] * len(rows)
    for place, hidden, _, alone in _read(net, rows):
        for number, row in enumerate(place):
            found[row] = at_least_fp32(hidden[number, : alone[number]])
    return [states for states in found if states is not None]


def _read(net: LanguageNet, rows: Sequence[Row]) -> Iterator[_Read]:
    """Which rows, what the network made of them, which tokens count, and how many."""
    lengths = [len(row.token_ids) for row in rows]
    longest = reading_length(net)
    for number, length in enumerate(lengths):
        if length == 0 or (longest is not None and length > longest):
            what = "has no tokens" if length == 0 else f"has {length} tokens, and the model reads {longest} at once"
            raise ConfigError(f"Text {number} {what}; {'leave it out' if length == 0 else 'shorten it, or give `truncate=True`'}.")
    stack = net.encoder if isinstance(net, Encoder | EncoderDecoder) else net.decoder if isinstance(net, Decoder) else None
    packs = stack is not None and can_pack_stack(stack) and net.embed.weight.device.type == "cpu"
    with evaluating(net), torch.inference_mode():
        if stack is not None and packs:
            # in int8, layers beside each other round their input once; other weights stay where a training may have them
            body = PackedBody(net, stack, FusedLayer if is_int8(net) else PackedLayer)
            yield from _read_packed(body, rows, lengths)
        else:
            yield from _read_padded(net, rows, lengths)


def _read_packed(body: PackedBody, rows: Sequence[Row], lengths: Sequence[int]) -> Iterator[_Read]:
    """On a CPU a product takes any number of tokens at full speed, and attention goes text by text."""
    for group in _in_order(lengths, PACKED_TOKENS):
        some = [rows[row] for row in group]
        types = None if some[0].token_types is None else [row.token_types or () for row in some]
        step = packed_rows([row.token_ids for row in some], body.net.embed.weight.device, types)
        hidden = body.final_norm(body.hidden(step, body.passing_caches(len(step.token_ids))))
        for row, span in zip(group, step.spans, strict=True):
            yield [row], hidden[None, span.low : span.high], None, [lengths[row]]


def _in_order(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The rows in groups of at most so many tokens; a longer row is alone."""
    group: list[int] = []
    n = 0
    for row, length in enumerate(lengths):
        if group and n + length > most:
            yield group
            group, n = [], 0
        group.append(row)
        n += length
    if group:
        yield group


def _read_padded(net: LanguageNet, rows: Sequence[Row], lengths: Sequence[int]) -> Iterator[_Read]:
    for group in group_by_token_budget(lengths, max(MAX_TOKENS, max(lengths, default=0))):
        place = group.tolist()
        token_ids, mask, types = _padded([rows[row] for row in place], net.embed.weight.device)
        yield place, _body(net, token_ids, mask, types).hidden, mask, [lengths[row] for row in place]


def _body(net: LanguageNet, token_ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Body:
    if net.spec.encoder is None or net.spec.decoder is None:
        return net.body(token_ids, mask=mask, token_types=types)
    return net.read_source(token_ids, mask)


def _padded(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Padded on the right with 0; no mask where all rows have one length."""
    lengths = torch.tensor([len(row.token_ids) for row in rows])
    longest = int(lengths.max())

    def padded(values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in values], device=device)

    mask = torch.arange(longest) < lengths[:, None]
    types = None if rows[0].token_types is None else padded([row.token_types or () for row in rows])
    return padded([row.token_ids for row in rows]), None if bool(mask.all()) else mask.to(device), types


def _shown(item: Any) -> str:
    kind = type(item).__name__
    return f"a {kind} of {', '.join(type(part).__name__ for part in item[:3])}" if isinstance(item, tuple | list) and item else f"a {kind}"
