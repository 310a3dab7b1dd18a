"""What a model is: an embedding, an encoder stack, a decoder stack or both, a head - frozen, checked, and with its sizes derived.

`ModelSpec` only composes the sub-specs that live beside their parts in `nn/`. Impossible combinations are rejected when the spec is
made. A multiply and an add count as two floating-point operations.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from touchstone.config import Config, parse
from touchstone.models.heads import Head, LmHead
from touchstone.nn.attention import AttentionSpec, whole_source
from touchstone.nn.block import BlockSpec
from touchstone.nn.experts import ExpertsSpec
from touchstone.nn.norm import NormSpec
from touchstone.nn.position import LearnedPositions, RelativePositions, SinusoidalPositions
from touchstone.nn.recurrent import RecurrentSpec

__all__ = ["EmbedSpec", "ModelKind", "ModelSpec", "RecurrentStack", "Stack"]

ModelKind = Literal["decoder", "encoder", "encoder-decoder", "recurrent", "recurrent-encoder", "recurrent-encoder-decoder"]


class EmbedSpec(Config):
    """The token table."""

    vocab_size: int = Field(gt=0)
    d_model: int = Field(gt=0)
    scale: float = Field(1.0, gt=0)  # factor on the looked-up vectors
    n_token_types: int = Field(0, ge=0)  # kinds of token, such as first and second text; each has a vector that is added

    def n_parameters(self) -> int:
        return (self.vocab_size + self.n_token_types) * self.d_model


class Stack(Config):
    """Attention blocks one above the other, with what comes before the first and after the last."""

    kind: Literal["attention"] = "attention"
    blocks: tuple[BlockSpec, ...]  # none: the embeddings as they are
    causal: bool
    position: Annotated[LearnedPositions | SinusoidalPositions, Field(discriminator="kind")] | None = None
    input_norm: NormSpec | None = None
    dropout: float = Field(0.0, ge=0, lt=1)  # on the embeddings
    final_norm: NormSpec | None = None
    final_dropout: float = Field(0.0, ge=0, lt=1)  # on the last hidden states

    @model_validator(mode="after")
    def _fits(self) -> "Stack":
        if len({block.cross is None for block in self.blocks}) > 1:
            raise ValueError("`cross` must be given for all blocks of a stack or for none.")
        if len({block.mlp.n_experts for block in self.blocks if isinstance(block.mlp, ExpertsSpec)}) > 1:
            raise ValueError("`n_experts` must be the same in all layers that have experts: their balance is measured together.")
        return self

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
        bounds = [p.max_seq_len for p in positions if p is not None and not isinstance(p, RelativePositions)]
        return min(bounds) if bounds else None

    def n_parameters(self, d_model: int) -> int:
        table = (self.position.max_seq_len + self.position.offset) * d_model if isinstance(self.position, LearnedPositions) else 0
        norms = sum(norm.n_parameters(d_model) for norm in (self.input_norm, self.final_norm) if norm)
        distances = sum(position.n_buckets * n_heads for position, n_heads in self.relative_tables())
        return table + norms + distances + sum(block.n_parameters(d_model) for block in self.blocks)

    def relative_tables(self) -> dict[tuple[RelativePositions, int], None]:
        """The tables of relative positions that the layers share: the spec of each, and its number of heads."""
        attentions = [block.attn for block in self.blocks]
        return dict.fromkeys((a.position, a.n_heads) for a in attentions if isinstance(a.position, RelativePositions))

    @property
    def looks_at_source(self) -> bool:
        """True if its layers have cross-attention."""
        return any(block.cross is not None for block in self.blocks)

    def product_flops_per_token(self, d_model: int) -> float:
        """Of the weight products of all blocks; the source's keys and values are counted with every token."""
        return sum((2.0 * _product_weights(block, d_model) for block in self.blocks), 0.0)

    def attention_flops_per_token(self, context: int) -> float:
        """Scores and mixing, with every token meeting `context` keys on either side (the whole square, as the field counts it)."""
        attentions = [attn for block in self.blocks for attn in (block.attn, block.cross) if attn is not None]
        return sum((4.0 * attn.n_heads * attn.d_head * min(context, attn.window or context) for attn in attentions), 0.0)


class RecurrentStack(Config):
    """LSTM or GRU layers, with the dropout on the embeddings.

    cross: attention to a source, asked by the hidden state of each step (rnn.py has the equation).
    """

    kind: Literal["recurrent"] = "recurrent"
    cell: RecurrentSpec
    cross: AttentionSpec | None = None
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("cross")
    @classmethod
    def _looks_at_all(cls, cross: AttentionSpec | None) -> AttentionSpec | None:
        return whole_source(cross)

    @property
    def max_seq_len(self) -> int | None:
        """None: the state goes on for ever."""
        return None

    @property
    def looks_at_source(self) -> bool:
        """True if it has attention to a source."""
        return self.cross is not None

    @property
    def d_out(self) -> int:
        """Width of its hidden states: twice that of the cell if it is read both ways."""
        return self.cell.d_out

    def n_parameters(self, d_model: int) -> int:
        return self.cell.n_parameters(d_model)

    def product_flops_per_token(self, d_model: int) -> float:
        return 2.0 * self.cell.product_weights(d_model)

    def attention_flops_per_token(self, context: int) -> float:
        return 0.0


