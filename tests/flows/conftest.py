"""A tiny trained-looking model folder and a terminal whose output can be read."""

import io

import pytest
from rich.console import Console

from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import save_model
from touchstone.report.terminal import Terminal
from touchstone.text.tokenizer import Tokenizer

LINES = [f"def add_{name}(left, right):\n    return left + {name} * right\n" for name in ("one", "two", "three", "four")]


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(LINES * 5, kind="bpe", vocab_size=280, pattern="code")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """A decoder of 32 tokens context with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=32)
    save_model(folder, build(spec, seed=3), tokenizer=tokenizer)
    return folder


@pytest.fixture
def shown():
    """(terminal, text): a terminal, and what it has shown so far."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=200, highlight=False, markup=False, emoji=False)
    return Terminal(out=console, err=console), buffer.getvalue
