"""A tiny model folder for the verbs that use one."""

import pytest

from touchstone.models import build, decoder_spec
from touchstone.models.checkpoint import save_model
from touchstone.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A decoder of 32 tokens context with its tokenizer."""
    tokenizer = Tokenizer.train(["a text of some words, and of some other words\n"] * 9, kind="bpe", vocab_size=270)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    spec = decoder_spec(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=4, max_seq_len=32)
    save_model(folder, build(spec, seed=3), tokenizer=tokenizer)
    return folder