AnyStack = Annotated[Stack | RecurrentStack, Field(discriminator="kind")]


class ModelSpec(Config):
    """A whole model. One of the stacks, or both; a model without a head gives its hidden states."""

    embed: EmbedSpec
    encoder: AnyStack | None = None
    decoder: AnyStack | None = None
    head: Head | None

    @model_validator(mode="after")
    def _fits(self) -> "ModelSpec":
        encoder, decoder = self.encoder, self.decoder
        if encoder is None and decoder is None:
            raise ValueError("a model needs an `encoder`, a `decoder` or both.")
        if isinstance(decoder, Stack) and not decoder.blocks:
            raise ValueError("`decoder.blocks` is empty: a decoder has one at least; a bag of words is an encoder.")
        if isinstance(decoder, Stack) and not decoder.causal:
            raise ValueError("a decoder looks back only: set `decoder.causal` to true.")
        if isinstance(encoder, Stack) and (encoder.causal or encoder.looks_at_source):
            raise ValueError("an encoder looks both ways and at itself: set `encoder.causal` to false, and leave `cross` out.")
        if encoder is not None and decoder is not None and type(encoder) is not type(decoder):
            raise ValueError("`encoder` and `decoder` must be of one kind: attention with attention, recurrent with recurrent.")
        if decoder is not None and decoder.looks_at_source != (encoder is not None):
            raise ValueError("a decoder has `cross` attention exactly where there is an `encoder` to look at.")
        if isinstance(decoder, RecurrentStack) and decoder.cell.both_ways:
            raise ValueError("a decoder reads forward: set `decoder.cell.both_ways` to false.")
        if isinstance(self.head, LmHead) and self.head.tied and self.d_hidden != self.embed.d_model:
            raise ValueError(f"a tied head needs hidden states ({self.d_hidden}) of the width `d_model` ({self.embed.d_model}); untie it.")
        return self

    @property
    def kind(self) -> ModelKind:
        """The control flow that runs it."""
        recurrent = isinstance(self.stack, RecurrentStack)
        if self.encoder is None:
            return "recurrent" if recurrent else "decoder"
        if self.decoder is None:
            return "recurrent-encoder" if recurrent else "encoder"
        return "recurrent-encoder-decoder" if recurrent else "encoder-decoder"

    @property
    def predicts_tokens(self) -> bool:
        """True if it can be asked for the next token: a decoder with scores over the vocabulary."""
        return self.decoder is not None and isinstance(self.head, LmHead)

    @property
    def vocab_size(self) -> int:
        return self.embed.vocab_size

    @property
    def d_model(self) -> int:
        return self.embed.d_model

    @property
    def n_layers(self) -> int:
        """Of the stack that answers."""
        return self.stack.cell.n_layers if isinstance(self.stack, RecurrentStack) else len(self.stack.blocks)

    @property
    def stack(self) -> Stack | RecurrentStack:
        """The stack that answers: the decoder where there is one, else the encoder."""
        stack = self.decoder if self.decoder is not None else self.encoder
        assert stack is not None
        return stack

    @property
    def stacks(self) -> dict[str, Stack | RecurrentStack]:
        """All there are, by the name of their module."""
        both = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in both.items() if stack is not None}

    @property
    def d_hidden(self) -> int:
        """Width of the hidden state that the head reads."""
        return self.stack.d_out if isinstance(self.stack, RecurrentStack) else self.d_model

    @property
    def max_seq_len(self) -> int | None:
        """Tokens the positions of the stack that answers were made for; None = unbounded."""
        return self.stack.max_seq_len

    @property
    def max_source_len(self) -> int | None:
        """Tokens of a source that the encoder was made for; None = unbounded, or no encoder."""
        return self.encoder.max_seq_len if self.encoder is not None else None

    def n_parameters(self) -> int:
        """Trained numbers; a tied head counts once."""
        stacks = sum(stack.n_parameters(self.d_model) for stack in self.stacks.values()) + self.n_between()
        return self.embed.n_parameters() + stacks + (self.head.n_parameters(self.d_hidden, self.vocab_size) if self.head else 0)

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one token's forward pass with `context` keys; training takes three times as many.

        With a source, of one token on each side.
        """
        stacks = self.stacks.values()
        products = sum(stack.product_flops_per_token(self.d_model) + stack.attention_flops_per_token(context) for stack in stacks)
        return products + (self.head.flops(self.d_hidden, self.vocab_size) if self.head else 0.0)

    def n_between(self) -> int:
        """Of a recurrent decoder's attention and of what makes its first state of the encoder's last."""
        if not (isinstance(self.decoder, RecurrentStack) and isinstance(self.encoder, RecurrentStack)):
            return 0
        cell, cross, d_source = self.decoder.cell, self.decoder.cross, self.encoder.d_out
        assert cross is not None
        attention = cross.n_parameters(cell.d_hidden, d_keys=d_source)
        return attention + cell.d_hidden**2 + cell.n_states * cell.n_layers * (d_source + 1) * cell.d_hidden


def _product_weights(block: BlockSpec, d_model: int) -> int:
    attentions = [attn for attn in (block.attn, block.cross) if attn is not None]
    projections = sum(2 * d_model * attn.d_head * (attn.n_heads + attn.n_kv_heads) for attn in attentions)
    return projections + block.mlp.product_weights(d_model)
