"""Recipes beside the language models': encoders, encoder-decoders and models that label; `recipes.py` names them all.

Each learns from files of the user (`--data`): text for the first three, rows with answers for the others.
"""

from collections.abc import Callable
from typing import NamedTuple

from touchstone.text.prepare import DataConfig, TokenizerConfig
from touchstone.train.model_settings import (
    BagSettings,
    EncoderDecoderSettings,
    EncoderSettings,
    ModelSettings,
    RecurrentEncoderSettings,
    RecurrentSeq2SeqSettings,
)
from touchstone.train.objective_config import (
    ClassifyConfig,
    DenoisingConfig,
    MaskedLmConfig,
    Seq2SeqConfig,
    SpanConfig,
    SpanCorruptionConfig,
    TagConfig,
)
from touchstone.train.optim import OptimConfig
from touchstone.train.run_config import RunConfig
from touchstone.train.schedule import ScheduleConfig
from touchstone.train.settings import TrainConfig

__all__ = ["OTHER_RECIPES", "Told"]

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BART_SPECIALS = ("<s>", "<pad>", "</s>", "<mask>")
T5_SPECIALS = ("<pad>", "</s>", *(f"<extra_id_{n}>" for n in range(100)))
PAIR_SPECIALS = ("<pad>", "</s>")


class Told(NamedTuple):
    """A configuration, and a sentence about it."""

    about: str
    config: RunConfig


def bert_small() -> Told:
    """BERT's shape, small (Devlin et al. 2019): post-norm, learned positions, two token types."""
    return Told(
        "A small BERT for your own text: restores hidden tokens, to be finetuned afterwards.",
        RunConfig(
            name="bert-small",
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=8192, specials=BERT_SPECIALS),
            model=EncoderSettings(d_model=256, n_layers=4, n_heads=4),
            context=128,
            objective=MaskedLmConfig(),
            train=_train(n_steps=1500, batch_size=24, learning_rate=1e-3),
        ),
    )


def t5_small() -> Told:
    """T5's shape, smaller than its smallest (Raffel et al. 2020): distances for positions, RMSNorm before each sublayer, no biases."""
    return Told(
        "A small T5 for your own text: writes the spans that were hidden, to be finetuned afterwards.",
        RunConfig(
            name="t5-small",
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=8192, specials=T5_SPECIALS),
            model=EncoderDecoderSettings(
                d_model=256,
                n_heads=4,
                n_encoder_layers=3,
                n_decoder_layers=3,
                bias=False,
                norm="rms",
                norm_eps=1e-6,
                norm_place="pre",
                positions="relative",
                attention_scale=1.0,
                head_scale=256**-0.5,
            ),
            context=128,
            objective=SpanCorruptionConfig(),
            train=_train(n_steps=1500, batch_size=24, learning_rate=2e-3),
        ),
    )


def bart_small() -> Told:
    """BART's shape, small (Lewis et al. 2020): post-norm, learned positions, a norm on the embeddings."""
    return Told(
        "A small BART for your own text: writes a text again that it read with noise, to be finetuned afterwards.",
        RunConfig(
            name="bart-small",
            tokenizer=TokenizerConfig(vocab_size=8192, specials=BART_SPECIALS),
            model=EncoderDecoderSettings(
                d_model=256,
                n_heads=4,
                n_encoder_layers=3,
                n_decoder_layers=3,
                activation="gelu",
                positions="learned",
                position_offset=2,
                input_norm=True,
                head_bias=True,
            ),
            context=128,
            objective=DenoisingConfig(),
            train=_train(n_steps=1500, batch_size=16, learning_rate=1e-3),
        ),
    )


def transformer_base() -> Told:
    """The base model of Vaswani et al. 2017 in its own shape, for tens of thousands of pairs instead of millions.

    Muon, since with it three passes over eight thousand pairs reached the loss that AdamW was far from after five.
    """
    return Told(
        "The original Transformer at its base size, for pairs such as sentences and their translations.",
        RunConfig(
            name="transformer-base",
            tokenizer=TokenizerConfig(vocab_size=8192, specials=PAIR_SPECIALS),
            model=EncoderDecoderSettings(d_model=512, n_heads=8, n_encoder_layers=6, n_decoder_layers=6, dropout=0.1),
            context=64,
            objective=Seq2SeqConfig(),
            train=_train(
                n_steps=1000,
                batch_size=64,
                micro_batch_size=32,
                warmup_fraction=0.1,
                writes=True,
                optim=OptimConfig(kind="muon", learning_rate=1e-3, muon_learning_rate=0.01, weight_decay=0.0),
            ),
        ),
    )


