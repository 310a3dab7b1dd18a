"""What a model is: an embedding, a stack of blocks, a head - frozen, checked, and with its sizes derived.

`ModelSpec` only composes the sub-specs that live beside their parts in `nn/`. Impossible combinations are rejected when the spec is
made. A multiply and an add count as two floating-point operations.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_serializer, model_validator

from touchstone.config import Config, parse, unknown_name
from touchstone.errors import ConfigError
from touchstone.nn.attention import AttentionSpec
from touchstone.nn.block import BlockSpec
from touchstone.nn.mlp import ActivationName, MlpSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import AlibiPositions, LearnedPositions, RotaryPositions, SinusoidalPositions
from touchstone.nn.recurrent import RecurrentSpec

__all__ = ["EmbedSpec", "LmHead", "ModelSpec", "RecurrentStack", "Stack", "decoder_spec", "recurrent_spec"]

Positions = Literal["rotary", "learned", "sinusoidal", "alibi", "none"]


class EmbedSpec(Config):
    """The token table."""

    vocab_size: int = Field(gt=0)
    d_model: int = Field(gt=0)
    scale: float = Field(1.0, gt=0)  # factor on the looked-up vectors


class Stack(Config):
    """Attention blocks one above the other, with what comes before the first and after the last."""

    kind: Literal["attention"] = "attention"
    blocks: tuple[BlockSpec, ...] = Field(min_length=1)
    causal: bool
    position: Annotated[LearnedPositions | SinusoidalPositions, Field(discriminator="kind")] | None = None
    input_norm: NormSpec | None = None
    dropout: float = Field(0.0, ge=0, lt=1)  # on the embeddings
    final_norm: NormSpec | None = None

    @field_validator("blocks", mode="before")
    @classmethod
    def _expand(cls, entries: Any) -> Any:
        """On disk, runs of equal blocks are written once: {repeat: n, block: …}."""
        if not isinstance(entries, list):
            return entries
        blocks: list[BlockSpec] = []
        for place, entry in enumerate(entries):
            n_times = 1
            if isinstance(entry, dict) and set(entry) == {"repeat", "block"}:
                n_times, entry = entry["repeat"], entry["block"]
                if type(n_times) is not int or not 0 < n_times <= 10_000:
                    raise ValueError(f"`repeat` ({n_times!r}) must be a whole number from 1 to 10000.")
            blocks += [entry if isinstance(entry, BlockSpec) else parse(BlockSpec, entry, source=f"blocks.{place}")] * n_times
        return tuple(blocks)

    @model_serializer(mode="wrap")
    def _compress(self, handler: Any) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        runs: list[dict[str, Any]] = []
        for block in data["blocks"]:
            if runs and runs[-1]["block"] == block:
                runs[-1]["repeat"] += 1
            else:
                runs.append({"repeat": 1, "block": block})
        return {**data, "blocks": runs}

    @property
    def max_seq_len(self) -> int | None:
        """The longest text the positions were made for; None = unbounded."""
        positions = [self.position, *(block.attn.position for block in self.blocks)]
        bounds = [position.max_seq_len for position in positions if position is not None]
        return min(bounds) if bounds else None

    def n_parameters(self, d_model: int) -> int:
        table = (self.position.max_seq_len + self.position.offset) * d_model if isinstance(self.position, LearnedPositions) else 0
        norms = sum(norm.n_parameters(d_model) for norm in (self.input_norm, self.final_norm) if norm)
        return table + norms + sum(block.n_parameters(d_model) for block in self.blocks)

    def product_flops_per_token(self, d_model: int) -> float:
        """Of the weight products of all blocks."""
        return sum(2.0 * _product_weights(block, d_model) for block in self.blocks)

    def attention_flops_per_token(self, context: int) -> float:
        """Scores and mixing, with every token meeting `context` keys (the whole square, as the field counts it)."""
        return sum(4.0 * block.attn.n_heads * block.attn.d_head * min(context, block.attn.window or context) for block in self.blocks)


class RecurrentStack(Config):
    """LSTM or GRU layers, with the dropout on the embeddings."""

    kind: Literal["recurrent"] = "recurrent"
    cell: RecurrentSpec
    dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def max_seq_len(self) -> int | None:
        """None: the state goes on for ever."""
        return None

    def n_parameters(self, d_model: int) -> int:
        return self.cell.n_parameters(d_model)

    def product_flops_per_token(self, d_model: int) -> float:
        widths = [d_model] + [self.cell.d_hidden] * (self.cell.n_layers - 1)
        return sum(2.0 * self.cell.n_gates * self.cell.d_hidden * (width + self.cell.d_hidden) for width in widths)

    def attention_flops_per_token(self, context: int) -> float:
        return 0.0


class LmHead(Config):
    """Scores over the vocabulary."""

    kind: Literal["lm"] = "lm"
    tied: bool  # the weight is the token table's
    bias: bool = False
    scale: float = Field(1.0, gt=0)  # factor on the hidden state


class ModelSpec(Config):
    """A whole model. One of the stacks, or both."""

    embed: EmbedSpec
    encoder: Stack | None = None
    decoder: Annotated[Stack | RecurrentStack, Field(discriminator="kind")] | None = None
    head: LmHead

    @model_validator(mode="after")
    def _fits(self) -> "ModelSpec":
        if self.encoder is not None or self.decoder is None:
            raise ValueError("a model needs a `decoder`; encoders are not built yet, leave `encoder` out.")
        if isinstance(self.decoder, Stack) and not self.decoder.causal:
            raise ValueError("a decoder looks back only: set `decoder.causal` to true.")
        if self.head.tied and isinstance(self.decoder, RecurrentStack) and self.decoder.cell.d_hidden != self.embed.d_model:
            raise ValueError(
                f"a tied head needs `d_hidden` ({self.decoder.cell.d_hidden}) equal to `d_model` ({self.embed.d_model}); untie it."
            )
        return self

    @property
    def kind(self) -> Literal["decoder", "recurrent"]:
        """The control flow that runs it."""
        return "recurrent" if isinstance(self.decoder, RecurrentStack) else "decoder"

    @property
    def vocab_size(self) -> int:
        return self.embed.vocab_size

    @property
    def d_model(self) -> int:
        return self.embed.d_model

    @property
    def n_layers(self) -> int:
        return self.stack.cell.n_layers if isinstance(self.stack, RecurrentStack) else len(self.stack.blocks)

    @property
    def stack(self) -> Stack | RecurrentStack:
        """The stack that predicts."""
        assert self.decoder is not None
        return self.decoder

    @property
    def d_hidden(self) -> int:
        """Width of the hidden state that the head reads."""
        return self.stack.cell.d_hidden if isinstance(self.stack, RecurrentStack) else self.d_model

    @property
    def max_seq_len(self) -> int | None:
        """Tokens the positions were made for; None = unbounded."""
        return self.stack.max_seq_len

    def n_parameters(self) -> int:
        """Trained numbers; a tied head counts once."""
        table = self.vocab_size * self.d_model
        head = (0 if self.head.tied else self.vocab_size * self.d_hidden) + (self.vocab_size if self.head.bias else 0)
        return table + self.stack.n_parameters(self.d_model) + head

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one token's forward pass with `context` keys; training takes three times as many."""
        head = 2.0 * self.vocab_size * self.d_hidden
        return self.stack.product_flops_per_token(self.d_model) + self.stack.attention_flops_per_token(context) + head


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
    if positions not in get_args(Positions):
        raise unknown_name("kind of positions", positions, get_args(Positions))
    width = d_model // n_heads if d_head is None else d_head
    norm_spec = NormSpec(kind=norm, norm_eps=norm_eps)
    in_attention: dict[str, RotaryPositions | AlibiPositions] = {
        "rotary": RotaryPositions(theta=rope_theta, max_seq_len=max_seq_len),
        "alibi": AlibiPositions(max_seq_len=max_seq_len),
    }
    in_table: dict[str, LearnedPositions | SinusoidalPositions] = {
        "learned": LearnedPositions(max_seq_len=max_seq_len),
        "sinusoidal": SinusoidalPositions(max_seq_len=max_seq_len),
    }

    def block(layer: int) -> BlockSpec:
        attn = AttentionSpec(
            n_heads=n_heads,
            n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads,
            d_head=width,
            qkv_bias=bias,
            o_bias=bias,
            position=in_attention.get(positions),
            window=windows[layer] if windows is not None else window,
            qk_norm=norm_spec if qk_norm else None,
            dropout=dropout,
        )
        usual = -(-8 * d_model // 48) * 16 if gated else 4 * d_model
        mlp = MlpSpec(d_ff=usual if d_ff is None else d_ff, activation=activation, gated=gated, bias=bias)
        return BlockSpec(attn=attn, mlp=mlp, norm=norm_spec, norm_place=norm_place, dropout=dropout)

    stack = Stack(
        blocks=tuple(block(layer) for layer in range(n_layers)),
        causal=True,
        position=in_table.get(positions),
        dropout=dropout,
        final_norm=None if norm_place == "post" else norm_spec,
    )
    return ModelSpec(embed=EmbedSpec(vocab_size=vocab_size, d_model=d_model), decoder=stack, head=LmHead(tied=tied))


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


def _product_weights(block: BlockSpec, d_model: int) -> int:
    attn = block.attn
    queries, keys = attn.n_heads * attn.d_head, attn.n_kv_heads * attn.d_head
    return d_model * (2 * queries + 2 * keys) + (3 if block.mlp.gated else 2) * d_model * block.mlp.d_ff
