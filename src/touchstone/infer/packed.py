"""A decoder laid out for decoding: the tokens of all texts of a step packed into one matrix, their keys and values in one pool of slots.

There is no padding: prompts being read and texts being written share every product, and attention runs text by text over exactly the
tokens it has. Queries that share a key-value head stand side by side as rows of one product, so keys are never repeated. q, k and v are
one product, gate and up another. What it computes is what the network computes, up to rounding; the network itself stays the oracle.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.errors import ConfigError
from touchstone.infer.blocks import BlockPool
from touchstone.infer.packed_body import PackedBody
from touchstone.infer.packed_layer import FusedLayer, Span, Step
from touchstone.infer.runner import at_least_fp32, evaluating
from touchstone.infer.scheduler import Part, Text
from touchstone.infer.tiled import TILE, TiledLayer
from touchstone.models.transformer import Decoder

__all__ = ["PackedDecoder"]


class PackedDecoder:
    """Computes steps of a scheduler over a pool of blocks.

    The network's weights are used where they are; `running` must be held while steps are computed.
    invariant: a text's numbers are the same bits whatever else is in a step; the network must be `steady`.
    """

    def __init__(self, net: Decoder, pool: BlockPool, *, invariant: bool = False) -> None:
        if invariant and pool.block_size % TILE:
            raise ConfigError(f"The invariant mode needs blocks of whole tiles: a multiple of {TILE} tokens, not {pool.block_size}.")
        self.net = net
        self.pool = pool
        self.body = PackedBody(net, net.decoder, TiledLayer if invariant else FusedLayer)
        self._caches = self.body.new_caches(pool.n_blocks * pool.block_size)
        self._versions = self._seen_versions()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held while steps are computed: dropout is off, and if weights were changed meanwhile, what they had computed is forgotten."""
        self.body.renew()
        versions = self._seen_versions()
        if versions != self._versions:
            self._versions = versions
            self.pool.clear()
        with evaluating(self.net):
            yield

    def wipe(self, text: Text) -> None:
        """Overwrite what the cache holds of a text that went wrong: it may be no numbers, and its slots will be another's."""
        assert text.table is not None
        for low, high in _stretches(text.table.runs, self.pool.block_size, len(text.table.blocks) * self.pool.block_size):
            for keys, values in self._caches:
                keys[:, low:high] = values[:, low:high] = 0.0

    def _seen_versions(self) -> list[tuple[int, int]]:
        return [(weight.data_ptr(), weight._version) for weight in self.net.parameters()]

    @torch.inference_mode()
    def where_not_finite(self, token_ids: Sequence[int]) -> str | None:
        """Where numbers first stop being finite when the network reads these tokens; None if they are finite everywhere."""
        output = self.net(torch.tensor([list(token_ids)], device=self.net.embed.weight.device), want=("hiddens",))
        broken = [n for n, hidden in sorted(output.hiddens.items()) if not bool(hidden.isfinite().all())]
        if not broken and bool(output.logits.isfinite().all()):
            return None
        return ("embeddings" if broken[0] == 0 else f"layer {broken[0] - 1}") if broken else "final norm or head"

    @torch.inference_mode()
    def step(self, parts: Sequence[Part]) -> Float[Tensor, "M V"]:
        """Compute the parts; the next-token logits after each part that is its text's last, and after each of its drafts, in order."""
        hidden = self.hidden(parts)
        rows = torch.tensor(list(_scored_rows(parts)), dtype=torch.long, device=hidden.device)
        if not len(rows):
            return hidden.new_empty(0, self.net.spec.vocab_size)
        scored = hidden if len(rows) == len(hidden) else hidden[rows]
        return at_least_fp32(self.net.head(self.body.final_norm(scored)))

    def hidden(self, parts: Sequence[Part]) -> Float[Tensor, "N D"]:
        """What the last layer makes of the parts' tokens, before the final norm."""
        return self.body.hidden(self._begin(parts), self._caches)

    def _begin(self, parts: Sequence[Part]) -> Step:
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        size = self.pool.block_size
        for part in parts:
            text, end = part.text, part.end + part.n_drafts
            assert text.table is not None
            token_ids += text.token_ids[part.start : part.end]
            token_ids += text.drafts[: part.n_drafts]
            positions += range(part.start, end)
            blocks = text.table.blocks
            slots += [blocks[at // size] * size + at % size for at in range(part.start, end)]
            spans.append(Span(len(token_ids) - part.n_tokens, len(token_ids), part.start, end, _stretches(text.table.runs, size, end)))
        device = self.net.embed.weight.device
        tensors = [torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (token_ids, positions, slots)]
        return Step(tensors[0], tensors[1], tensors[2], spans)


def _scored_rows(parts: Sequence[Part]) -> Iterator[int]:
    row = 0
    for part in parts:
        row += part.n_tokens
        if part.is_last:
            yield from range(row - part.n_drafts - 1, row)


def _stretches(runs: Sequence[tuple[int, int]], size: int, n_tokens: int) -> list[tuple[int, int]]:
    """The slots of the first n_tokens of a text, as (first, end) of each stretch of neighbours."""
    found = []
    for first, n_blocks in runs:
        n = min(n_blocks * size, n_tokens)
        if n > 0:
            found.append((first * size, first * size + n))
        n_tokens -= n
    return found
