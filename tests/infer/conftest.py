"""A tokenizer whose pieces a test can read, and networks whose next token is not always the same."""

import pytest
import torch

from touchstone.models import build, decoder_spec, recurrent_spec
from touchstone.text.tokenizer import Tokenizer

PIECES = ("<e>", "a", "b", "c", "ab", "bc", "abc", " ", "d", "x y", "\n")
VOCAB = len(PIECES)


class Pieces(Tokenizer):
    """A tokenizer of eleven pieces, the longest one first while encoding; token 0 ends a text and has no text."""

    vocab_size = VOCAB
    is_byte_level = True
    bos_id = None
    eos_id = 0
    prefix_ids = ()

    def __init__(self):
        pass

    def encode(self, text):
        ids = []
        while text:
            id = max((i for i in range(1, VOCAB) if text.startswith(PIECES[i])), key=lambda i: len(PIECES[i]))
            ids.append(id)
            text = text[len(PIECES[id]) :]
        return ids

    def decode(self, ids):
        return "".join("" if id == 0 else PIECES[id] for id in ids)

    def stream_decoder(self):
        return _Decoder(self)


class _Decoder:
    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def push(self, token_id):
        return self._tokenizer.decode([token_id])

    def finish(self):
        return ""


def sharpened(spec, seed=0):
    """A network in eval mode whose matrices are enlarged, so that contexts matter and probabilities differ."""
    net = build(spec, seed=seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return net.eval()


def decoder(positions="rotary", *, n_kv_heads=4, window=None, max_seq_len=24, seed=0):
    return sharpened(
        decoder_spec(
            vocab_size=VOCAB,
            d_model=24,
            n_layers=2,
            n_heads=4,
            n_kv_heads=n_kv_heads,
            max_seq_len=max_seq_len,
            positions=positions,
            window=window,
            qk_norm=window is not None,
        ),
        seed,
    )


def recurrent(cell="lstm", seed=0):
    return sharpened(recurrent_spec(vocab_size=VOCAB, d_model=12, d_hidden=10, cell=cell, n_layers=2), seed)


NETS = {
    "learned": lambda: decoder("learned"),
    "sinusoidal": lambda: decoder("sinusoidal"),
    "rotary": lambda: decoder("rotary"),
    "alibi": lambda: decoder("alibi"),
    "no positions": lambda: decoder("none"),
    "grouped queries": lambda: decoder("rotary", n_kv_heads=2),
    "window": lambda: decoder("rotary", window=3),
    "alibi, grouped, window": lambda: decoder("alibi", n_kv_heads=1, window=4),
    "lstm": lambda: recurrent("lstm"),
    "gru": lambda: recurrent("gru"),
}


@pytest.fixture(params=NETS)
def any_net(request):
    return NETS[request.param]()


@pytest.fixture
def net():
    return decoder()


@pytest.fixture
def pieces():
    return Pieces()
