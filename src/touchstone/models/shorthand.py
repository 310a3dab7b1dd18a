"""Specs of equal blocks, from the few numbers people name a model by."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from touchstone.config import unknown_name
from touchstone.errors import ConfigError
from touchstone.models.heads import Head, LmHead, MaskedLmHead
from touchstone.models.spec import EmbedSpec, ModelSpec, RecurrentStack, Stack
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import AlibiPositions, LearnedPositions, RelativePositions, RotaryPositions, SinusoidalPositions
from touchstone.nn.recurrent import RecurrentSpec

__all__ = [
    "decoder_spec",
    "encoder_decoder_spec",
    "encoder_spec",
    "recurrent_encoder_decoder_spec",
    "recurrent_encoder_spec",
    "recurrent_spec",
]

Positions = Literal["rotary", "learned", "sinusoidal", "alibi", "none"]
NormPlace = Literal["pre", "post", "inner"]


def decoder_spec(
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    max_seq_len: int,
    n_kv_heads: int | None = None,
    d_head: int | None = None,
    d_ff: int | None = None,
    activation: ActivationName = "silu",
    gated: bool = True,
    bias: bool = False,
    norm: Literal["layer", "rms"] = "rms",
    norm_eps: float = 1e-5,
    norm_place: Literal["pre", "post", "inner"] = "pre",
    positions: Positions = "rotary",
    rope_theta: float = 10_000.0,
    qk_norm: bool = False,
    window: int | None = None,
    windows: Sequence[int | None] | None = None,
    tied: bool = True,
    dropout: float = 0.0,
) -> ModelSpec:
    """A decoder of equal blocks, from the few numbers people name it by.

    d_head defaults to d_model / n_heads, d_ff to 4 d_model (8/3 d_model rounded up to 16 when gated); bias sets all biases;
    windows gives each layer its own.
    """
    if n_heads < 1 or (d_head is None and d_model % n_heads):
        raise ConfigError(f"`d_model` ({d_model}) must be a multiple of `n_heads` ({n_heads}) unless `d_head` is given.")
    if windows is not None and (window is not None or len(windows) != n_layers):
        raise ConfigError(f"`windows` ({list(windows)}) needs one entry for each of `n_layers` ({n_layers}) and no `window` beside it.")
    width = d_model // n_heads if d_head is None else d_head
    norm_spec = NormSpec(kind=norm, norm_eps=norm_eps)
    in_attention = _in_attention(positions, max_seq_len, rope_theta)

    def block(layer: int) -> BlockSpec:
        attn = AttentionSpec(
            n_heads=n_heads,
            n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
            d_head=width,
            qkv_bias=bias,
            o_bias=bias,
            position=in_attention,
            window=windows[layer] if windows is not None else window,
            qk_norm=norm_spec if qk_norm else None,
            dropout=dropout,
        )
        mlp = MlpSpec(d_ff=_usual_d_ff(d_model, gated) if d_ff is None else d_ff, activation=activation, gated=gated, bias=bias)
        return BlockSpec(attn=attn, mlp=mlp, norm=norm_spec, norm_place=norm_place, dropout=dropout)

    stack = Stack(
        blocks=tuple(block(layer) for layer in range(n_layers)),
        causal=True,
        position=_in_table(positions, max_seq_len),
        dropout=dropout,
        final_norm=None if norm_place == "post" else norm_spec,
    )
    return ModelSpec(embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model), decoder=stack, head=LmHead(tied=tied))


def encoder_spec(
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    max_seq_len: int,
    head: Head | None = None,
    d_ff: int | None = None,
    activation: ActivationName = "gelu",
    gated: bool = False,
    bias: bool = True,
    norm: Literal["layer", "rms"] = "layer",
    norm_eps: float = 1e-12,
    norm_place: NormPlace = "post",
    positions: Positions = "learned",
    n_token_types: int = 2,
    dropout: float = 0.0,
) -> ModelSpec:
    """An encoder of equal blocks; the defaults are BERT's.

    head: None gives a masked language model's, tied to the token table. n_layers may be 0: a bag of words.
    """
    norm_spec = NormSpec(kind=norm, norm_eps=norm_eps)
    block = _block(
        d_model,
        n_heads,
        d_ff=d_ff,
        activation=activation,
        gated=gated,
        bias=bias,
        norm=norm_spec,
        norm_place=norm_place,
        position=_in_attention(positions, max_seq_len),
        dropout=dropout,
    )
    stack = Stack(
        blocks=(block,) * n_layers,
        causal=False,
        position=_in_table(positions, max_seq_len),
        input_norm=norm_spec if norm_place == "post" and n_layers else None,
        dropout=dropout,
        final_norm=None if norm_place == "post" or not n_layers else norm_spec,
    )
    embed = EmbedSpec(vocab_size=vocab_size, d_model=d_model, n_token_types=n_token_types)
    return ModelSpec(embed=embed, encoder=stack, head=MaskedLmHead(norm=norm_spec, activation=activation) if head is None else head)


def encoder_decoder_spec(
    *,
    vocab_size: int,
    d_model: int,
    n_heads: int,
    n_encoder_layers: int,
    n_decoder_layers: int,
    max_seq_len: int = 512,
    d_head: int | None = None,
    d_ff: int | None = None,
    activation: ActivationName = "relu",
    gated: bool = False,
    bias: bool = True,
    norm: Literal["layer", "rms"] = "layer",
    norm_eps: float = 1e-5,
    norm_place: NormPlace = "post",
    positions: Literal["sinusoidal", "learned", "relative", "rotary"] = "sinusoidal",
    position_offset: int = 0,
    attention_scale: float | None = None,
    embed_scale: float | None = None,
    input_norm: bool = False,
    tied: bool = True,
    head_bias: bool = False,
    head_scale: float = 1.0,
    dropout: float = 0.0,
) -> ModelSpec:
    """An encoder and a decoder of equal blocks over one token table; the defaults are the original Transformer's (Vaswani et al. 2017).

    embed_scale: None = sqrt(d_model) for sinusoidal positions, else 1. attention_scale: None = d_head^-0.5; T5 has 1.
    """
    if position_offset and positions != "learned":
        raise ConfigError(
            f"`position_offset` ({position_offset}) belongs to a learned table, not to `{positions}` positions; leave it out."
        )
    norm_spec = NormSpec(kind=norm, norm_eps=norm_eps)
    table = _in_table(positions, max_seq_len, position_offset) if positions != "relative" else None

    def stack(n_layers: int, *, causal: bool) -> Stack:
        position = RelativePositions(both_ways=not causal) if positions == "relative" else _in_attention(positions, max_seq_len)
        block = _block(
            d_model,
            n_heads,
            d_head=d_head,
            d_ff=d_ff,
            activation=activation,
            gated=gated,
            bias=bias,
            norm=norm_spec,
            norm_place=norm_place,
            position=position,
            scale=attention_scale,
            crosses=causal,
            dropout=dropout,
        )
        return Stack(
            blocks=(block,) * n_layers,
            causal=causal,
            position=table,
            input_norm=norm_spec if input_norm else None,
            dropout=dropout,
            final_norm=None if norm_place == "post" else norm_spec,
        )

    scale = embed_scale if embed_scale is not None else d_model**0.5 if positions == "sinusoidal" else 1.0
    return ModelSpec(
        embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model, scale=scale),
        encoder=stack(n_encoder_layers, causal=False),
        decoder=stack(n_decoder_layers, causal=True),
        head=LmHead(tied=tied, bias=head_bias, scale=head_scale),
    )


def recurrent_spec(
    *,
    vocab_size: int,
    d_model: int,
    d_hidden: int,
    n_layers: int = 1,
    cell: Literal["lstm", "gru"] = "lstm",
    tied: bool = False,
    dropout: float = 0.0,
) -> ModelSpec:
    """An LSTM or GRU language model."""
    stack = RecurrentStack(cell=RecurrentSpec(kind=cell, n_layers=n_layers, d_hidden=d_hidden, dropout=dropout), dropout=dropout)
    return ModelSpec(embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model), decoder=stack, head=LmHead(tied=tied, bias=not tied))


def recurrent_encoder_spec(
    *,
    vocab_size: int,
    d_model: int,
    d_hidden: int,
    head: Head | None,
    n_layers: int = 1,
    cell: Literal["lstm", "gru"] = "lstm",
    both_ways: bool = True,
    dropout: float = 0.0,
) -> ModelSpec:
    """An LSTM or GRU that reads a whole text, both ways unless told otherwise."""
    recurrent = RecurrentSpec(kind=cell, n_layers=n_layers, d_hidden=d_hidden, both_ways=both_ways, dropout=dropout)
    stack = RecurrentStack(cell=recurrent, dropout=dropout)
    return ModelSpec(embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model), encoder=stack, head=head)


def recurrent_encoder_decoder_spec(
    *,
    vocab_size: int,
    d_model: int,
    d_hidden: int,
    n_encoder_layers: int = 1,
    n_decoder_layers: int = 1,
    cell: Literal["lstm", "gru"] = "lstm",
    score: Literal["additive", "scaled_dot"] = "additive",
    tied: bool = False,
    dropout: float = 0.0,
) -> ModelSpec:
    """A recurrent encoder that reads both ways, and a recurrent decoder with attention to it; half of d_hidden each way in the encoder."""
    if d_hidden % 2:
        raise ConfigError(f"`d_hidden` ({d_hidden}) must be even: the encoder has half of it each way.")
    reads = RecurrentSpec(kind=cell, n_layers=n_encoder_layers, d_hidden=d_hidden // 2, both_ways=True, dropout=dropout)
    writes = RecurrentSpec(kind=cell, n_layers=n_decoder_layers, d_hidden=d_hidden, dropout=dropout)
    cross = AttentionSpec(n_heads=1, n_kv_heads=1, d_head=d_hidden, score=score)
    return ModelSpec(
        embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model),
        encoder=RecurrentStack(cell=reads, dropout=dropout),
        decoder=RecurrentStack(cell=writes, cross=cross, dropout=dropout),
        head=LmHead(tied=tied, bias=not tied),
    )


def _block(
    d_model: int,
    n_heads: int,
    *,
    norm: NormSpec,
    norm_place: NormPlace,
    position: Any,
    activation: ActivationName,
    gated: bool,
    bias: bool,
    d_head: int | None = None,
    d_ff: int | None = None,
    scale: float | None = None,
    crosses: bool = False,
    dropout: float = 0.0,
) -> BlockSpec:
    if n_heads < 1 or (d_head is None and d_model % n_heads):
        raise ConfigError(f"`d_model` ({d_model}) must be a multiple of `n_heads` ({n_heads}) unless `d_head` is given.")
    attn = AttentionSpec(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=d_model // n_heads if d_head is None else d_head,
        qkv_bias=bias,
        o_bias=bias,
        position=position,
        scale=scale,
        dropout=dropout,
    )
    mlp = MlpSpec(d_ff=_usual_d_ff(d_model, gated) if d_ff is None else d_ff, activation=activation, gated=gated, bias=bias)
    cross = attn.replace(position=None) if crosses else None
    return BlockSpec(attn=attn, cross=cross, mlp=mlp, norm=norm, norm_place=norm_place, dropout=dropout)


def _usual_d_ff(d_model: int, gated: bool) -> int:
    return -(-8 * d_model // 48) * 16 if gated else 4 * d_model


def _in_attention(positions: str, max_seq_len: int, theta: float = 10_000.0) -> RotaryPositions | AlibiPositions | None:
    if positions not in get_args(Positions):
        raise unknown_name("kind of positions", positions, get_args(Positions))
    if positions == "rotary":
        return RotaryPositions(theta=theta, max_seq_len=max_seq_len)
    return AlibiPositions(max_seq_len=max_seq_len) if positions == "alibi" else None


def _in_table(positions: str, max_seq_len: int, offset: int = 0) -> LearnedPositions | SinusoidalPositions | None:
    if positions == "learned":
        return LearnedPositions(max_seq_len=max_seq_len, offset=offset)
    return SinusoidalPositions(max_seq_len=max_seq_len) if positions == "sinusoidal" else None
