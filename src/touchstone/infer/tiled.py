"""Attention of the invariant mode: the keys are read in tiles whose places depend on the token's own place alone.

The queries of tokens 64 j to 64 j + 63 always meet the keys of tokens 0 to 64 j + 63, however long the text is and whatever part of it is
computed now, so every sum has the same terms in the same order. Keys that are not there yet are masked; their slots belong to the text's
own last block, so they are no one else's. The rows of a product are padded to a multiple of eight and the features of a head to one of
sixteen, since the kernels for few rows, or for odd widths, round by the place of a row.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from touchstone.infer.packed_layer import FusedLayer, PackedLayer, Span, Step

__all__ = ["TILE", "TiledLayer"]

TILE = 64  # tokens
_ROWS = 8
_FEATURES = 16


class TiledLayer(FusedLayer):
    """One block over packed tokens, with attention by tiles."""

    @property
    def d_cached(self) -> int:
        return -(-self.spec.d_head // _FEATURES) * _FEATURES

    def mix(self, q: Float[Tensor, "N H K"], step: Step, keys: Tensor, values: Tensor) -> Float[Tensor, "N HK"]:
        return PackedLayer.mix(self, q, step, keys, values)

    def look(self, q: Float[Tensor, "T H K"], span: Span, keys: Tensor, values: Tensor) -> Float[Tensor, "T HK"]:
        first_tile, last_tile = span.start // TILE, (span.end - 1) // TILE
        mixed = []
        for tile in range(first_tile, last_tile + 1):
            low, high = max(span.start, tile * TILE), min(span.end, (tile + 1) * TILE)
            mixed.append(self._look_in_tile(q[low - span.start : high - span.start], tile, low, span, keys, values))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _look_in_tile(
        self, q: Float[Tensor, "T H K"], tile: int, start: int, span: Span, keys: Tensor, values: Tensor
    ) -> Float[Tensor, "T HK"]:
        n, n_shared = len(q), self.n_shared
        window = self.spec.window
        first = 0 if window is None else max(0, (tile * TILE + 1 - window) // TILE * TILE)  # a whole tile's
        end = (tile + 1) * TILE
        rows = q.unflatten(1, (-1, n_shared)).permute(1, 2, 0, 3).flatten(1, 2)  # (G, n_shared T, K)
        n_padded = -rows.shape[1] % _ROWS
        mask = self._tile_mask(start, n, first, end, q)
        mixed = F.scaled_dot_product_attention(
            F.pad(rows, (0, self.d_cached - self.spec.d_head, 0, n_padded))[None],
            span.tile(keys, first, end)[None],
            span.tile(values, first, end)[None],
            attn_mask=torch.cat([mask, mask[:, :, -1:].expand(-1, -1, n_padded, -1)], dim=2),
            scale=self.block.attn.scale,
        )
        return mixed[0, :, : rows.shape[1], : self.spec.d_head].unflatten(1, (n_shared, n)).permute(2, 0, 1, 3).flatten(1)

    def _tile_mask(self, start: int, n: int, first: int, end: int, q: Tensor) -> Float[Tensor, "1 _ T S"]:
        distance = torch.arange(start, start + n, device=q.device)[:, None] - torch.arange(first, end, device=q.device)
        return self.mask_of(distance, q)