def lstm_attention() -> Told:
    """An LSTM that reads, an LSTM that writes, and attention between them (Bahdanau et al. 2015).

    Muon, since AdamW stayed at the entropy of single words for the first two passes over eight thousand pairs.
    """
    return Told(
        "Sequence to sequence before transformers: two LSTMs with additive attention.",
        RunConfig(
            name="lstm-attention",
            tokenizer=TokenizerConfig(vocab_size=8192, specials=PAIR_SPECIALS),
            model=RecurrentSeq2SeqSettings(d_model=256, d_hidden=256, dropout=0.3),
            context=64,
            objective=Seq2SeqConfig(),
            train=_train(
                n_steps=3000,
                batch_size=64,
                micro_batch_size=32,
                writes=True,
                optim=OptimConfig(kind="muon", learning_rate=1e-2, muon_learning_rate=0.02, weight_decay=0.0),
            ),
        ),
    )


def classify_bow() -> Told:
    """A bag of words: the mean of the tokens' vectors and one product (Iyyer et al. 2015 §2)."""
    return _classifier("bow", "The baseline of every classifier: a bag of words.", BagSettings(d_model=64, dropout=0.3), learning_rate=1e-2)


def classify_lstm() -> Told:
    """An LSTM both ways, with the maximum over the tokens (Conneau et al. 2017)."""
    model = RecurrentEncoderSettings(d_model=128, d_hidden=128, dropout=0.3)
    return _classifier("lstm", "A classifier that reads in order: an LSTM both ways.", model, learning_rate=2e-3)


def classify_transformer() -> Told:
    """BERT's shape, very small, from scratch."""
    model = EncoderSettings(d_model=128, n_layers=2, n_heads=4, dropout=0.1)
    return _classifier("transformer", "A classifier with attention: two layers of BERT's shape, from scratch.", model, learning_rate=5e-4)


def tag_small() -> Told:
    """An LSTM both ways with a score for each tag (Lample et al. 2016 without the last layer)."""
    return Told(
        "Tags each word, for files in columns such as CoNLL's: an LSTM both ways.",
        RunConfig(
            name="tag-small",
            data=_YOURS,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=4096, specials=BERT_SPECIALS),
            model=RecurrentEncoderSettings(d_model=128, d_hidden=128, dropout=0.3),
            context=96,
            objective=TagConfig(),
            train=_train(n_steps=1000, batch_size=32, learning_rate=2e-3),
        ),
    )


def span_small() -> Told:
    """BERT's shape, small, with its head for answers (Devlin et al. 2019 §4.2)."""
    return Told(
        "Finds answers in a text, for files in SQuAD's format; from scratch it learns little: start from a trained encoder.",
        RunConfig(
            name="span-small",
            data=_YOURS,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=4096, specials=BERT_SPECIALS),
            model=EncoderSettings(d_model=128, n_layers=3, n_heads=4, dropout=0.1),
            context=256,
            objective=SpanConfig(),
            train=_train(n_steps=800, batch_size=16, learning_rate=5e-4),
        ),
    )


OTHER_RECIPES: dict[str, Callable[[], Told]] = {
    "bert-small": bert_small,
    "t5-small": t5_small,
    "bart-small": bart_small,
    "transformer-base": transformer_base,
    "lstm-attention": lstm_attention,
    "classify-bow": classify_bow,
    "classify-lstm": classify_lstm,
    "classify-transformer": classify_transformer,
    "tag-small": tag_small,
    "span-small": span_small,
}
"""Each name with the function that makes it."""

_YOURS = DataConfig(corpus="python", valid_fraction=0.1, test_fraction=0.1)  # `--data` takes its place; rows are few: more are held out


def _classifier(name: str, about: str, model: ModelSettings, *, learning_rate: float) -> Told:
    return Told(
        about,
        RunConfig(
            name=f"classify-{name}",
            data=_YOURS,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=4096, specials=BERT_SPECIALS),
            model=model,
            context=128,
            objective=ClassifyConfig(),
            train=_train(n_steps=600, batch_size=32, learning_rate=learning_rate, patience=5),
        ),
    )


def _train(
    *,
    n_steps: int,
    batch_size: int,
    micro_batch_size: int | None = None,
    learning_rate: float = 1e-3,
    warmup_fraction: float = 0.05,
    patience: int | None = None,
    writes: bool = False,
    optim: OptimConfig | None = None,
) -> TrainConfig:
    """AdamW unless told otherwise, linear to zero after the warm-up; ten evaluations, and as often what it writes.

    micro_batch_size: rows of like length share one, so pairs in small ones carry a third less padding.
    """
    return TrainConfig(
        n_steps=n_steps,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        eval_every=n_steps // 10,
        sample_every=n_steps // 10 if writes else None,
        save_every=n_steps // 10,
        optim=optim or OptimConfig(learning_rate=learning_rate),
        schedule=ScheduleConfig(kind="linear", warmup_fraction=warmup_fraction),
        early_stopping_patience=patience,
    )
