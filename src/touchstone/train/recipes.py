"""Named runs: each a function that returns its whole configuration, and what it takes.

A recipe is a starting point: `touchstone train NAME --data … key=value` changes any field, `--minutes N` its length. Times are for two
cores of a server CPU; sizes are computed from the configuration.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from touchstone.config import unknown_name
from touchstone.text.prepare import TokenizerConfig
from touchstone.train.estimate import estimate
from touchstone.train.model_settings import DecoderSettings, NgramSettings, RecurrentSettings
from touchstone.train.optim import OptimConfig
from touchstone.train.other_recipes import OTHER_RECIPES, Told
from touchstone.train.run_config import RunConfig
from touchstone.train.schedule import ScheduleConfig
from touchstone.train.settings import TrainConfig

__all__ = ["RECIPES", "Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """A configuration with its size, its time on two cores and its memory."""

    config: RunConfig
    minutes: float
    memory_bytes: int
    parameters: int
    about: str


def recipe(name: str) -> Recipe:
    """The recipe of a name; UnknownName lists the near ones and all."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES, hint="Their sizes and times: `touchstone train --list`.")
    return RECIPES[name]()


def quickstart() -> Recipe:
    """A small decoder on the interpreter's own library, of a shape that Hugging Face's Qwen3 class holds: small steps, Muon.

    Of the batches and rates tried, these learned most in the time of a quickstart: docs/results/quickstart.md.
    """
    return _recipe(
        "Three minutes on the source of Python's standard library; needs no data.",
        RunConfig(
            name="quickstart",
            tokenizer=TokenizerConfig(vocab_size=4096, pattern="code"),
            model=DecoderSettings(d_model=160, n_layers=3, n_heads=4, qk_norm=True, norm_eps=1e-6),
            context=128,
            train=TrainConfig(
                n_steps=800,
                batch_size=16,
                eval_every=160,
                save_every=160,
                sample_every=320,
                optim=OptimConfig(kind="muon", learning_rate=1e-2, muon_learning_rate=0.012, weight_decay=0.0),
                schedule=ScheduleConfig(kind="linear", warmup_steps=20),
            ),
        ),
    )


def gpt_small() -> Recipe:
    """GPT-2's shape, small: learned positions, LayerNorm, gelu (Radford et al. 2019)."""
    return _recipe(
        "A small GPT-2 for your own text, in minutes on a laptop.",
        RunConfig(
            name="gpt-small",
            tokenizer=TokenizerConfig(vocab_size=8192),
            model=_gpt2_shape(d_model=256, n_layers=4, n_heads=4),
            context=256,
            train=TrainConfig(
                n_steps=800,
                batch_size=12,
                eval_every=100,
                save_every=100,
                sample_every=200,
                optim=OptimConfig(learning_rate=2e-3),
                schedule=ScheduleConfig(kind="cosine", warmup_steps=50, final_fraction=0.1),
            ),
        ),
    )


def llama_small() -> Recipe:
    """Llama's shape, small: rotary positions, RMSNorm, gated silu, half as many key-value heads (Touvron et al. 2023)."""
    return _recipe(
        "A small Llama for your own text, in minutes on a laptop.",
        RunConfig(
            name="llama-small",
            tokenizer=TokenizerConfig(vocab_size=8192),
            model=DecoderSettings(d_model=256, n_layers=4, n_heads=4, n_kv_heads=2),
            context=256,
            train=TrainConfig(
                n_steps=800,
                batch_size=12,
                eval_every=100,
                save_every=100,
                sample_every=200,
                optim=OptimConfig(kind="muon", learning_rate=2e-3),
                schedule=ScheduleConfig(kind="wsd", warmup_steps=20, decay_fraction=0.3),
            ),
        ),
    )


def lstm_lm() -> Recipe:
    """One LSTM layer, of the quickstart decoder's size and with its optimiser, for comparison (docs/results/quickstart.md)."""
    return _recurrent("lstm-lm", "The baseline before transformers: an LSTM of the quickstart's size.", "lstm")


def gru_lm() -> Recipe:
    """One GRU layer in the LSTM's place."""
    return _recurrent("gru-lm", "Like lstm-lm with three gates for four: a GRU.", "gru")


def ngram() -> Recipe:
    """Interpolated Kneser-Ney of order five (Chen & Goodman 1999)."""
    config = RunConfig(
        name="ngram", tokenizer=TokenizerConfig(vocab_size=4096, pattern="code"), model=NgramSettings(order=5), context=5, train=None
    )
    return Recipe(
        config, minutes=0.1, memory_bytes=1 << 30, parameters=0, about="A 5-gram model, counted in seconds: what every model must beat."
    )


def gpt2_124m() -> Recipe:
    """GPT-2 at its real size, with the optimiser of GPT-3's paper and twenty tokens a parameter (Hoffmann et al. 2022)."""
    return _recipe(
        "GPT-2 at its real size; months on two cores, a day on one large GPU.",
        RunConfig(
            name="gpt2-124m",
            tokenizer=TokenizerConfig(vocab_size=50257),
            model=_gpt2_shape(d_model=768, n_layers=12, n_heads=12),
            context=1024,
            train=TrainConfig(
                n_steps=5000,
                batch_size=480,
                micro_batch_size=1,
                eval_every=250,
                save_every=50,
                sample_every=500,
                optim=OptimConfig(learning_rate=6e-4),
                schedule=ScheduleConfig(kind="cosine", warmup_steps=250, final_fraction=0.1),
            ),
        ),
    )


def _told(make: Callable[[], Told]) -> Recipe:
    """A recipe of other_recipes.py with what it takes."""
    return _recipe(*make())


RECIPES: dict[str, Callable[[], Recipe]] = {
    "quickstart": quickstart,
    "gpt-small": gpt_small,
    "llama-small": llama_small,
    "lstm-lm": lstm_lm,
    "gru-lm": gru_lm,
    "ngram": ngram,
    "gpt2-124m": gpt2_124m,
    **{name: functools.partial(_told, told) for name, told in OTHER_RECIPES.items()},
}
"""Each name with the function that makes it."""


def _gpt2_shape(*, d_model: int, n_layers: int, n_heads: int) -> DecoderSettings:
    return DecoderSettings(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        activation="gelu_tanh",
        gated=False,
        bias=True,
        norm="layer",
        positions="learned",
    )


def _recurrent(name: str, about: str, cell: Literal["lstm", "gru"]) -> Recipe:
    return _recipe(
        about,
        RunConfig(
            name=name,
            tokenizer=TokenizerConfig(vocab_size=4096, pattern="code"),
            model=RecurrentSettings(cell=cell, d_model=224, d_hidden=224, tied=False),
            context=128,
            train=TrainConfig(
                n_steps=1500,
                batch_size=8,
                eval_every=250,
                save_every=250,
                sample_every=500,
                optim=OptimConfig(kind="muon", learning_rate=1e-2, embedding_learning_rate=3e-2, muon_learning_rate=0.02, weight_decay=0.0),
                schedule=ScheduleConfig(kind="linear", warmup_steps=20),
            ),
        ),
    )


def _recipe(about: str, config: RunConfig) -> Recipe:
    assert config.tokenizer.vocab_size is not None
    taken = estimate(config, config.tokenizer.vocab_size)
    return Recipe(config, taken.minutes, taken.memory_bytes, taken.n_parameters, about)
